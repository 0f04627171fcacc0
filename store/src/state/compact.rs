//! Removing what compaction has made unreadable.
//!
//! The compact command moves a mark; this frees the space, step by step, beside
//! everything else. A change below the mark names what it superseded: that
//! record, and if it was a deletion its tombstone, can no longer be read, by
//! reads at or above the mark or as a previous value. The change itself goes
//! with them. The change *at* the mark stays with all it needs: a watch from
//! there is still served.

use super::{State, StateError, codec, rows};
use crate::Revision;
use crate::disk::{Table, WriteBatch};
use std::ops::Bound;
use std::sync::Arc;

impl State {
    /// Removes about `rows_max` rows that compaction has made unreadable, and
    /// engines that were replaced. Returns whether there is more to do. Called
    /// in the background; holds up apply only while it writes.
    ///
    /// # Errors
    ///
    /// The replica must stop.
    pub fn compact_step(&self, rows_max: usize) -> Result<bool, StateError> {
        self.remove_retired();
        let (number, cleared_below, view) = {
            let writer = self.writer();
            (writer.number, writer.cleared_below, self.current())
        };
        let compacted = view.head_ref().compacted;
        if cleared_below >= compacted {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        let mut cleared = compacted;
        let bounds = (
            Bound::Included(rows::change_key(cleared_below)),
            Bound::Excluded(rows::change_key(compacted)),
        );
        for row in view.rows().scan(Table::Changes, bounds, false) {
            let (row_key, row) = row?;
            let revision = rows::parse_change_key(&row_key)?;
            if batch.len() >= rows_max {
                cleared = revision;
                break;
            }
            for changed in codec::parse_change(row)? {
                clear(&mut batch, revision, &changed);
            }
            batch.delete(Table::Changes, row_key);
        }
        drop(view);
        self.commit_cleared(number, batch, cleared)?;
        Ok(cleared < compacted)
    }

    fn commit_cleared(
        &self,
        number: u64,
        batch: WriteBatch,
        cleared: Revision,
    ) -> Result<(), StateError> {
        let mut writer = self.writer();
        if writer.number != number {
            // A snapshot was installed meanwhile: these rows are another state's.
            return Ok(());
        }
        writer.engine.commit(batch)?;
        writer.cleared_below = cleared;
        let (head, applied) = (self.current().head_ref().clone(), self.current().applied());
        self.show(&writer, head, applied)
    }

    /// Closes and removes engines that nobody reads any more.
    fn remove_retired(&self) {
        let unused: Vec<_> = {
            let mut writer = self.writer();
            let unused = |(_, engine): &mut (u64, Arc<_>)| Arc::strong_count(engine) == 1;
            writer.retired.extract_if(.., unused).collect()
        };
        for (number, engine) in unused {
            drop(engine);
            if let Err(error) = self.home.remove(number) {
                // A leftover, removed at the next start at the latest.
                tracing::warn!(%error, "a replaced state could not be removed");
            }
        }
    }
}

/// Deletes what a change made unreadable.
fn clear(batch: &mut WriteBatch, revision: Revision, changed: &codec::ChangedKey) {
    let key = changed.key.as_bytes();
    if changed.previous > Revision::ZERO {
        batch.delete_with(Table::Past, |row| rows::put_past_key(row, key, changed.previous));
    }
    if changed.deleted {
        batch.delete_with(Table::Past, |row| rows::put_past_key(row, key, revision));
    }
}
