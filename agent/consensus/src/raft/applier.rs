//! Feeds the replica with what Raft has committed, and makes and takes snapshots. It knows log
//! positions and the membership; the replica knows the state.

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::log::{LogStore, command};
use super::snapshots::{self, Snapshots};
use super::types::{
    Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Types,
};
use super::witness::Witness;
use crate::replica::serialise;
use crate::{Error, Replica};

/// The pause after a snapshot could not be written.
const RETRY: Duration = Duration::from_secs(10);

pub(crate) struct Applier {
    replica: Replica,
    log: LogStore,
    snapshots: Snapshots,
    witness: Arc<Witness>,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl Applier {
    /// Starts from the newest snapshot on the disk.
    pub(crate) async fn open(
        replica: Replica,
        log: LogStore,
        snapshots: Snapshots,
        witness: Arc<Witness>,
    ) -> Result<Self, Error> {
        let mut applier = Self {
            witness,
            replica,
            log,
            snapshots,
            last: None,
            membership: StoredMembership::default(),
        };
        if let Some((meta, content)) = applier.snapshots.load(applier.log.purged()).await? {
            applier.take(&meta, &content)?;
        }
        applier.witness.agreed(&applier.membership);
        Ok(applier)
    }

    fn take(&mut self, meta: &SnapshotMeta, content: &[u8]) -> Result<(), Error> {
        let (index, state) = snapshots::split(content)?;
        self.replica.restore(index, state)?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Bytes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            return Ok(Vec::new());
        };
        self.log
            .durable(last.index)
            .await
            .map_err(|e| StorageIOError::apply(last, AnyError::new(&e)))?;
        self.log.applied();
        for entry in &entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                self.witness.agreed(&self.membership);
            }
        }
        let outcomes = self
            .replica
            .apply_committed(entries.into_iter().map(|e| (e.log_id.index, command(e))))
            .map_err(|e| StorageIOError::apply(last, AnyError::new(&e)))?;
        self.last = Some(last);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (index, frozen) = self.replica.freeze();
        Builder {
            snapshots: self.snapshots.clone(),
            meta: SnapshotMeta {
                last_log_id: self.last,
                last_membership: self.membership.clone(),
                snapshot_id: format!(
                    "{}-{}",
                    self.last.map_or(0, |id| id.leader_id.term),
                    self.last.map_or(0, |id| id.index)
                ),
            },
            content: Mutex::new(Some((index, frozen))),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let content = Arc::new(snapshot.into_inner());
        let installed = match self.snapshots.save(meta, Arc::clone(&content)).await {
            Ok(()) => self.take(meta, &content),
            Err(e) => Err(e),
        };
        self.witness.agreed(&self.membership);
        Ok(installed.map_err(|e| {
            StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&e))
        })?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self
            .snapshots
            .newest()
            .await
            .map_err(|e| StorageIOError::read_snapshot(None, AnyError::new(&e)))?)
    }
}

/// Turns a frozen state into a snapshot file, however long the disk takes to have room for it:
/// a failure here would stop the whole Raft instance.
pub(crate) struct Builder {
    snapshots: Snapshots,
    meta: SnapshotMeta,
    /// Behind a lock only because the library wants builders to be `Sync`.
    content: Mutex<Option<(u64, crate::Frozen)>>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let failed = |e: Error| StorageIOError::write_snapshot(None, AnyError::new(&e));
        let content = self
            .content
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some((index, frozen)) = content else {
            return Err(failed(Error::Stopped).into());
        };
        let state = serialise(frozen).await;
        let content = Arc::new(snapshots::content(index, &state));
        drop(state);
        while let Err(e) = self.snapshots.save(&self.meta, Arc::clone(&content)).await {
            if matches!(e, Error::Stopped) {
                return Err(failed(e).into());
            }
            tracing::error!("no snapshot was made, trying again in {RETRY:?}: {e}");
            self.snapshots.failure.send_replace(Some(e.to_string()));
            tokio::time::sleep(RETRY).await;
        }
        self.snapshots.failure.send_replace(None);
        // The library keeps the meta data only.
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: Box::new(Cursor::new(
                Arc::try_unwrap(content).unwrap_or_else(|shared| shared.to_vec()),
            )),
        })
    }
}
