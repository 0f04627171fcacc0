//! What has nothing to judge says so; logs are searched.

use crate::check::{CHECKERS, Context, LogFile, logs};
use crate::history::{Action, History, Op, Recorder, Txn};
use std::sync::Arc;

#[test]
fn an_empty_history_is_unknown_to_all() {
    for checker in CHECKERS {
        let verdict = (checker.check)(&History::default(), &Context::default());
        assert!(verdict.is_unknown(), "{verdict}");
    }
}

#[test]
fn a_history_without_answers_is_unknown_to_all() {
    let recorder = Recorder::in_memory(100, Arc::new(|| 1));
    for n in 0..20 {
        let process = recorder.new_process();
        let success = vec![Action::put(format!("set/{n}"), "1")];
        let op = Op::Txn(Txn { success, linearizable: true, ..Txn::default() });
        recorder.invoke(process, op.clone(), None);
        recorder.info(process, op, None, "timeout".to_owned());
    }
    let history = recorder.finish().unwrap();
    for checker in CHECKERS {
        let verdict = (checker.check)(&history, &Context::default());
        assert!(!verdict.is_violation(), "{verdict}");
        assert!(!verdict.is_valid() || checker.name == "wgl", "{verdict}");
    }
}

fn search(text: &str, canaries: &[&str]) -> crate::check::Verdict {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.log");
    std::fs::write(&path, text).unwrap();
    let context = Context {
        logs: vec![LogFile { node: 1, path }],
        canaries: canaries.iter().map(|canary| (*canary).to_owned()).collect(),
        ..Context::default()
    };
    logs::check(&History::default(), &context)
}

#[test]
fn logs_are_searched_for_panics_and_secrets() {
    assert!(search("all is well\n", &["canary-7f3a"]).is_valid());
    assert!(search("", &[]).is_unknown());
    let panic = search("ok\nthread 'main' panicked at src/x.rs:1:\n", &[]);
    assert!(panic.is_violation(), "{panic}");
    let leak = search("ok\nvalue=canary-7f3a\n", &["other", "canary-7f3a"]);
    assert!(leak.is_violation(), "{leak}");
    assert!(!leak.to_string().contains("canary-7f3a"), "the report repeats the secret: {leak}");
    let missing = Context {
        logs: vec![LogFile { node: 1, path: "/does/not/exist".into() }],
        ..Context::default()
    };
    assert!(logs::check(&History::default(), &missing).is_unknown());
}
