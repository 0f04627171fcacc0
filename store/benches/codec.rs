//! What encoding and decoding cost for a batch of 64 guarded updates.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keelstone_store::Millis;
use keelstone_store::machine::codec;
use std::hint::black_box;
use support::Filled;

fn batches(criterion: &mut Criterion) {
    for value_bytes in [16, 512, 16 * 1024] {
        let batch = Filled::new(value_bytes).guarded_updates();
        let envelopes: Vec<_> = batch.commands.iter().map(codec::encode_envelope).collect();
        let bytes = codec::encode_batch(Millis(1), &envelopes);
        let mut group = criterion.benchmark_group(format!("codec/{value_bytes}B"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("encode envelopes", |bencher| {
            bencher.iter(|| {
                for envelope in &batch.commands {
                    black_box(codec::encode_envelope(black_box(envelope)));
                }
            });
        });
        group.bench_function("encode batch", |bencher| {
            bencher.iter(|| codec::encode_batch(Millis(1), black_box(&envelopes)));
        });
        group.bench_function("decode batch", |bencher| {
            bencher.iter(|| codec::decode_batch(black_box(bytes.clone())));
        });
        group.finish();
    }
}

criterion_group!(benches, batches);
criterion_main!(benches);
