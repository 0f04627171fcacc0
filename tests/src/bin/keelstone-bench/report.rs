//! What was measured, and how it is shown.

use crate::load::{LoadOptions, Workload};
use crate::target::{Target, is_unknown};
use crate::watchers::Delivered;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;

/// Microseconds: up to a minute, to three digits.
const LATENCY_MAX_US: u64 = 60_000_000;
/// Kinds of errors that are told apart.
const ERRORS_MAX: usize = 8;

/// Collects what operations did.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    latency: Histogram<u64>,
    errors: u64,
    unknowns: u64,
    samples: BTreeMap<String, u64>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
            .expect("the bounds are in order and the digits between 0 and 5");
        Self { latency, errors: 0, unknowns: 0, samples: BTreeMap::new() }
    }

    pub(crate) fn record(&mut self, took: Duration, failed: Option<&Status>) {
        let Some(status) = failed else {
            self.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            return;
        };
        self.errors += 1;
        self.unknowns += u64::from(is_unknown(status));
        let text = format!("{:?}: {}", status.code(), status.message());
        if self.samples.len() < ERRORS_MAX || self.samples.contains_key(&text) {
            *self.samples.entry(text).or_default() += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.errors += other.errors;
        self.unknowns += other.unknowns;
        for (text, count) in &other.samples {
            *self.samples.entry(text.clone()).or_default() += count;
        }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.latency.len()
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    pub(crate) fn latency(&self) -> Latency {
        let at = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            mean_ms: self.latency.mean() / 1000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: self.latency.max() as f64 / 1000.0,
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

/// Percentiles in milliseconds.
#[expect(clippy::struct_field_names, reason = "the unit belongs to each figure")]
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

/// The result of one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) target: Target,
    pub(crate) workload: Workload,
    pub(crate) options: LoadOptions,
    pub(crate) operations: u64,
    /// Operations that succeeded, per second.
    pub(crate) throughput: f64,
    pub(crate) latency: Latency,
    pub(crate) errors: u64,
    /// Errors of which nobody can say whether the write took effect.
    pub(crate) unknowns: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) error_samples: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivered: Option<Delivered>,
}

impl Measured {
    pub(crate) fn of(target: Target, options: &LoadOptions, all: Recorder) -> Self {
        Self {
            target,
            workload: options.workload,
            options: options.clone(),
            operations: all.operations(),
            throughput: all.operations() as f64 / options.seconds.max(1) as f64,
            latency: all.latency(),
            errors: all.errors,
            unknowns: all.unknowns,
            error_samples: all.samples,
            delivered: None,
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<9} {:<5} {:>4} clients: {:>8.0}/s, p50 {:>7.2} ms, p99 {:>7.2} ms, max {:>7.1} ms, \
             {} errors",
            format!("{:?}", self.target).to_lowercase(),
            format!("{:?}", self.workload).to_lowercase(),
            self.options.clients,
            self.throughput,
            self.latency.p50_ms,
            self.latency.p99_ms,
            self.latency.max_ms,
            self.errors,
        )
    }
}

/// The middle one; the mean of the two middle ones if there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn errors_do_not_count_as_operations() {
        let mut recorder = Recorder::new();
        recorder.record(Duration::from_millis(2), None);
        recorder.record(Duration::from_secs(1), Some(&Status::unavailable("gone")));
        recorder.record(Duration::from_secs(1), Some(&Status::invalid_argument("wrong")));
        assert_eq!((recorder.operations(), recorder.errors, recorder.unknowns), (1, 2, 1));
        assert!((recorder.latency().max_ms - 2.0).abs() < 0.01);
    }
}
