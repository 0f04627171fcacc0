//! What commands print: tables for people, JSON for programs.

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON value for programs.
    Json,
}

/// Writes a line to standard output. A reader that went away, as `head` does,
/// ends the program without noise.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("write to standard output"),
    }
}

/// Writes a line to standard error: progress and notes, never results.
pub(crate) fn note(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

impl Format {
    /// Prints rows under headings, or `json`.
    pub(crate) fn rows(
        self,
        headings: &[&str],
        rows: Vec<Vec<String>>,
        json: &Value,
    ) -> Result<()> {
        match self {
            Self::Json => Self::json(json),
            Self::Table => line(&table(headings, rows)),
        }
    }

    /// Prints a sentence, or `json`.
    pub(crate) fn sentence(self, text: &str, json: &Value) -> Result<()> {
        match self {
            Self::Json => Self::json(json),
            Self::Table => line(text),
        }
    }

    /// Prints one object as two columns, or `json`.
    pub(crate) fn fields(self, fields: &[(&str, String)], json: &Value) -> Result<()> {
        match self {
            Self::Json => Self::json(json),
            Self::Table => {
                let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
                for (name, value) in fields {
                    line(&format!("{name:width$}  {value}"))?;
                }
                Ok(())
            }
        }
    }

    /// Prints a JSON value on one line.
    fn json(value: &Value) -> Result<()> {
        line(&serde_json::to_string(value).context("encode the result as JSON")?)
    }
}

fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Bytes as a person reads them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A hash or an id as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// A time of the log as RFC 3339 in UTC, to the second.
pub(crate) fn time(ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_by_people() {
        let check = |count, expected: &str| assert_eq!(bytes(count), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1536 * 1024, "1.5 MiB");
    }

    #[test]
    fn a_time_is_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
    }
}
