//! The page of one run.

use super::Run;
use super::lanes::lanes;
use super::markup::{cut, escape, frame, word};
use super::plot::{Band, bands, latencies, rates, seconds};
use crate::check::liveness::{Gap, write_gaps};
use crate::check::{Finding, Verdict, Violation, by_name};
use crate::history::{FaultPhase, History, Outcome};

/// Violations whose surroundings are drawn.
const ZOOMS_MAX: usize = 5;
/// Events of a violation that are printed.
const EVENTS_MAX: usize = 12;
/// Characters of an event that are printed.
const EVENT_CHARS_MAX: usize = 4_000;

/// The report of a run as one HTML page.
pub fn page(run: &Run, history: &History) -> String {
    let bands = bands(history);
    let mut body = head(run, history);
    body += "<h2>Verdicts</h2>\n";
    body += &verdicts(&run.verdicts);
    body += &zooms(run, history, &bands);
    body += "<h2>Latency</h2>\n<p><small>Each point is an operation: blue succeeded, orange failed \
             for certain, red is unknown. Bands are faults.</small></p>\n";
    body += &latencies(history, &bands);
    body += "<h2>Rate</h2>\n";
    body += &rates(history, &bands);
    body += "<h2>Timeline</h2>\n";
    let from = history.events().first().map_or(0, |event| event.time);
    body += &lanes(history, &bands, (from, history.end()), &[]);
    body += &faults(history);
    frame(&format!("{}: {}", run.name, run.word()), &body)
}

fn head(run: &Run, history: &History) -> String {
    let operations = history.operations();
    let ended = |outcome| operations.iter().filter(|op| op.outcome() == outcome).count();
    let longest = write_gaps(history).iter().map(Gap::length).max().unwrap_or(0);
    let mut facts = vec![
        ("workload".to_owned(), run.workload.clone()),
        ("nemesis".to_owned(), run.nemesis.clone()),
        ("seed".to_owned(), run.seed.to_string()),
        ("length".to_owned(), format!("{:.1} s", seconds(history.end()))),
        (
            "operations".to_owned(),
            format!(
                "{}: {} succeeded, {} failed, {} unknown",
                operations.len(),
                ended(Outcome::Ok),
                ended(Outcome::Fail),
                ended(Outcome::Info)
            ),
        ),
        ("longest time without a write".to_owned(), format!("{:.3} s", seconds(longest))),
    ];
    facts.extend(run.facts.iter().cloned());
    let mut out = format!("<h1>{} {}</h1>\n<table>\n", escape(&run.name), word(run.word()));
    for (name, text) in facts {
        out += &format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(&name), escape(&text));
    }
    out += &format!("</table>\n<p>Repeat it:</p><pre>{}</pre>\n", escape(&run.command));
    for trouble in &run.troubles {
        out += &format!("<p class=\"unknown\">Trouble: {}</p>\n", escape(trouble));
    }
    for skipped in &run.skipped {
        out += &format!("<p class=\"unknown\">Skipped, so not tested: {}</p>\n", escape(skipped));
    }
    out
}

fn verdicts(verdicts: &[Verdict]) -> String {
    let mut out = "<table><tr><th>checker</th><th></th><th>judged</th><th>what it says</th></tr>\n"
        .to_owned();
    for verdict in verdicts {
        let about = by_name(&verdict.checker).map_or("", |checker| checker.about);
        let judged = verdict.judged;
        let mut says = format!("<small>{}</small>", escape(about));
        match &verdict.finding {
            Finding::Valid => {}
            Finding::Unknown(why) => says += &format!("<br>{}", escape(&cut(why, 2_000))),
            Finding::Violation(kept) => {
                for violation in kept.iter().take(10) {
                    let text = cut(&violation.text, 2_000);
                    says += &format!("<br><b>{}</b> {}", escape(&violation.rule), escape(&text));
                }
                says += &format!("<br><small>{} in all</small>", verdict.violations);
            }
        }
        for note in &verdict.notes {
            says += &format!("<br><small>{}</small>", escape(note));
        }
        out += &format!(
            "<tr><td>{}</td><td>{}</td><td>{} operations, {} keys, {} events</td><td>{says}</td>\
             </tr>\n",
            escape(&verdict.checker),
            word(verdict.word()),
            judged.operations,
            judged.keys,
            judged.events
        );
    }
    if verdicts.is_empty() {
        out += "<tr><td colspan=\"4\">no checker was run</td></tr>\n";
    }
    out + "</table>\n"
}

/// What happened around the first violations.
fn zooms(run: &Run, history: &History, bands: &[Band]) -> String {
    let all = run.verdicts.iter().flat_map(|verdict| {
        // A few of each checker, so that one does not hide the others.
        verdict.kept().iter().take(2).map(|violation| (verdict.checker.as_str(), violation))
    });
    let mut out = String::new();
    for (checker, violation) in all.filter(|(_, v)| !v.events.is_empty()).take(ZOOMS_MAX) {
        out += &format!(
            "<h2>{} {}</h2>\n<p>{}</p>\n",
            escape(checker),
            escape(&violation.rule),
            escape(&cut(&violation.text, 4_000))
        );
        out += &zoom(history, bands, violation);
    }
    out
}

fn zoom(history: &History, bands: &[Band], violation: &Violation) -> String {
    let known = violation.events.iter().filter_map(|index| {
        usize::try_from(*index).ok().and_then(|place| history.events().get(place))
    });
    let known: Vec<_> = known.collect();
    // The newest of them is where it shows; what is long before is in the list.
    let Some(last) = known.iter().map(|event| event.time).max() else { return String::new() };
    let near = |time: u64| last.saturating_sub(time) < 2_000_000_000;
    let first = known.iter().map(|event| event.time).filter(|time| near(*time)).min();
    let first = first.unwrap_or(last);
    let margin = ((last - first) / 4).max(5_000_000);
    let span = (first.saturating_sub(margin), last + margin);
    let mut out = lanes(history, bands, span, &violation.events);
    out += "<pre>";
    for event in known.iter().take(EVENTS_MAX) {
        let text = serde_json::to_string(event).unwrap_or_default();
        out += &escape(&cut(&text, EVENT_CHARS_MAX));
        out.push('\n');
    }
    out + "</pre>\n"
}

fn faults(history: &History) -> String {
    let mut out = "<h2>Faults</h2>\n<table><tr><th>time</th><th>fault</th><th></th><th>nodes</th>\
                   <th></th></tr>\n"
        .to_owned();
    let mut any = false;
    for (event, fault) in history.faults() {
        any = true;
        let phase = match fault.phase {
            FaultPhase::Start => "begins",
            FaultPhase::Stop => "ends",
            FaultPhase::Once => "",
            FaultPhase::Heal => "all is healed",
            FaultPhase::Skipped => "SKIPPED",
        };
        let parameters: Vec<String> =
            fault.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        out += &format!(
            "<tr><td>{:.3} s</td><td>{}</td><td>{phase}</td><td>{:?}</td><td>{}</td></tr>\n",
            seconds(event.time),
            escape(&fault.fault),
            fault.targets,
            escape(&cut(&parameters.join(" "), 500))
        );
    }
    if any { out + "</table>\n" } else { "<h2>Faults</h2>\n<p>None.</p>\n".to_owned() }
}
