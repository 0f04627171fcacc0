//! The states of an entity, and what each operation makes of them.
//!
//! The sources that entities come from disagree in four places; [`next`] is the
//! one table that holds here, drawn and explained in `docs/entities.md`. Its
//! rule: a RESOLVED document is always valid, and nothing but deletion can be
//! forced on an entity by its state.

use std::fmt;
use std::str::FromStr;

/// The state of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntityState {
    /// Nobody has asked yet whether the document is valid.
    PreCreated,
    /// The document is valid, and every later one has to be.
    Resolved,
    /// The document was found invalid; the entity's message says why.
    ResolutionError,
    /// It goes as soon as no finalizer holds it and somebody deletes it.
    InDeletion,
}

impl EntityState {
    /// All states.
    pub const ALL: [Self; 4] =
        [Self::PreCreated, Self::Resolved, Self::ResolutionError, Self::InDeletion];

    /// The state's name, as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreCreated => "PRE_CREATED",
            Self::Resolved => "RESOLVED",
            Self::ResolutionError => "RESOLUTION_ERROR",
            Self::InDeletion => "IN_DELETION",
        }
    }
}

impl fmt::Display for EntityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EntityState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or(UnknownState)
    }
}

/// A text names no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a state is one of PRE_CREATED, RESOLVED, RESOLUTION_ERROR, IN_DELETION")]
pub struct UnknownState;

/// What an operation does to an entity, as far as its state is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The document or the type version changes.
    Write,
    /// Only the envelope changes: name, owner and the like.
    Touch,
    /// Somebody asks whether the document is valid.
    Resolve,
    /// An update asks for `IN_DELETION`.
    BeginDeletion,
    /// A deletion while finalizers hold the entity.
    DeleteHeld,
    /// A deletion that nothing holds up.
    DeleteFree,
    /// An update takes the last finalizer away.
    ReleaseLast,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 7] = [
        Self::Write,
        Self::Touch,
        Self::Resolve,
        Self::BeginDeletion,
        Self::DeleteHeld,
        Self::DeleteFree,
        Self::ReleaseLast,
    ];

    /// What the caller did, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write the document",
            Self::Touch => "update",
            Self::Resolve => "resolve",
            Self::BeginDeletion => "begin deletion",
            Self::DeleteHeld | Self::DeleteFree => "delete",
            Self::ReleaseLast => "remove the last finalizer",
        }
    }
}

/// Where a step leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To this state, whatever the document says.
    Unchecked(EntityState),
    /// To this state if the document is valid; else the operation is refused
    /// and nothing changes.
    Checked(EntityState),
    /// To `RESOLVED` if the document is valid, else to `RESOLUTION_ERROR`.
    Verdict,
    /// The entity is gone.
    Gone,
}

/// The entity's state does not allow the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} an entity that is {state}", step.name())]
pub struct WrongState {
    /// The state.
    pub state: EntityState,
    /// What was asked for.
    pub step: Step,
}

/// Where `step` leads an entity that is in `state`.
///
/// # Errors
///
/// [`WrongState`] if the state does not allow it.
pub fn next(state: EntityState, step: Step) -> Result<Next, WrongState> {
    use EntityState::{InDeletion, PreCreated, ResolutionError, Resolved};
    Ok(match (state, step) {
        (_, Step::DeleteFree) | (InDeletion, Step::ReleaseLast) => Next::Gone,
        (_, Step::DeleteHeld | Step::BeginDeletion) | (InDeletion, Step::Write) => {
            Next::Unchecked(InDeletion)
        }
        (InDeletion, Step::Resolve) => return Err(WrongState { state, step }),
        (_, Step::Resolve) => Next::Verdict,
        (state, Step::Touch | Step::ReleaseLast) => Next::Unchecked(state),
        (PreCreated | ResolutionError, Step::Write) => Next::Unchecked(PreCreated),
        (Resolved, Step::Write) => Next::Checked(Resolved),
    })
}

/// Where the creation of an entity leads.
pub fn first(resolve: bool) -> Next {
    if resolve { Next::Verdict } else { Next::Unchecked(EntityState::PreCreated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[String]) -> String {
        format!("| {} |\n", cells.join(" | "))
    }

    fn cell(state: EntityState, step: Step) -> String {
        match next(state, step) {
            Ok(Next::Unchecked(to)) => to.to_string(),
            Ok(Next::Checked(to)) => format!("{to} if valid"),
            Ok(Next::Verdict) => "by verdict".to_owned(),
            Ok(Next::Gone) => "gone".to_owned(),
            Err(_) => "refused".to_owned(),
        }
    }

    /// The table in docs/entities.md is this function, so it cannot be wrong.
    #[test]
    fn the_documented_table_is_the_one_that_holds() {
        let mut table = row(&["step \\ state".to_owned()]
            .into_iter()
            .chain(EntityState::ALL.map(|state| state.to_string()))
            .collect::<Vec<_>>());
        table.push_str("| --- | --- | --- | --- | --- |\n");
        for step in Step::ALL {
            let label = match step {
                Step::DeleteHeld => "delete, finalizers left",
                Step::DeleteFree => "delete, no finalizers",
                other => other.name(),
            };
            let cells = EntityState::ALL.map(|state| cell(state, step));
            let cells: Vec<_> = [label.to_owned()].into_iter().chain(cells).collect();
            table.push_str(&row(&cells));
        }
        let docs = include_str!("../../../docs/entities.md");
        assert!(docs.contains(&table), "docs/entities.md should contain\n{table}");
    }

    #[test]
    fn a_resolved_document_is_always_valid() {
        for state in EntityState::ALL {
            for step in Step::ALL {
                let stays = state == EntityState::Resolved
                    && matches!(step, Step::Touch | Step::ReleaseLast);
                if next(state, step) == Ok(Next::Unchecked(EntityState::Resolved)) {
                    assert!(stays, "{state} {step:?} would be resolved unchecked");
                }
            }
        }
    }

    #[test]
    fn names_are_read_and_written_alike() {
        for state in EntityState::ALL {
            assert_eq!(state.name().parse(), Ok(state));
        }
        assert_eq!("resolved".parse::<EntityState>(), Err(UnknownState));
    }
}
