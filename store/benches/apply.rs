//! What apply costs for a batch of 64 commands, over a view in memory: the
//! engine's reads and writes come on top.

mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use keelstone_store::KeyRange;
use keelstone_store::machine::{Batch, Range, apply, read_range};
use std::hint::black_box;
use support::{COMMANDS, Filled};

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn batches(criterion: &mut Criterion) {
    for value_bytes in [16, 512, 16 * 1024] {
        let store = Filled::new(value_bytes);
        let mut group = criterion.benchmark_group(format!("apply/{value_bytes}B"));
        group.throughput(Throughput::Elements(COMMANDS));
        let bench = |group: &mut Group<'_>, name: &str, batch: &Batch| {
            group.bench_function(name, |bencher| {
                bencher.iter(|| apply(&store, black_box(batch)));
            });
        };
        bench(&mut group, "puts", &store.puts());
        bench(&mut group, "guarded updates", &store.guarded_updates());
        bench(&mut group, "session puts", &store.session_puts());
        let one = Batch { commands: store.puts().commands[..1].to_vec(), ..Batch::default() };
        group.throughput(Throughput::Elements(1));
        bench(&mut group, "a lone put", &one);
        group.finish();
    }
}

fn reads(criterion: &mut Criterion) {
    let store = Filled::new(512);
    let page = Range { limit: 500, ..Range::all(KeyRange::prefix("k".into())) };
    criterion.bench_function("read/500 of 100,000 keys", |bencher| {
        bencher.iter(|| read_range(&store, black_box(&page)));
    });
}

criterion_group!(benches, batches, reads);
criterion_main!(benches);
