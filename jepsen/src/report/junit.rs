//! Results for programs that collect test results.

use super::markup::{cut, escape};
use super::summary::Row;
use crate::check::{Finding, Verdict};

/// Runs as test results in XML: a suite for each run, a case for each
/// checker. What could not be told is an error, not a success.
pub fn junit(runs: &[(Row, Vec<Verdict>)]) -> String {
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for (row, verdicts) in runs {
        let failures = verdicts.iter().filter(|verdict| verdict.is_violation()).count();
        let errors = verdicts.iter().filter(|verdict| verdict.is_unknown()).count();
        out += &format!(
            "<testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" \
             time=\"{:.3}\">\n",
            escape(&row.name),
            verdicts.len(),
            row.seconds
        );
        for verdict in verdicts {
            out += &format!(
                "<testcase classname=\"{}\" name=\"{}\">",
                escape(&row.name),
                escape(&verdict.checker)
            );
            let text = escape(&cut(&verdict.to_string(), 20_000));
            match &verdict.finding {
                Finding::Valid => {}
                Finding::Violation(_) => {
                    out += &format!("<failure message=\"violation\">{text}</failure>");
                }
                Finding::Unknown(why) => {
                    let why = escape(&cut(why, 1_000));
                    out += &format!("<error message=\"{why}\">{text}</error>");
                }
            }
            out += "</testcase>\n";
        }
        out += "</testsuite>\n";
    }
    out + "</testsuites>\n"
}
