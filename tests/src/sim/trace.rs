//! What happened in a run, as one number: equal for equal runs.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// Hashes what it is told, in order; keeps the text as well if asked to.
pub struct Trace {
    hasher: DefaultHasher,
    lines: u64,
    kept: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace.
    pub fn new(keep: bool) -> Self {
        // Its keys are fixed, unlike those of a hash map.
        Self { hasher: DefaultHasher::new(), lines: 0, kept: keep.then(Vec::new) }
    }

    /// Adds something that happened.
    pub fn note(&mut self, now_us: u64, text: &str) {
        (now_us, text).hash(&mut self.hasher);
        self.lines += 1;
        if let Some(kept) = &mut self.kept {
            kept.push(format!(
                "{:>9.3} {text}",
                std::time::Duration::from_micros(now_us).as_secs_f64()
            ));
        }
    }

    /// How much was told.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The number.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The text, if it was kept.
    pub fn kept(&self) -> &[String] {
        self.kept.as_deref().unwrap_or_default()
    }
}
