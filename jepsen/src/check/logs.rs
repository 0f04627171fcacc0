//! The nodes' logs: no panic, no damage that went on, no secret (V6).
//!
//! Lines are searched for the marks of a panic and for the canaries of the run:
//! texts that it planted as values, keys and secrets. What is found is named by
//! its number and place, never repeated. A log that cannot be read leaves the
//! verdict unknown.

use super::{Case, Context, Verdict};
use crate::history::History;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};

/// The checker's name.
pub const NAME: &str = "logs";

/// Bytes of one line that are searched.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Marks of a process that failed in a way that nobody planned.
const MARKS: [&str; 5] = [
    "panicked at",
    "stack backtrace:",
    "has overflowed its stack",
    "memory allocation of",
    "internal error: entered unreachable code",
];

/// Judges the logs that the context names.
pub fn check(_history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let mut read = 0;
    for log in &context.logs {
        case.judged.operations += 1;
        let searched = File::open(&log.path)
            .and_then(|file| search(BufReader::new(file), log.node, context, &mut case));
        match searched {
            Ok(lines) => {
                read += lines;
                if lines == 0 {
                    case.unknown(format!("the log of node {} is empty", log.node));
                }
            }
            Err(error) => case.unknown(format!("the log of node {}: {error}", log.node)),
        }
    }
    case.judged.events = read;
    case.judged.keys = context.canaries.len() as u64;
    if context.canaries.is_empty() {
        case.note("no canary was planted, so that secrets were not searched for");
    }
    case.close("line in the nodes' logs", read)
}

fn search(
    mut lines: impl BufRead,
    node: u64,
    context: &Context,
    case: &mut Case,
) -> io::Result<u64> {
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        let taken = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if taken == 0 {
            return Ok(number);
        }
        number += 1;
        let text = String::from_utf8_lossy(&line);
        if let Some(mark) = MARKS.iter().find(|mark| text.contains(**mark)) {
            case.violation("V6", Vec::new(), format!("node {node}, line {number}: {mark:?}"));
        }
        let leaks = context.canaries.iter().enumerate();
        for (place, _) in leaks.filter(|(_, canary)| text.contains(canary.as_str())) {
            let text = format!("node {node}, line {number}: has canary {place}, which is a secret");
            case.violation("V6", Vec::new(), text);
        }
    }
}
