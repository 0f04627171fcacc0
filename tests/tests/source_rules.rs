//! The walls of the house, read from the sources themselves.
//!
//! Each rule says which folder may name a thing. A rule also fails if nothing
//! names it there: a wall around an empty room guards nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// `what` may be named in code below `homes` only.
struct Wall {
    what: &'static str,
    homes: &'static [&'static str],
    why: &'static str,
}

const WALLS: &[Wall] = &[
    Wall {
        what: "fjall",
        homes: &["store/src/disk/"],
        why: "state engines are known to the disk only",
    },
    Wall {
        what: "sled",
        homes: &["store/src/disk/"],
        why: "state engines are known to the disk only",
    },
    Wall {
        what: "imbl",
        homes: &["store/src/disk/"],
        why: "state engines are known to the disk only",
    },
    Wall {
        what: "jsonschema",
        homes: &["store/src/entity/"],
        why: "validation happens before the log, never in apply",
    },
    Wall { what: "openraft", homes: &["server/src/raft/"], why: "one module speaks to openraft" },
    Wall {
        what: "openraft_rt",
        homes: &["server/src/raft/"],
        why: "one module speaks to openraft",
    },
    Wall {
        what: "object_store",
        homes: &["server/src/backup/"],
        why: "object storage is for backups, never on the write path",
    },
    Wall {
        what: "s3s",
        homes: &["server/src/dev/", "server/src/backup/"],
        why: "the development bucket is not part of a replica",
    },
    Wall {
        what: "tonic",
        homes: &["server/src/rpc/", "server/src/raft/", "client/", "proto/", "tests/", "jepsen/"],
        why: "gRPC stays at the edge",
    },
    Wall { what: "axum", homes: &["server/src/http/"], why: "HTTP is for health and metrics" },
    Wall {
        what: "keelstone_store",
        homes: &["store/", "server/", "tests/"],
        why: "a client's types are an API promise, not the core's",
    },
    Wall {
        what: "keelstone_server",
        homes: &["server/", "tests/"],
        why: "nothing depends on the server but its tests",
    },
    Wall {
        what: "anyhow",
        homes: &["server/src/cli/", "server/src/main.rs", "tests/", "jepsen/", "client/examples/"],
        why: "libraries have typed errors",
    },
];

#[test]
fn each_library_has_one_home() {
    let sources = sources();
    let mut broken = Vec::new();
    for wall in WALLS {
        let mut named_at_home = false;
        for (path, text) in &sources {
            let named = text.lines().enumerate().find(|(_, line)| names(line, wall.what));
            let Some((number, _)) = named else { continue };
            if wall.homes.iter().any(|home| path.starts_with(home)) {
                named_at_home = true;
            } else {
                broken.push(format!(
                    "{path}:{}: names `{}`; {} (homes: {})",
                    number + 1,
                    wall.what,
                    wall.why,
                    wall.homes.join(", ")
                ));
            }
        }
        if !named_at_home {
            broken.push(format!("nothing in {} names `{}`", wall.homes.join(", "), wall.what));
        }
    }
    assert!(broken.is_empty(), "walls are broken:\n{}", broken.join("\n"));
}

#[test]
fn failures_become_a_status_in_one_file() {
    let allowed = ["server/src/rpc/status.rs", "server/src/raft/"];
    let broken: Vec<_> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("server/src/"))
        .filter(|(path, _)| !allowed.iter().any(|home| path.starts_with(home)))
        .filter(|(_, text)| code_of(text).contains("Status::new("))
        .map(|(path, _)| path)
        .collect();
    assert!(broken.is_empty(), "these make statuses of their own: {broken:?}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.trim_start().starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "no `//!` text at the top of {silent:?}");
}

#[test]
fn nothing_is_left_to_do() {
    let marks = ["todo!(", "unimplemented!(", "FIXME", "#[ignore"];
    let this = "tests/tests/source_rules.rs";
    let mut found = Vec::new();
    for (path, text) in sources() {
        if path == this {
            continue;
        }
        for mark in marks {
            if code_of(&text).contains(mark) {
                found.push(format!("{path}: {mark}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_pure_parts_do_no_io() {
    let pure = ["store/src/machine/", "store/src/entity/"];
    let banned = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::io",
        "SystemTime",
        "Instant::now",
        "HashMap",
        "HashSet",
        "rand::",
        "tokio",
    ];
    let mut seen = 0;
    let mut broken = Vec::new();
    for (path, text) in sources() {
        if !pure.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        seen += 1;
        let code = code_of(&text);
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for word in banned {
            if code.contains(word) {
                broken.push(format!("{path}: {word}"));
            }
        }
    }
    assert!(seen > 10, "only {seen} pure files were found");
    assert!(broken.is_empty(), "{broken:?}");
}

/// Whether a line of code names the crate `what` as a path.
fn names(line: &str, what: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with("//") {
        return false;
    }
    let path = format!("{what}::");
    let used = format!("use {what}");
    line.match_indices(&path).any(|(at, _)| is_boundary(line, at))
        || line.starts_with(&format!("{used};"))
        || line.starts_with(&format!("{used} as"))
}

fn is_boundary(line: &str, at: usize) -> bool {
    line[..at]
        .chars()
        .next_back()
        .is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':')
        || line[..at].ends_with(" ::")
}

/// The text without comment lines.
fn code_of(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// All Rust sources of the workspace, by path from its root.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for member in ["store", "server", "client", "proto", "tests", "jepsen"] {
        collect(&root.join(member), &mut found);
    }
    let mut sources: Vec<_> = found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            (name, fs::read_to_string(&path).expect("a readable source"))
        })
        .collect();
    sources.sort();
    assert!(sources.len() > 50, "only {} sources were found", sources.len());
    sources
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
