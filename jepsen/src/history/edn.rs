//! EDN, the notation that Jepsen's own tools read.
//!
//! A translation of the JSON form, value by value: objects become maps with
//! keywords for keys, `type`, `f` and the process `nemesis` become keywords.

use super::Event;
use serde_json::Value;
use std::io::{self, Write};

/// Fields whose text is a keyword in EDN.
const KEYWORDS: [&str; 2] = ["type", "f"];

/// Writes events as EDN, one map a line.
///
/// # Errors
///
/// If writing fails.
pub fn write_edn(events: &[Event], out: &mut impl Write) -> io::Result<()> {
    let mut line = String::new();
    for event in events {
        line.clear();
        value(&serde_json::to_value(event)?, &mut line);
        line.push('\n');
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

fn value(json: &Value, out: &mut String) {
    match json {
        Value::Null => out.push_str("nil"),
        Value::Bool(_) | Value::Number(_) => out.push_str(&json.to_string()),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(' ');
                }
                value(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (place, (name, field)) in fields.iter().enumerate() {
                if place > 0 {
                    out.push_str(", ");
                }
                key(name, out);
                out.push(' ');
                match field {
                    Value::String(word) if is_keyword(name, word) => {
                        out.push(':');
                        out.push_str(word);
                    }
                    field => value(field, out),
                }
            }
            out.push('}');
        }
    }
}

/// Names of fields are keywords; other names, such as sections of a document,
/// may have letters that a keyword cannot have.
fn key(name: &str, out: &mut String) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(plain) {
        out.push(':');
        out.push_str(name);
    } else {
        string(name, out);
    }
}

fn is_keyword(name: &str, word: &str) -> bool {
    (KEYWORDS.contains(&name) || (name == "process" && word == "nemesis"))
        && !word.is_empty()
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}
