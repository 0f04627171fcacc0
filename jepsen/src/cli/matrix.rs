//! Many runs, one after the other, and a table of what came of them. Each is a
//! process of its own, so that one that goes wrong takes nothing with it.

use super::arguments::{Matrix, Setting};
use super::{print, tell};
use crate::run::{Outcome, Word};
use crate::{nemesis, workload};
use anyhow::{Context as _, Result, ensure};
use keelstone_jepsen::report::{Row, summary_page};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What the smoke matrix may take.
const SMOKE: Duration = Duration::from_mins(8);
/// The load of one of its runs.
const SMOKE_TIME: Duration = Duration::from_secs(10);
/// What a run takes besides its load, at most.
const AROUND: Duration = Duration::from_secs(40);
/// The load of a run of the long matrix.
const TIME: Duration = Duration::from_mins(1);

/// The runs of the smoke matrix: every workload once, and together most faults.
const SMOKE_RUNS: &[(&str, &str)] = &[
    ("register", "kill+partition"),
    ("set", "power-cut"),
    ("append", "pause+partition"),
    ("watch", "kill+compact"),
    ("lease", "pause+clock"),
    ("counter", "kill+loss"),
    ("queue", "partition"),
    ("lock", "kill"),
    ("entity", "partition+transfer"),
    ("bank", "grow+kill"),
    ("config", "pause"),
    ("set", "replace"),
];

/// One run of a matrix.
struct Line {
    workload: String,
    nemesis: String,
    seed: u64,
    word: &'static str,
    about: String,
    /// Where the run left its files.
    dir: Option<PathBuf>,
}

pub(super) fn matrix(arguments: &Matrix) -> Result<ExitCode> {
    ensure!(
        arguments.smoke || arguments.hours.is_some(),
        "say `--smoke`, or how many `--hours` the matrix may take"
    );
    let budget = match arguments.hours {
        Some(hours) => Duration::from_secs_f64(hours * 3600.0),
        None => SMOKE,
    };
    let time = arguments.time.unwrap_or(if arguments.smoke { SMOKE_TIME } else { TIME });
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
    tell(&format!("seed of the first run: {seed}"));
    let begin = Instant::now();
    let mut lines = Vec::new();
    let mut left_out = 0;
    for (number, (workload, nemesis)) in (0..).zip(pairs(arguments, seed)) {
        if begin.elapsed() + time + AROUND > budget {
            if arguments.smoke {
                left_out += 1;
                continue;
            }
            break;
        }
        let line = one(&arguments.setting, &workload, &nemesis, time, seed + number)?;
        print(&format!("{:<10} {:<22} {:>8}  {}", workload, nemesis, line.word, line.about));
        lines.push(line);
        keep(&arguments.setting.out, &lines)?;
    }
    Ok(verdict(&lines, left_out))
}

/// What is run: the smoke matrix once, or all pairs in an order drawn from the
/// seed, without end.
fn pairs(arguments: &Matrix, seed: u64) -> Box<dyn Iterator<Item = (String, String)>> {
    if arguments.smoke {
        let owned = |(workload, nemesis): &(&str, &str)| ((*workload).into(), (*nemesis).into());
        return Box::new(SMOKE_RUNS.iter().map(owned));
    }
    let given = |named: &[String], all: Vec<String>| {
        if named.is_empty() { all } else { named.to_vec() }
    };
    let workloads = workload::all().iter().map(|workload| workload.name().to_owned()).collect();
    let nemeses = nemesis::KINDS.iter().map(|(kind, _)| (*kind).to_owned());
    let nemeses = nemeses.filter(|kind| kind != "none");
    let nemeses = nemeses.chain(["kill+partition".to_owned(), "pause+loss".to_owned()]).collect();
    let workloads = given(&arguments.workloads, workloads);
    let nemeses = given(&arguments.nemeses, nemeses);
    let mut rng = StdRng::seed_from_u64(seed);
    Box::new(std::iter::repeat_with(move || shuffled(&workloads, &nemeses, &mut rng)).flatten())
}

fn shuffled(workloads: &[String], nemeses: &[String], rng: &mut StdRng) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = workloads
        .iter()
        .flat_map(|workload| nemeses.iter().map(|nemesis| (workload.clone(), nemesis.clone())))
        .collect();
    all.shuffle(rng);
    all
}

/// One run in a process of its own.
fn one(
    setting: &Setting,
    workload: &str,
    nemesis: &str,
    time: Duration,
    seed: u64,
) -> Result<Line> {
    let program = std::env::current_exe().context("find the own program")?;
    let mut command = Command::new(program);
    command
        .args(["run", "--workload", workload, "--nemesis", nemesis])
        .args(["--time", &format!("{}ms", time.as_millis())])
        .args(["--seed", &seed.to_string(), "--nodes", &setting.nodes.to_string()])
        .args(["--clients", &setting.clients.to_string(), "--rate", &setting.rate.to_string()])
        .arg("--out")
        .arg(&setting.out)
        .arg("--images")
        .arg(&setting.images)
        .stdin(Stdio::null());
    if let Some(binary) = &setting.binary {
        command.arg("--binary").arg(binary);
    }
    if let Some(tls) = setting.tls {
        command.args(["--tls", &tls.to_string()]);
    }
    let output = command.output().context("start a run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let word = match output.status.code() {
        Some(0) => "valid",
        Some(1) => "VIOLATION",
        Some(2) => "unknown",
        _ => "ERROR",
    };
    let dir = text.lines().find_map(|line| {
        let (word, dir) = line.split_once("  ")?;
        ["VALID", "VIOLATION", "UNKNOWN"].contains(&word).then(|| PathBuf::from(dir))
    });
    let about = match &dir {
        Some(dir) => about(dir, word),
        None => errors.lines().last().unwrap_or("it said nothing").to_owned(),
    };
    Ok(Line { workload: workload.into(), nemesis: nemesis.into(), seed, word, about, dir })
}

/// What has to be seen of a run at first sight.
fn about(dir: &std::path::Path, word: &str) -> String {
    let outcome = std::fs::read(dir.join("results.json")).ok();
    let outcome = outcome.and_then(|text| serde_json::from_slice::<Outcome>(&text).ok());
    let Some(outcome) = outcome else { return format!("no results in {}", dir.display()) };
    let judged: u64 =
        outcome.verdicts.iter().map(|verdict| verdict.judged.operations).max().unwrap_or(0);
    let faults: u64 = outcome.faults.values().map(|done| done.done).sum();
    let mut about = format!("{judged} operations, {faults} faults");
    if !outcome.skipped.is_empty() {
        let _ = write!(about, "; SKIPPED {}", outcome.skipped.join(", "));
    }
    if outcome.word != Word::Valid || word != "valid" {
        let bad = outcome.verdicts.iter().filter(|verdict| !verdict.is_valid());
        let bad: Vec<&str> = bad.map(|verdict| verdict.checker.as_str()).collect();
        let _ = write!(about, "; {} {}", bad.join(", "), outcome.troubles.join("; "));
        let _ = write!(about, " ({})", dir.display());
    }
    about
}

/// Keeps the table so far, as text and as a page with links to the runs.
fn keep(out: &std::path::Path, lines: &[Line]) -> Result<()> {
    let mut text = String::from(
        "| workload | nemesis | seed | verdict | |\n| --- | --- | --- | --- | --- |\n",
    );
    for line in lines {
        let Line { workload, nemesis, seed, word, about, dir: _ } = line;
        let _ = writeln!(text, "| {workload} | {nemesis} | {seed} | {word} | {about} |");
    }
    std::fs::create_dir_all(out).context("make the directory of the runs")?;
    std::fs::write(out.join("matrix.md"), text).context("write the table")?;
    let dirs = lines.iter().filter_map(|line| line.dir.as_ref());
    let row =
        |dir: &PathBuf| serde_json::from_slice(&std::fs::read(dir.join("row.json")).ok()?).ok();
    let rows: Vec<Row> = dirs.filter_map(row).collect();
    let mut title = "Fault runs".to_owned();
    if rows.len() < lines.len() {
        let _ = write!(title, " ({} more left nothing to show)", lines.len() - rows.len());
    }
    std::fs::write(out.join("index.html"), summary_page(&title, &rows)).context("write the page")
}

fn verdict(lines: &[Line], left_out: u64) -> ExitCode {
    let count = |word: &str| lines.iter().filter(|line| line.word == word).count();
    let (valid, violations) = (count("valid"), count("VIOLATION"));
    let others = lines.len() - valid - violations;
    print(&format!(
        "{} runs: {valid} valid, {violations} with violations, {others} that cannot be told",
        lines.len()
    ));
    if left_out > 0 {
        print(&format!("{left_out} runs were SKIPPED: the time was over"));
    }
    for line in lines.iter().filter(|line| line.word != "valid") {
        print(&format!(
            "  {}: keelstone-jepsen run -w {} -n {} --seed {}",
            line.word, line.workload, line.nemesis, line.seed
        ));
    }
    match (violations, others, valid) {
        (1.., _, _) => ExitCode::from(1),
        // A slow machine skips runs, and says so; that proves less, but is no
        // fault, as long as most were made.
        (0, 0, valid) if valid > 0 && valid as u64 >= left_out => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}
