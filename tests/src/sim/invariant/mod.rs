//! What must always hold, each in a file of its own that names its source.
//!
//! Those of this folder look at the nodes all along. What clients may see is
//! judged from the history of the run, by `history`.

mod committed;
mod completeness;
mod durable;
mod election;
mod hash;
mod matching;
mod order;

use super::Violation;
use super::look::Look;

/// A rule that is looked at after each step of the world.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Looks at the nodes.
    ///
    /// # Errors
    ///
    /// Says what breaks the rule.
    fn look(&mut self, look: &Look) -> Result<(), String>;

    /// How much it has looked at: a rule that saw nothing proves nothing.
    fn inputs(&self) -> u64;
}

/// All rules about nodes.
pub struct Invariants {
    rules: Vec<Box<dyn Invariant>>,
}

impl Default for Invariants {
    fn default() -> Self {
        Self {
            rules: vec![
                Box::new(election::ElectionSafety::default()),
                Box::new(durable::Durable::default()),
                Box::new(committed::CommittedStays::default()),
                Box::new(matching::LogMatching::default()),
                Box::new(completeness::LeaderCompleteness::default()),
                Box::new(hash::EqualStates::default()),
                Box::new(order::Order::default()),
            ],
        }
    }
}

impl Invariants {
    /// Looks with all of them.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn look(&mut self, look: &Look) -> Result<(), Violation> {
        for rule in &mut self.rules {
            rule.look(look).map_err(|text| Violation::new(rule.name(), text))?;
        }
        Ok(())
    }

    /// What each of them has looked at.
    pub fn inputs(&self) -> Vec<(&'static str, u64)> {
        self.rules.iter().map(|rule| (rule.name(), rule.inputs())).collect()
    }
}
