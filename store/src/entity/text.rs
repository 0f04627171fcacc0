//! The short texts of an envelope: names, owners, finalizers.

use super::rejection::EntityRejection;
use crate::limits;

/// Checks that a text is within `limit` bytes and has no control characters,
/// of which the storage layout uses one to separate.
///
/// # Errors
///
/// [`EntityRejection::TooLarge`] or [`EntityRejection::InvalidField`].
pub(super) fn check(field: &'static str, text: &str, limit: usize) -> Result<(), EntityRejection> {
    if text.len() > limit {
        let (actual, limit) = (text.len() as u64, limit as u64);
        return Err(EntityRejection::TooLarge { field, actual, limit });
    }
    if text.chars().any(char::is_control) {
        return Err(EntityRejection::invalid(field, "it has control characters"));
    }
    Ok(())
}

/// Like [`check`], and it must not be empty.
pub(super) fn check_some(
    field: &'static str,
    text: &str,
    limit: usize,
) -> Result<(), EntityRejection> {
    if text.is_empty() {
        return Err(EntityRejection::invalid(field, "it is empty"));
    }
    check(field, text, limit)
}

/// Checks the names of finalizers: not too many, none twice, none empty.
pub(super) fn check_finalizers(names: &[String]) -> Result<(), EntityRejection> {
    let field = "finalizers";
    if names.len() > limits::FINALIZERS_MAX {
        let (actual, limit) = (names.len() as u64, limits::FINALIZERS_MAX as u64);
        return Err(EntityRejection::TooLarge { field, actual, limit });
    }
    for (at, name) in names.iter().enumerate() {
        check_some(field, name, limits::FINALIZER_BYTES_MAX)?;
        if names[..at].contains(name) {
            return Err(EntityRejection::invalid(field, "a name is there twice"));
        }
    }
    Ok(())
}
