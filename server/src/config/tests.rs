//! Tests of the settings, and the one that keeps docs/configuration.md true.

use super::load::{kinds, variable};
use super::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;

fn with(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = Config::default();
    change(&mut config);
    config.problems()
}

fn load_from(file: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Loaded, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    load(&Flags { config: Some(path), ..flags }, environment)
}

#[test]
fn the_defaults_are_usable() {
    assert_eq!(Config::default().problems(), Vec::<String>::new());
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file =
        "node_id = 2\n[limits]\nconnections_max = 2\nrequests_max = 2\nwatch_streams_max = 2";
    let environment =
        [("KEELSTONE_LIMITS_CONNECTIONS_MAX", "3"), ("KEELSTONE_LIMITS_REQUESTS_MAX", "3")];
    let flags = Flags { set: vec!["limits.connections_max=4".to_owned()], ..Flags::default() };
    let config = load_from(file, &environment, flags).unwrap().config;
    assert_eq!(config.node_id, 2);
    assert_eq!(config.limits.connections_max, 4);
    assert_eq!(config.limits.requests_max, 3);
    assert_eq!(config.limits.watch_streams_max, 2);
    assert_eq!(config.limits.drain_timeout, Duration::from_secs(5));
}

#[test]
fn every_kind_of_setting_can_be_given_as_text() {
    let flags = Flags {
        labels: Some("rack=a, site=b".to_owned()),
        initial_cluster: Some("1=h1:1/h1:2,2=h2:1/h2:2?rack=a".to_owned()),
        join: true,
        insecure: true,
        engine: Some("memory".to_owned()),
        set: vec![
            "raft.heartbeat_interval=75ms".to_owned(),
            "client.tls.certificate=/tls/server.pem".to_owned(),
            "logging.format=json".to_owned(),
        ],
        ..Flags::default()
    };
    let config = load_from("", &[("KEELSTONE_NODE_ID", "7")], flags).unwrap().config;
    assert_eq!(config.node_id, 7);
    assert_eq!(config.labels["site"], "b");
    assert_eq!(config.cluster.mode, ClusterMode::Join);
    assert_eq!(config.cluster.members[1].to_string(), "2=h2:1/h2:2?rack=a");
    assert_eq!(config.raft.heartbeat_interval, Duration::from_millis(75));
    assert_eq!(config.client.tls.certificate, Some(PathBuf::from("/tls/server.pem")));
    assert_eq!(config.logging.format, LogFormat::Json);
    assert!(config.insecure);
}

#[test]
fn a_typo_is_an_error_that_names_its_place() {
    let check = |file: &str, environment: &[(&str, &str)], set: &str, expected: &[&str]| {
        let set = (!set.is_empty()).then(|| set.to_owned()).into_iter().collect();
        let error = load_from(file, environment, Flags { set, ..Flags::default() }).unwrap_err();
        let text = error.to_string();
        for part in expected {
            assert!(text.contains(part), "{text}");
        }
    };
    check("nodeid = 1", &[], "", &["node.toml", "line 1", "nodeid"]);
    check("[limits]\nconnection_max = 1", &[], "", &["line 2", "connection_max"]);
    check("[limits]\nconnections_max = \"many\"", &[], "", &["line 2"]);
    check("", &[], "limits.connection_max=1", &["limits.connection_max", "no such setting"]);
    check("", &[], "limits.connections_max=x", &["limits.connections_max", "`x`"]);
    check("", &[], "limits", &["SETTING=VALUE"]);
    check("", &[("KEELSTONE_NODE_ID", "x")], "", &["KEELSTONE_NODE_ID", "`x`"]);
    check("", &[("KEELSTONE_CLUSTER_MEMBERS", "1=a")], "", &["1=a", "CLIENT_ADDRESS"]);
}

#[test]
fn variables_that_name_no_setting_are_told() {
    let environment = [("KEELSTONE_SERVICE_HOST", "10.0.0.1"), ("PATH", "/bin")];
    let loaded = load_from("", &environment, Flags::default()).unwrap();
    assert_eq!(loaded.unknown_variables, ["KEELSTONE_SERVICE_HOST"]);
}

#[test]
fn no_two_settings_share_a_variable() {
    let kinds = kinds();
    let variables: std::collections::BTreeSet<_> = kinds.keys().map(|n| variable(n)).collect();
    assert_eq!(variables.len(), kinds.len());
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = with(|config| {
        config.node_id = 0;
        config.limits.connections_max = 0;
        config.raft.election_timeout_min = Duration::from_millis(100);
        config.peer.listen = config.client.listen;
    });
    for part in ["node_id", "limits.connections_max", "raft.election_timeout_min", "peer.listen"] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:#?}");
    }
}

#[test]
fn plaintext_is_for_loopback_unless_it_is_allowed() {
    let open = "0.0.0.0:7701".parse().unwrap();
    let check = |expected: usize, change: &dyn Fn(&mut Config)| {
        let problems = with(|config| {
            config.client.listen = open;
            config.client.advertise = "host:7701".to_owned();
            change(config);
        });
        assert_eq!(problems.len(), expected, "{problems:#?}");
    };
    check(1, &|_| {});
    check(0, &|config| config.insecure = true);
    check(0, &|config| {
        config.client.tls.certificate = Some("a".into());
        config.client.tls.key = Some("b".into());
    });
    check(2, &|config| config.http.listen = "0.0.0.0:7703".parse().unwrap());
    check(1, &|config| {
        config.http.listen = "0.0.0.0:7703".parse().unwrap();
        config.http.plaintext = true;
    });
    check(2, &|config| {
        config.peer.listen = "10.0.0.1:7702".parse().unwrap();
    });
}

#[test]
fn tls_settings_must_fit_together() {
    let check = |part: &str, change: &dyn Fn(&mut Config)| {
        let problems = with(change);
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:#?}");
    };
    check("client.tls.key is not", &|c| c.client.tls.certificate = Some("a".into()));
    check("peer.tls.roots is not", &|c| {
        c.peer.tls.certificate = Some("a".into());
        c.peer.tls.key = Some("a".into());
    });
    check("client_roots is", &|c| c.client.tls.client_certificate_required = true);
    check("roots of their own", &|c| {
        c.client.tls.client_roots = Some("a".into());
        c.peer.tls.roots = Some("a".into());
    });
    check("http.tls is set", &|c| c.http.tls = true);
}

#[test]
fn the_initial_members_must_agree_with_this_node() {
    let members = |text: &str| text.split(',').map(|m| m.parse().unwrap()).collect::<Vec<_>>();
    let check = |part: &str, mode, text: &str| {
        let problems = with(|c| {
            c.cluster.members = members(text);
            c.cluster.mode = mode;
        });
        if part.is_empty() {
            assert_eq!(problems, Vec::<String>::new());
        } else {
            assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:#?}");
        }
    };
    let own = "1=127.0.0.1:7702/127.0.0.1:7701";
    check("", ClusterMode::Form, &format!("{own},2=b:1/b:2"));
    check("does not name this node", ClusterMode::Form, "2=b:1/b:2");
    check("peer.advertise", ClusterMode::Form, "1=127.0.0.1:9/127.0.0.1:7701");
    check("there twice", ClusterMode::Form, &format!("{own},1=b:1/b:2"));
    check("there twice", ClusterMode::Form, &format!("{own},2=127.0.0.1:7702/b:2"));
    check("names no other node", ClusterMode::Join, own);
    check("", ClusterMode::Join, "2=b:1/b:2");
}

#[test]
fn members_are_written_as_they_are_read() {
    for text in ["1=a:1/b:2", "2=[::1]:1/10.0.0.1:2?rack=a&site=b"] {
        assert_eq!(text.parse::<InitialMember>().unwrap().to_string(), text);
    }
    for text in ["", "1", "x=a:1/b:2", "1=a:1", "1=a/b", "1=a:0/b:1", "1=::1:5/b:1", "1=a:1/b:2?x"]
    {
        assert!(text.parse::<InitialMember>().is_err(), "{text}");
    }
}

/// The page is the default configuration with the comments of this module's
/// source. `KEELSTONE_BLESS=1` writes it anew.
#[test]
fn the_documentation_shows_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let expected = page();
    if std::env::var_os("KEELSTONE_BLESS").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == expected, "docs/configuration.md is out of date: run with KEELSTONE_BLESS=1");
}

fn page() -> String {
    let structs = documented_structs(include_str!("mod.rs"));
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let mut text = String::from(INTRODUCTION);
    text.push_str("```toml\n");
    let mut sections = Vec::new();
    write_section(&mut text, &structs, "Config", "", &defaults, &mut sections);
    let mut next = 0;
    while next < sections.len() {
        let (name, kind, doc): (String, String, String) = sections[next].clone();
        next += 1;
        let table = name.split('.').try_fold(&defaults, |t, part| t.get(part)?.as_table());
        let empty = toml::Table::new();
        write!(text, "\n{}[{name}]\n", comment(&doc)).unwrap();
        let (path, table) = (format!("{name}."), table.unwrap_or(&empty));
        write_section(&mut text, &structs, &kind, &path, table, &mut sections);
    }
    text.push_str("```\n");
    text
}

const INTRODUCTION: &str = "\
# Configuration

`keelstone serve --config node.toml` reads the settings below; what is shown are the defaults. A \
setting `a.b_c` can also be given as `KEELSTONE_A_B_C` in the environment, which wins over the \
file, and as `--set a.b_c=VALUE` on the command line, which wins over both; the common ones have \
a flag of their own (`keelstone serve --help`). There a list is separated by commas, and a map is \
`NAME=VALUE,NAME=VALUE`. An unknown setting is an error. Settings without a default are shown as \
comments.

The addresses of a node on one machine need nothing else. On others, TLS is asked for: \
`keelstone cert` makes a development authority and certificates.

This page is written by a test from the source; change the comments there.

";

type Fields = Vec<(String, String, String)>;

/// Fields (name, type, comment) of every struct in a source text.
fn documented_structs(source: &str) -> BTreeMap<String, Fields> {
    let mut structs = BTreeMap::<String, Fields>::new();
    let (mut current, mut doc) = (String::new(), String::new());
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("///") {
            doc.push_str(comment.trim());
            doc.push('\n');
        } else if let Some(name) = line.strip_prefix("pub struct ") {
            current = name.trim_end_matches([' ', '{']).to_owned();
            doc.clear();
        } else if let Some((name, kind)) =
            line.strip_prefix("pub ").and_then(|l| l.split_once(": "))
            && !name.contains('(')
        {
            let field = (name.to_owned(), kind.trim_end_matches(',').to_owned(), doc.clone());
            structs.entry(current.clone()).or_default().push(field);
            doc.clear();
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
    structs
}

fn write_section(
    text: &mut String,
    structs: &BTreeMap<String, Fields>,
    name: &str,
    path: &str,
    defaults: &toml::Table,
    sections: &mut Vec<(String, String, String)>,
) {
    for (field, kind, doc) in &structs[name] {
        if structs.contains_key(kind) {
            sections.push((format!("{path}{field}"), kind.clone(), doc.clone()));
            continue;
        }
        match defaults.get(field) {
            Some(toml::Value::Table(_)) => {
                writeln!(text, "{}{field} = {{}}", comment(doc)).unwrap();
            }
            Some(value) => writeln!(text, "{}{field} = {value}", comment(doc)).unwrap(),
            None => writeln!(text, "{}# {field} = \"...\"", comment(doc)).unwrap(),
        }
    }
}

fn comment(doc: &str) -> String {
    doc.lines().fold(String::new(), |text, line| text + "# " + line + "\n")
}
