//! The test that keeps docs/metrics.md true.

use super::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

/// Every metric with a value, so that none is left out.
fn full() -> Metrics {
    let metrics = Arc::new(Metrics::new());
    let method = "Kv/Put";
    metrics.requests.get_or_create(&Answered { method, code: "ok" }).inc();
    metrics.request_seconds.get_or_create(&Method { method }).observe(0.1);
    metrics.requests_refused.get_or_create(&Reason { reason: "stopping" }).inc();
    metrics.watches.get_or_create(&WatchState { state: "synced" }).inc();
    metrics.watches_canceled.get_or_create(&Reason { reason: "compacted" }).inc();
    metrics.proposals_refused.get_or_create(&Reason { reason: "overloaded" }).inc();
    let observe = metrics.connection_observer("client");
    observe(crate::tls::accept::Observed::Opened);
    observe(crate::tls::accept::Observed::TooMany);
    drop(observe);
    let now = Some(SystemTime::now());
    metrics.observe(Sample { certificates_expire: [now, now], ..Sample::default() });
    Arc::into_inner(metrics).unwrap()
}

/// Name to type and help, from the text that Prometheus reads.
fn described(text: &str) -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::<String, (String, String)>::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            found.entry(name.to_owned()).or_default().1 = help.to_owned();
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            found.entry(name.to_owned()).or_default().0 = kind.to_owned();
        }
    }
    found
}

/// The names of the labels that a metric was rendered with.
fn labels(text: &str, name: &str) -> String {
    let mut names = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && line.starts_with(name)) {
        let rest = &line[name.len()..];
        let Some((suffix, rest)) = rest.split_once('{') else { continue };
        if !["", "_total", "_bucket", "_sum", "_count"].contains(&suffix) {
            continue;
        }
        let inside = rest.split('}').next().unwrap_or_default();
        names.extend(inside.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())));
    }
    names.remove("le");
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// `KEELSTONE_BLESS=1` writes the page anew.
#[test]
fn the_documentation_lists_every_metric() {
    let text = full().render();
    let mut page = String::from(INTRODUCTION);
    for (name, (kind, help)) in described(&text) {
        let shown = if kind == "counter" { format!("{name}_total") } else { name.clone() };
        writeln!(page, "| `{shown}` | {kind} | {} | {help} |", labels(&text, &name)).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var_os("KEELSTONE_BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == page, "docs/metrics.md is out of date: run with KEELSTONE_BLESS=1");
}

const INTRODUCTION: &str = "\
# Metrics

`GET /metrics` on the HTTP port answers in the text format of Prometheus. Labels have few values \
and never hold a key, a value or a name that a user chose. This table is written by a test from \
what the program renders.

| Metric | Type | Labels | Meaning |
|---|---|---|---|
";

#[test]
fn a_histogram_of_the_log_is_cumulative() {
    let metrics = Metrics::new();
    let mut sample = Sample::default();
    sample.log.round_micros[0] = 2;
    sample.log.round_micros[3] = 1;
    sample.log.round_micros_sum = 700;
    metrics.observe(sample);
    let text = metrics.render();
    for line in [
        "keelstone_log_sync_seconds_bucket{le=\"0.00005\"} 2",
        "keelstone_log_sync_seconds_bucket{le=\"0.0005\"} 3",
        "keelstone_log_sync_seconds_bucket{le=\"+Inf\"} 3",
        "keelstone_log_sync_seconds_count 3",
        "keelstone_log_sync_seconds_sum 0.0007",
    ] {
        assert!(
            text.contains(line) || text.contains(&line.replace("0.00005", "5e-5")),
            "{line}\n{text}"
        );
    }
}

#[test]
fn a_process_has_memory_and_files() {
    let process = Process::read();
    assert!(process.resident_bytes > 1024 * 1024, "{process:?}");
    assert!(process.open_files >= 3 && process.threads >= 1, "{process:?}");
}
