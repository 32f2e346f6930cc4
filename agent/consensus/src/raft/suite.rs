//! The Raft library's own test suite for stores, run on ours.

use std::sync::Arc;

use bytes::Bytes;
use openraft::testing::{StoreBuilder, Suite};
use tokio::sync::watch;

use super::applier::Applier;
use super::log::LogStore;
use super::snapshots::Snapshots;
use super::types::{StorageError, Types};
use crate::{Disk, Frozen, MemoryDisk, Replica, ReplicaConfig, StateMachine};

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _index: u64, _command: &Bytes) -> Bytes {
        Bytes::new()
    }

    fn freeze(&self) -> Frozen {
        Box::new(Bytes::new)
    }

    fn restore(&self, _index: u64, _snapshot: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, Applier> for Builder {
    async fn build(&self) -> Result<((), LogStore, Applier), StorageError> {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let log = LogStore::open(&disk, 1, Arc::default()).await.unwrap();
        let replica = Replica::new(Arc::new(Nothing), ReplicaConfig::default());
        replica.tolerate_gaps();
        let applier = Applier::open(
            replica,
            log.clone(),
            Snapshots::new(disk, watch::Sender::new(None)),
            Arc::default(),
        )
        .await
        .unwrap();
        Ok(((), log, applier))
    }
}

#[test]
fn the_store_keeps_every_promise_that_the_library_tests() {
    Suite::test_all(Builder).unwrap();
}
