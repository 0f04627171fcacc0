//! What each command does.

use super::arguments::{Directory, Failover, Repro, Run};
use super::{print, tell};
use crate::doctor::Abilities;
use crate::net::Enclosure;
use crate::node::Sizes;
use crate::run::{Outcome, Place, Plan, Word};
use crate::{nemesis, run, workload};
use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub(super) fn doctor() -> Result<ExitCode> {
    if Enclosure::current().is_none() {
        return Enclosure::best().enter();
    }
    print(&abilities()?.report());
    Ok(ExitCode::SUCCESS)
}

fn abilities() -> Result<Abilities> {
    Ok(Abilities::look(Enclosure::current().context("not inside of an enclosure")?))
}

pub(super) fn list() -> Result<ExitCode> {
    print("workloads:");
    for workload in workload::all() {
        print(&format!("  {:<10} {}", workload.name(), workload.about()));
    }
    print("\nnemeses:");
    for (kind, about) in nemesis::KINDS {
        print(&format!("  {kind:<10} {about}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(arguments: &Run) -> Result<ExitCode> {
    let outcome = one(arguments)?;
    Ok(ExitCode::from(outcome.code()))
}

fn one(arguments: &Run) -> Result<Outcome> {
    let plan = plan(arguments)?;
    carry_out(&plan, &arguments.setting.out, &arguments.setting.images)
}

fn plan(arguments: &Run) -> Result<Plan> {
    let setting = &arguments.setting;
    let abilities = abilities()?;
    let (kinds, skipped) = nemesis::split(&arguments.nemesis, abilities)?;
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
    let mut rng = StdRng::seed_from_u64(seed);
    let small = if rng.random_bool(0.5) { Sizes::Small } else { Sizes::Default };
    let tls = rng.random_bool(0.5);
    let binary = binary(setting.binary.as_deref())?;
    let time = arguments.time;
    let command = format!(
        "keelstone-jepsen run --workload {} --nemesis {} --time {} --seed {seed} --nodes {} \
         --clients {} --rate {}",
        arguments.workload,
        arguments.nemesis,
        humantime::format_duration(time),
        setting.nodes,
        setting.clients,
        setting.rate,
    );
    workload::by_name(&arguments.workload)?;
    Ok(Plan {
        workload: arguments.workload.clone(),
        nemesis: arguments.nemesis.clone(),
        skipped,
        seed,
        time_ms: u64::try_from(time.as_millis()).context("a shorter time is needed")?,
        nodes: setting.nodes,
        clients: setting.clients,
        rate: setting.rate,
        sizes: setting.sizes.unwrap_or(small),
        tls: setting.tls.unwrap_or(tls),
        version: run::version_of(&binary)?,
        binary,
        enclosure: abilities.enclosure.name().to_owned(),
        command,
        schedule: nemesis::schedule(&kinds, time, seed),
    })
}

/// The program under test: the one that was named, or the one beside this one.
fn binary(named: Option<&Path>) -> Result<PathBuf> {
    let beside = || {
        let own = std::env::current_exe().context("find the own program")?;
        Ok(own.with_file_name("keelstone"))
    };
    let binary = named.map_or_else(beside, |named| anyhow::Ok(named.to_owned()))?;
    binary.canonicalize().with_context(|| {
        format!("find {}; build it with `cargo build --release`", binary.display())
    })
}

fn carry_out(plan: &Plan, out: &Path, images: &Path) -> Result<Outcome> {
    let name = format!("{}-{}-{}", plan.workload, plan.nemesis, plan.seed);
    let images = abilities()?.images.then_some(images);
    let place = Place::make(out, &name, images)?;
    plan.save(&place.dir)?;
    tell(&format!("{name}: {:?} thresholds, tls {}, {}", plan.sizes, plan.tls, plan.version));
    let runtime = runtime()?;
    let ran = runtime.block_on(async { run::run(plan, &place, on_interrupt()).await })?;
    runtime.shutdown_timeout(Duration::from_secs(5));
    run::keep(&ran, &place)?;
    let outcome = run::judge(&place.dir)?;
    show(&outcome, plan, &place.dir);
    Ok(outcome)
}

fn show(outcome: &Outcome, plan: &Plan, dir: &Path) {
    for verdict in &outcome.verdicts {
        print(&format!("{verdict}"));
    }
    for trouble in &outcome.troubles {
        print(&format!("trouble: {trouble}"));
    }
    let faults: Vec<String> = outcome
        .faults
        .iter()
        .filter(|(_, done)| done.done + done.not > 0)
        .map(|(kind, done)| match done.not {
            0 => format!("{kind} {}", done.done),
            not => format!("{kind} {} (and {not} that could not be done)", done.done),
        })
        .collect();
    print(&format!("faults: {}", faults.join(", ")));
    for skipped in &outcome.skipped {
        print(&format!("SKIPPED: {skipped} (this machine cannot do it)"));
    }
    let word = match outcome.word {
        Word::Valid => "VALID",
        Word::Violation => "VIOLATION",
        Word::Unknown => "UNKNOWN",
    };
    print(&format!("{word}  {}", dir.display()));
    print(&format!("repeat: {}", plan.command));
    print(&format!("the same schedule again: keelstone-jepsen repro {}", dir.display()));
}

pub(super) fn check(arguments: &Directory) -> Result<ExitCode> {
    let plan = Plan::load(&arguments.dir)?;
    let outcome = run::judge(&arguments.dir)?;
    show(&outcome, &plan, &arguments.dir);
    Ok(ExitCode::from(outcome.code()))
}

pub(super) fn repro(arguments: &Repro) -> Result<ExitCode> {
    let mut plan = Plan::load(&arguments.dir)?;
    if let Some(named) = &arguments.binary {
        plan.binary = binary(Some(named))?;
        plan.version = run::version_of(&plan.binary)?;
    }
    let outcome = carry_out(&plan, &arguments.out, &arguments.images)?;
    Ok(ExitCode::from(outcome.code()))
}

pub(super) fn failover(arguments: &Failover) -> Result<ExitCode> {
    let binary = binary(arguments.binary.as_deref())?;
    let images = abilities()?.images.then_some(arguments.images.as_path());
    let place = Place::make(&arguments.out, "failover", images)?;
    let runtime = runtime()?;
    let gaps = runtime.block_on(async {
        run::failover(binary, &place, arguments.rounds, &arguments.ways, on_interrupt()).await
    })?;
    runtime.shutdown_timeout(Duration::from_secs(5));
    let text = serde_json::to_string_pretty(&gaps).context("write the gaps as JSON")?;
    std::fs::write(place.dir.join("gaps.json"), text).context("write the gaps")?;
    print(run::HEADING);
    for gaps in &gaps {
        print(&gaps.line());
    }
    let reached = gaps.iter().all(run::Gaps::reach_goal);
    print(if reached { "within the goal" } else { "NOT within the goal: median 1 s, worst 3 s" });
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(4).enable_all().build().context("start the runtime")
}

/// A token that Ctrl-C cancels.
fn on_interrupt() -> CancellationToken {
    let interrupt = CancellationToken::new();
    let interrupted = interrupt.clone();
    tokio::spawn(async move {
        tokio::signal::ctrl_c().await.ok();
        interrupted.cancel();
    });
    interrupt
}
