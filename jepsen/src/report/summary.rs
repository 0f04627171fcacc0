//! A table over many runs.

use super::Run;
use super::markup::{escape, frame, word};
use super::plot::seconds;
use crate::check::liveness::{Gap, write_gaps};
use crate::history::History;
use serde::{Deserialize, Serialize};

/// One run in a summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The run's name, which is that of its directory.
    pub name: String,
    /// What clients did.
    pub workload: String,
    /// What was broken.
    pub nemesis: String,
    /// The seed.
    pub seed: u64,
    /// `valid`, `violation` or `unknown`.
    pub word: String,
    /// Operations of clients.
    pub operations: u64,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// The longest time without a successful write, in milliseconds.
    pub gap_ms: u64,
    /// What is not valid, and what was skipped.
    pub remarks: Vec<String>,
}

impl Row {
    /// A run in one line.
    pub fn of(run: &Run, history: &History) -> Self {
        let longest = write_gaps(history).iter().map(Gap::length).max().unwrap_or(0);
        let mut remarks: Vec<String> = run
            .verdicts
            .iter()
            .filter(|verdict| !verdict.is_valid())
            .map(|verdict| format!("{} {}", verdict.checker, verdict.word()))
            .collect();
        remarks.extend(run.troubles.iter().map(|trouble| format!("trouble: {trouble}")));
        remarks.extend(run.skipped.iter().map(|skipped| format!("skipped: {skipped}")));
        Self {
            name: run.name.clone(),
            workload: run.workload.clone(),
            nemesis: run.nemesis.clone(),
            seed: run.seed,
            word: run.word().to_owned(),
            operations: history.operations().len() as u64,
            seconds: seconds(history.end()),
            gap_ms: longest / 1_000_000,
            remarks,
        }
    }
}

/// How many runs there are of each word.
fn counts(rows: &[Row]) -> String {
    let of = |word: &str| rows.iter().filter(|row| row.word == word).count();
    format!(
        "{} runs: {} valid, {} violations, {} unknown; {} operations",
        rows.len(),
        of("valid"),
        of("violation"),
        of("unknown"),
        rows.iter().map(|row| row.operations).sum::<u64>()
    )
}

/// The table as an HTML page, with a link to the page of each run, which is
/// expected in a directory of its name.
pub fn summary_page(title: &str, rows: &[Row]) -> String {
    let mut body = format!(
        "<h1>{}</h1>\n<p>{}</p>\n<table><tr><th>run</th><th></th><th>seed</th><th>operations</th>\
         <th>length</th><th>longest gap</th><th>remarks</th></tr>\n",
        escape(title),
        escape(&counts(rows))
    );
    for row in rows {
        let remarks: Vec<String> = row.remarks.iter().map(|remark| escape(remark)).collect();
        body += &format!(
            "<tr><td><a href=\"{}/report.html\">{}</a></td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{:.1} s</td><td>{} ms</td><td>{}</td></tr>\n",
            link(&row.name),
            escape(&row.name),
            word(&row.word),
            row.seed,
            row.operations,
            row.seconds,
            row.gap_ms,
            remarks.join("<br>")
        );
    }
    frame(title, &(body + "</table>\n"))
}

/// A directory's name as a relative link: no scheme, no way out.
fn link(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let safe: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    format!("./{}", safe.trim_start_matches('.'))
}

/// The table as plain text.
pub fn summary_text(rows: &[Row]) -> String {
    let widest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(3).max(3);
    let mut out = format!(
        "{:<widest$}  {:<9}  {:>10}  {:>8}  {:>8}  remarks\n",
        "run", "verdict", "operations", "length", "gap"
    );
    for row in rows {
        let plain: String =
            row.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let remarks = row.remarks.join("; ").replace(char::is_control, " ");
        out += &format!(
            "{plain:<widest$}  {:<9}  {:>10}  {:>6.1} s  {:>5} ms  {remarks}\n",
            row.word, row.operations, row.seconds, row.gap_ms
        );
    }
    out + &counts(rows) + "\n"
}
