//! Histories written, read and refused.

use super::*;
use std::sync::Arc;

fn put(key: &str, value: &str) -> Op {
    Op::Txn(Txn { success: vec![Action::put(key, value)], linearizable: true, ..Txn::default() })
}

fn recorder() -> Recorder {
    Recorder::in_memory(100, Arc::new(|| 7))
}

#[test]
fn a_file_is_read_back_as_it_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::to_file(&folder.path().join("history.jsonl")).unwrap();
    let process = recorder.new_process();
    recorder.invoke(process, put("a", "1"), Some(2));
    let process = recorder.info(process, put("a", "1"), None, "timeout \"x\"\n".to_owned());
    recorder.fault(Fault { fault: "kill".to_owned(), targets: vec![1], ..Fault::default() });
    recorder.invoke(process, Op::LeaseRenew(LeaseRenew { lease: 3, ttl_ms: None }), None);
    let history = recorder.finish().unwrap();
    assert_eq!(history.events().len(), 4);
    assert_eq!(history.operations().len(), 2);
    assert_eq!(history.operations()[0].outcome(), Outcome::Info);
    assert_eq!(history.faults().count(), 1);
    assert_eq!(history.events()[0].op, put("a", "1"));
}

#[test]
fn every_operation_survives_json() {
    for op in samples() {
        let event = Event {
            index: 0,
            time: 1,
            process: Process::Client(4),
            kind: Kind::Ok,
            op,
            node: Some(1),
            error: None,
        };
        let text = serde_json::to_string(&event).unwrap();
        let read: Event = serde_json::from_str(&text).unwrap();
        assert_eq!(read, event, "{text}");
        assert!(text.contains(&format!("\"f\":\"{}\"", event.op.name())), "{text}");
    }
}

fn samples() -> Vec<Op> {
    let kv = KeyValue {
        key: "k".into(),
        value: "v".into(),
        create: 1,
        modified: 2,
        version: 2,
        lease: 9,
    };
    let change = Change {
        revision: 2,
        kind: ChangeKind::Put,
        key: "k".into(),
        kv: Some(kv.clone()),
        prev: None,
    };
    let watch = |step| {
        Op::Watch(Watch {
            watch: 1,
            reader: 1,
            key: String::new(),
            end: Some(String::new()),
            start: 1,
            prev: true,
            revision: Some(2),
            step,
        })
    };
    let compare = Compare {
        key: "k".into(),
        target: Target::Value,
        op: Relation::NotEqual,
        operand: Operand::Text("7".into()),
    };
    let range = ActionReply::Range { kvs: vec![kv.clone()], count: 2, more: true };
    vec![
        Op::Txn(Txn {
            compares: vec![compare],
            success: vec![Action::prefix("a/"), Action::delete("x"), Action::put("k", "v")],
            reply: Some(TxnReply { revision: 3, succeeded: true, results: vec![range] }),
            write_id: Some((1, 2)),
            ..Txn::default()
        }),
        watch(WatchStep::Create),
        watch(WatchStep::Created { start: 3 }),
        watch(WatchStep::Changes(vec![change])),
        watch(WatchStep::Progress(8)),
        watch(WatchStep::Canceled { reason: "compacted".into(), compact_revision: Some(3) }),
        watch(WatchStep::Closed),
        Op::Compact { revision: 3 },
        Op::LeaseGrant(LeaseGrant::default()),
        Op::LeaseRevoke(LeaseRevoke { lease: 1, revision: Some(2) }),
        Op::LockAcquire(LockAcquire { token: Some(4), ..LockAcquire::default() }),
        Op::EntityRead(EntityRead {
            sections: Some([("a".to_owned(), "1".to_owned())].into()),
            ..EntityRead::default()
        }),
        Op::Restore(BackupRestore { kvs: Some(vec![kv]), ..BackupRestore::default() }),
        Op::MemberChange(MemberChange::default()),
        Op::StateHash(StateHash { member: 1, at: Some(2), hash: Some("ab".into()) }),
        Op::Nemesis(Fault::default()),
    ]
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let recorder = recorder();
    let process = recorder.new_process();
    recorder.invoke(process, put("a", "1"), None);
    recorder.invoke(process, put("a", "2"), None);
    assert!(recorder.finish().unwrap_err().to_string().contains("two operations"));

    let recorder = self::recorder();
    let process = recorder.new_process();
    recorder.invoke(process, put("a", "1"), None);
    recorder.info(process, put("a", "1"), None, String::new());
    recorder.invoke(process, put("a", "2"), None);
    assert!(recorder.finish().unwrap_err().to_string().contains("after info"));

    let torn = "{\"index\":0,\"time\":1,\"process\":1,\"type\":\"invoke\",\"f\":\"comp";
    let error = History::parse(torn.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn a_recorder_that_is_full_says_so() {
    let recorder = Recorder::in_memory(1, Arc::new(|| 0));
    for _ in 0..2 {
        recorder.invoke(recorder.new_process(), put("a", "1"), None);
    }
    assert!(matches!(recorder.finish(), Err(RecordError::Full(1))));
}

#[test]
fn edn_has_jepsens_keywords() {
    let recorder = recorder();
    recorder.invoke(recorder.new_process(), put("a\"b", "1"), Some(3));
    recorder.fault(Fault { fault: "kill".into(), ..Fault::default() });
    let mut out = Vec::new();
    write_edn(recorder.finish().unwrap().events(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "{:index 0, :time 7, :process 0, :type :invoke, :f :txn, :value {:success [{:put {:key \
         \"a\\\"b\", :value \"1\"}}], :linearizable true}, :node 3}"
    );
    assert!(lines[1].contains(":process :nemesis, :type :info, :f :nemesis"), "{}", lines[1]);
}

#[test]
fn prefixes_end_where_the_next_begins() {
    assert_eq!(prefix_end("a/"), "a0");
    assert_eq!(prefix_end(""), "");
    assert!(spans("a/", Some("a0"), "a/zzz") && !spans("a/", Some("a0"), "a0"));
    assert!(spans("a", None, "a") && !spans("a", None, "aa"));
    assert!(spans("b", Some(""), "zz") && !spans("b", Some(""), "a"));
}
