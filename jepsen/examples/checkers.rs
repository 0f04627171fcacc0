//! How fast the checkers are: prints the figures that the documents quote.
//!
//! `cargo run --release -p keelstone-jepsen --example checkers`. Not a benchmark
//! of the store, which is not involved.

use keelstone_jepsen::check::{Context, by_name};
use keelstone_jepsen::sample::{Sample, Workload};
use std::io::Write as _;
use std::time::Instant;

fn main() -> std::io::Result<()> {
    // Checker, workload, operations, keys, clients. Without watches, but for theirs.
    let cases = [
        ("replay", Workload::Single, 1_000_000, 20, 30),
        ("replay", Workload::Single, 1_000_000, 20_000, 30),
        ("wgl", Workload::Single, 100_000, 500, 10),
        ("watch", Workload::Single, 100_000, 20, 10),
        ("append", Workload::Append, 100_000, 500, 10),
    ];
    for (name, workload, operations, keys, clients) in cases {
        let mut sample = Sample::new(workload, 1);
        (sample.operations, sample.keys, sample.clients) = (operations, keys, clients);
        (sample.info_permille, sample.watchers) = (10, usize::from(name == "watch"));
        let sampled = sample.run();
        // A single reader cannot keep up with this rate; that is not the question.
        let context = Context { watch_lag_ms: u64::MAX / 2_000_000, ..sampled.context };
        let Some(checker) = by_name(name) else { continue };
        let start = Instant::now();
        let verdict = (checker.check)(&sampled.history, &context);
        let took = start.elapsed();
        writeln!(
            std::io::stdout(),
            "{name}: {operations} operations, {keys} keys, {clients} clients: {} in {:.2} s",
            verdict.word(),
            took.as_secs_f64()
        )?;
    }
    Ok(())
}
