//! Pages say what they should, and nothing in a run can break out of them.

use super::{Row, Run, junit, page, summary_page, summary_text, write};
use crate::check::by_name;
use crate::sample::{Plant, Sample, Sampled, Workload};

const EVIL: &str = "<script>alert('x')</script>\"&\u{1}";

fn run(sampled: &Sampled) -> Run {
    let checkers = ["replay", "wgl", "bank"].map(|name| by_name(name).unwrap());
    Run {
        name: format!("register-{EVIL}"),
        workload: EVIL.to_owned(),
        nemesis: "kill".to_owned(),
        seed: 7,
        command: format!("keelstone-jepsen run --seed 7 {EVIL}"),
        facts: vec![("version".to_owned(), EVIL.to_owned())],
        verdicts: checkers.map(|c| (c.check)(&sampled.history, &sampled.context)).to_vec(),
        troubles: vec![EVIL.to_owned()],
        skipped: vec!["power cut".to_owned()],
    }
}

fn broken() -> Sampled {
    let mut seeds = (0..100).map(|seed| {
        let plant = Some(Plant::LostWrite);
        Sample { plant, ..Sample::new(Workload::Register, seed) }.run()
    });
    seeds.find(|sampled| sampled.planted).unwrap()
}

#[test]
fn a_page_has_all_and_nothing_breaks_out() {
    let sampled = broken();
    let run = run(&sampled);
    assert_eq!(run.word(), "violation");
    let page = page(&run, &sampled.history);
    for wanted in ["<svg", "replay", "violation", "seed", "keelstone-jepsen run", "partition"] {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert!(!page.contains("<script"), "a script got in");
    assert!(!page.contains('\u{1}'));
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}: the page is not self-contained");
    }
}

#[test]
fn every_tag_is_closed() {
    let sampled = broken();
    let row = Row::of(&run(&sampled), &sampled.history);
    let verdicts = run(&sampled).verdicts;
    for text in [
        page(&run(&sampled), &sampled.history),
        summary_page(EVIL, std::slice::from_ref(&row)),
        junit(&[(row.clone(), verdicts)]),
    ] {
        for tag in ["svg", "g", "table", "tr", "td", "pre", "rect", "text", "testcase", "failure"] {
            let closed = text.matches(&format!("</{tag}>")).count();
            let opened = text.matches(&format!("<{tag} ")).count()
                + text.matches(&format!("<{tag}>")).count();
            let open = format!("<{tag} ");
            let empty = text.split(&open).skip(1);
            let empty = empty.filter(|rest| {
                rest.split_once('>').is_some_and(|(attributes, _)| attributes.ends_with('/'))
            });
            assert_eq!(opened, closed + empty.count(), "{tag}");
        }
        assert!(!text.contains("<script"));
    }
    let text = summary_text(&[row]);
    assert!(text.contains("violation") && text.contains("skipped: power cut"), "{text}");
    assert!(!text.contains('\u{1}'));
}

#[test]
fn a_run_without_verdicts_is_unknown() {
    let sampled = Sample::new(Workload::Register, 1).run();
    let none = Run { verdicts: Vec::new(), troubles: Vec::new(), ..run(&sampled) };
    assert_eq!(none.word(), "unknown");
    assert!(page(&none, &sampled.history).contains("no checker was run"));
}

#[test]
fn files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let sampled = broken();
    write(folder.path(), &run(&sampled), &sampled.history).unwrap();
    for name in ["report.html", "junit.xml"] {
        assert!(folder.path().join(name).metadata().unwrap().len() > 500, "{name}");
    }
    let row = std::fs::read(folder.path().join("row.json")).unwrap();
    let row: Row = serde_json::from_slice(&row).unwrap();
    assert_eq!(row, Row::of(&run(&sampled), &sampled.history));
}
