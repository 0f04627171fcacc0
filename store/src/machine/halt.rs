//! The two ways in which a command can stop: refused, or not decided at all.

use super::Rejection;

/// Why a command did not come to its end.
///
/// Within the machine one error type carries both families, so that `?` serves
/// them alike; they part again where a command ends, and never mix outside.
pub(super) enum Halt<E> {
    /// Every replica refuses alike: it becomes the reply.
    Rejected(Rejection),
    /// This replica could not read its state: it must stop.
    Failed(E),
}

impl<E> From<Rejection> for Halt<E> {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl<E> Halt<E> {
    /// Parts the two families.
    pub(super) fn part<T>(result: Result<T, Self>) -> Result<Result<T, Rejection>, E> {
        match result {
            Ok(done) => Ok(Ok(done)),
            Err(Self::Rejected(rejection)) => Ok(Err(rejection)),
            Err(Self::Failed(error)) => Err(error),
        }
    }
}
