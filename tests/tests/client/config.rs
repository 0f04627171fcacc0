//! Configuration values, and the cluster's own calls.

use keelstone_client::{ConfigEvent, ErrorKind, ExportPart, Precondition};
use keelstone_tests::running::Running;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn values_have_paths_guards_and_history() {
    let running = Running::three().await;
    let config = running.client.config();
    let before = running.client.position().await.unwrap();
    let mut watch = config.watch("cse", Some(before)).await.unwrap();
    let first = config.put("cse/syslog/port", &514, Precondition::IfAbsent).await.unwrap();
    let error = config.put("cse/syslog/port", &1, Precondition::IfAbsent).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    let guard = Precondition::IfRevision(first.revision);
    let second = config.put("cse/syslog/port", &6514, guard).await.unwrap();
    let error = config.put("cse/syslog/port", &1, guard).await.unwrap_err();
    let current_revision = second.revision;
    assert_eq!(error.kind(), &ErrorKind::Conflict { current_revision });
    assert_eq!(config.get("cse/syslog/port").await.unwrap().parse::<u16>().unwrap(), 6514);
    let then = config.get_at("cse/syslog/port", first.revision).await.unwrap();
    assert_eq!(then.parse::<u16>().unwrap(), 514);
    config.put("cse/syslog/host", "logs", Precondition::Unconditional).await.unwrap();
    config.put("csex", &true, Precondition::Unconditional).await.unwrap();
    let tree = config.list("cse").await.unwrap();
    let paths: Vec<_> = tree.values.iter().map(|value| value.path.as_str()).collect();
    assert_eq!(paths, ["cse/syslog/host", "cse/syslog/port"], "`csex` is not below `cse`");
    assert_eq!(config.history("cse/syslog/port", 10, None).await.unwrap().versions.len(), 2);
    assert_eq!(config.delete_tree("cse").await.unwrap(), 2);
    assert!(config.get("cse/syslog/port").await.unwrap_err().is_not_found());
    let error = config.put("no spaces", &1, Precondition::Unconditional).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid { .. }), "{error:?}");

    let mut events = Vec::new();
    while events.len() < 5 {
        let changes = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        events.extend(changes.unwrap().unwrap().unwrap().events);
    }
    let deleted = events.iter().filter(|event| matches!(event, ConfigEvent::Deleted { .. }));
    assert_eq!(deleted.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_tells_of_itself_and_lets_itself_be_copied() {
    let running = Running::three().await;
    let (client, cluster) = (&running.client, running.client.cluster());
    let members = cluster.members().await.unwrap();
    assert_eq!(members.len(), 3);
    assert_eq!(members.iter().filter(|member| member.leader).count(), 1);
    assert!(members.iter().all(|member| member.voter));

    let before = running.leader_of_all().await;
    let target = members.iter().find(|member| !member.leader).unwrap().id;
    assert_eq!(cluster.transfer(Some(target)).await.unwrap(), target);
    let after = running.leader_of_all().await;
    assert_ne!(before, after);

    for number in 0..100 {
        client.kv().put(format!("k{number}"), vec![7; 1000]).send().await.unwrap();
    }
    let mut export = cluster.export(None).await.unwrap();
    assert!(export.header().revision.get() > 100);
    let (mut bytes, mut trailer) = (0, None);
    while let Some(part) = export.next().await.unwrap() {
        match part {
            ExportPart::Rows(rows) => bytes += rows.len(),
            ExportPart::Trailer(end) => trailer = Some(end),
            _ => {}
        }
    }
    assert!(trailer.unwrap().rows >= 100);
    assert!(bytes > 100_000, "{bytes}");
}
