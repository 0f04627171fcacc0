//! The consensus library's own tests of a storage, on ours.

use super::log_store::LogStore;
use super::progress::{AppliedPosition, Progress};
use super::state_machine::StateMachine;
use super::types::Types;
use crate::changes::ChangeLog;
use keelstone_store::Revision;
use keelstone_store::disk::EngineKind;
use keelstone_store::disk::log::{Log, LogOptions};
use keelstone_store::disk::storage::FileStorage;
use keelstone_store::state::{State, StateOptions};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;

struct Builder(EngineKind);

impl StoreBuilder<Types, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let storage = FileStorage::open(&dir.path().join("log")).unwrap();
        let options = LogOptions { segment_bytes: 1024 * 1024, ..LogOptions::default() };
        let (log, writer) = Log::open(Arc::new(storage), options).unwrap();
        std::thread::spawn(move || writer.run());
        let state = match self.0 {
            EngineKind::Memory => State::in_memory(),
            kind => State::open(&dir.path().join("state"), kind, StateOptions::default()).unwrap(),
        };
        state.format([7; 16]).unwrap();
        let changes = Arc::new(ChangeLog::new(Revision::FIRST, 1024));
        let progress = Arc::new(Progress::new(AppliedPosition::default(), changes));
        Ok((dir, LogStore::new(log), StateMachine::new(Arc::new(state), progress)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_librarys_storage_suite_passes_on_the_default_engine() {
    Suite::test_all(Builder(EngineKind::Fjall)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_librarys_storage_suite_passes_in_memory() {
    Suite::test_all(Builder(EngineKind::Memory)).await.unwrap();
}
