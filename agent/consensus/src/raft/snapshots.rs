//! Raft's snapshots on the disk: the two latest, checksummed; which one to start from.

use std::io::{self, Cursor};
use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::types::{LogId, Snapshot, SnapshotMeta};
use crate::Error;
use crate::disk::{self, Disk};
use crate::snapshot_file::{self, Encoded};

const KEPT: usize = 2;
const INDEX_BYTES: usize = 8;

/// A snapshot's content: the index that the replica was at, then the state. The replica may have
/// been ahead of Raft, fed by observation, so that this index can be beyond the one in the meta
/// data.
pub(crate) fn content(replica_index: u64, state: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(INDEX_BYTES + state.len());
    content.extend_from_slice(&replica_index.to_le_bytes());
    content.extend_from_slice(state);
    content
}

/// Takes a snapshot's content apart.
pub(crate) fn split(content: &[u8]) -> Result<(u64, &[u8]), Error> {
    let Some((index, state)) = content.split_first_chunk::<INDEX_BYTES>() else {
        return Err(Error::Malformed("a snapshot without an index".into()));
    };
    Ok((u64::from_le_bytes(*index), state))
}

/// The snapshots on the disk of one Raft instance.
#[derive(Clone)]
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    /// Whether any may still be written; held while one is.
    open: Arc<Mutex<bool>>,
    /// Why the last attempt to write one failed.
    pub(crate) failure: watch::Sender<Option<String>>,
}

impl Snapshots {
    pub(crate) fn new(disk: Arc<dyn Disk>, failure: watch::Sender<Option<String>>) -> Self {
        Self {
            disk,
            open: Arc::new(Mutex::new(true)),
            failure,
        }
    }

    /// The newest good snapshot, with its content. `purged` is the last log entry that is gone
    /// from the log: an older snapshot than that is of no use. Damaged ones go where a good one or
    /// the log makes up for them, so that none is sent to others later.
    pub(crate) async fn load(
        &self,
        purged: Option<LogId>,
    ) -> Result<Option<(SnapshotMeta, Vec<u8>)>, Error> {
        let mut names = self.names().await?;
        let mut damage = None;
        let mut damaged = Vec::new();
        while let Some((index, name)) = names.pop() {
            let loaded = self.read(&name).await;
            match loaded {
                Ok(loaded) if usable(index, purged.map(|id| id.index)) => {
                    self.discard(damaged).await?;
                    return Ok(Some(loaded));
                }
                Ok(_) => break,
                Err(e @ Error::Corrupt { .. }) => {
                    tracing::error!("{e}");
                    damage.get_or_insert(e);
                    damaged.push(name);
                }
                Err(e) => return Err(e),
            }
        }
        match (damage, purged) {
            (None, None) => Ok(None),
            // The log still holds everything from the beginning.
            (Some(damage), None) => {
                tracing::warn!("going on without a snapshot, from the whole log: {damage}");
                self.discard(damaged).await?;
                Ok(None)
            }
            (Some(damage), Some(_)) => Err(damage),
            (None, Some(purged)) => Err(Error::Corrupt {
                file: "log.redb".into(),
                detail: format!(
                    "the log begins after entry {} and there is no snapshot of what came before",
                    purged.index
                ),
            }),
        }
    }

    /// The newest snapshot, to be sent to another node.
    pub(crate) async fn newest(&self) -> Result<Option<Snapshot>, Error> {
        let Some((_, name)) = self.names().await?.pop() else {
            return Ok(None);
        };
        let (meta, content) = self.read(&name).await?;
        Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(content)),
        }))
    }

    /// Makes a snapshot durable, then drops all but the latest two. Once begun this is done to its
    /// end, even if nobody waits for it any more: the library leaves its builders running.
    ///
    /// # Errors
    /// `Stopped` after [`close`](Self::close); `Storage` with what the disk says.
    pub(crate) async fn save(
        &self,
        meta: &SnapshotMeta,
        content: Arc<Vec<u8>>,
    ) -> Result<(), Error> {
        let header = postcard::to_stdvec(meta)
            .map_err(|e| Error::Malformed(format!("encoding a snapshot's header: {e}")))?;
        let name = name(meta.last_log_id.map_or(0, |id| id.index));
        let file = name.clone();
        let open = Arc::clone(&self.open).lock_owned().await;
        if !*open {
            return Err(Error::Stopped);
        }
        disk::run(&self.disk, move |disk| {
            let _open = open;
            disk.write_atomic(&file, &Encoded::new(&header, &content).parts())?;
            let mut names = names(disk)?;
            names.truncate(names.len().saturating_sub(KEPT));
            names.iter().try_for_each(|(_, old)| disk.remove(old))
        })
        .await
        .map_err(|e| Error::Storage(format!("writing {name}: {e}")))
    }

    /// Waits for the one that is being written; there is none after it. The disk is free then for
    /// whoever has it next.
    pub(crate) async fn close(&self) {
        *self.open.lock().await = false;
    }

    async fn discard(&self, damaged: Vec<String>) -> Result<(), Error> {
        disk::run(&self.disk, move |disk| {
            damaged.iter().try_for_each(|name| disk.remove(name))
        })
        .await
        .map_err(|e| Error::Storage(format!("removing a damaged snapshot: {e}")))
    }

    async fn read(&self, name: &str) -> Result<(SnapshotMeta, Vec<u8>), Error> {
        let file = name.to_owned();
        let bytes = disk::run(&self.disk, move |disk| disk.read(&file))
            .await
            .map_err(|e| Error::Storage(format!("reading {name}: {e}")))?
            .ok_or_else(|| Error::Storage(format!("reading {name}: it is gone")))?;
        let (header, body) = snapshot_file::decode(name, &bytes)?;
        let meta: SnapshotMeta = postcard::from_bytes(header).map_err(|e| Error::Corrupt {
            file: name.to_owned(),
            detail: format!("its header cannot be decoded: {e}"),
        })?;
        let is_of = meta.last_log_id.map_or(0, |id| id.index);
        if index_of(name) != Some(is_of) {
            return Err(Error::Corrupt {
                file: name.to_owned(),
                detail: format!("it is a snapshot of entry {is_of}"),
            });
        }
        Ok((meta, body.to_vec()))
    }

    async fn names(&self) -> Result<Vec<(u64, String)>, Error> {
        let listed = disk::run(&self.disk, names).await;
        listed.map_err(|e| Error::Storage(format!("listing the snapshots: {e}")))
    }
}

/// The snapshots there are, the newest last.
fn names(disk: &dyn Disk) -> io::Result<Vec<(u64, String)>> {
    let mut found: Vec<(u64, String)> = disk
        .list()?
        .into_iter()
        .filter_map(|name| Some((index_of(&name)?, name)))
        .collect();
    found.sort();
    Ok(found)
}

fn name(index: u64) -> String {
    format!("raft-{index:020}.snap")
}

fn index_of(name: &str) -> Option<u64> {
    name.strip_prefix("raft-")?
        .strip_suffix(".snap")?
        .parse()
        .ok()
}

/// Whether a snapshot at `index` and the log after `purged` make a whole.
fn usable(index: u64, purged: Option<u64>) -> bool {
    purged.is_none_or(|purged| index >= purged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_sort_as_their_indexes_and_give_them_back(a: u64, b: u64) {
            prop_assert_eq!(index_of(&name(a)), Some(a));
            prop_assert_eq!(name(a).cmp(&name(b)), a.cmp(&b));
        }
    }

    fn of(disk: &MemoryDisk) -> Snapshots {
        Snapshots::new(Arc::new(disk.clone()), watch::Sender::new(None))
    }

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(id(index)),
            ..SnapshotMeta::default()
        }
    }

    fn id(index: u64) -> LogId {
        LogId::new(openraft::CommittedLeaderId::new(1, 1), index)
    }

    #[tokio::test]
    async fn two_are_kept_and_the_older_one_serves_while_the_log_reaches_back_to_it() {
        let disk = MemoryDisk::new();
        let snapshots = of(&disk);
        for index in [10, 20, 30] {
            let content = Arc::new(content(index, b"state"));
            snapshots.save(&meta(index), content).await.unwrap();
        }
        assert_eq!(disk.list().unwrap(), [name(20), name(30)]);
        let (found, _) = snapshots.load(Some(id(25))).await.unwrap().unwrap();
        assert_eq!(found, meta(30));

        assert!(disk.damage(&name(30)));
        let refused = snapshots.load(Some(id(21))).await.unwrap_err();
        assert!(matches!(refused, Error::Corrupt { file, .. } if file == name(30)));
        let (found, bytes) = snapshots.load(Some(id(20))).await.unwrap().unwrap();
        assert_eq!(found, meta(20));
        assert_eq!(split(&bytes).unwrap(), (20, &b"state"[..]));
        // What others are sent is what was found good.
        assert_eq!(snapshots.newest().await.unwrap().unwrap().meta, meta(20));
        assert!(disk.damage(&name(20)));
        assert!(snapshots.load(None).await.unwrap().is_none());
        assert!(snapshots.newest().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nothing_is_written_once_they_are_closed() {
        let disk = MemoryDisk::new();
        let snapshots = of(&disk);
        let content = Arc::new(content(10, b"state"));
        let builder = snapshots.clone();
        snapshots.close().await;
        let refused = builder.save(&meta(10), content).await.unwrap_err();
        assert!(matches!(refused, Error::Stopped), "{refused}");
        assert!(disk.list().unwrap().is_empty());
    }
}
