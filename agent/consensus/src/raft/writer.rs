//! The one writer of the log database: takes everything that waits, puts it into one
//! transaction, makes it durable with one sync, and then says up to where.

use std::sync::{Arc, RwLock};

use openraft::EntryPayload;
use openraft::storage::LogFlushed;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, watch};

use super::types::{Entry, LogId, Types, Vote};
use crate::disk::Disk;

pub(crate) const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(crate) const VOTE: &str = "vote";
pub(crate) const COMMITTED: &str = "committed";
pub(crate) const PURGED: &str = "purged";
pub(crate) const NODE_ID: &str = "node_id";
pub(crate) const WITNESS: &str = "witness";
pub(crate) const BOOT: &str = "boot";

/// The open database; `None` once it was closed, whatever handles are still about.
pub(crate) type Db = Arc<RwLock<Option<Database>>>;

/// One change of the log.
pub(crate) enum Change {
    Append {
        entries: Vec<(u64, Vec<u8>)>,
        /// Called when it is durable, if the Raft library is to wait for that.
        flushed: Option<LogFlushed<Types>>,
    },
    Truncate {
        since: u64,
    },
    Purge {
        upto: LogId,
    },
    Vote(Vote),
}

/// A change and its place in the sequence of all changes.
pub(crate) struct Op {
    pub(crate) seq: u64,
    pub(crate) change: Change,
    /// What was known to be committed; saved along, never on its own.
    pub(crate) committed: Option<LogId>,
    /// What was heard of others' logs, if that changed; saved along as well.
    pub(crate) witness: Option<Vec<u8>>,
}

/// Up to which change everything is on the disk, or why nothing more gets there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) durable: u64,
    pub(crate) failed: Option<String>,
}

/// Writes until all senders are gone or a write fails. After a failure the database has to be
/// reopened: what is in it then is what was acknowledged.
pub(crate) async fn write_loop(
    disk: Arc<dyn Disk>,
    db: Db,
    mut ops: mpsc::UnboundedReceiver<Op>,
    progress: watch::Sender<Progress>,
) {
    let mut batch = Vec::new();
    while ops.recv_many(&mut batch, 4096).await > 0 {
        let last = batch.last().map_or(0, |op| op.seq);
        let ops = std::mem::take(&mut batch);
        let db = Arc::clone(&db);
        let written = crate::disk::run(&disk, move |_| {
            let done = with_db(&db, |db| commit(db, &ops));
            let waiting = ops.into_iter().filter_map(|op| match op.change {
                Change::Append { flushed, .. } => flushed,
                _ => None,
            });
            for flushed in waiting {
                flushed.log_io_completed(done.as_ref().copied().map_err(clone_error));
            }
            done
        })
        .await;
        match written {
            Ok(()) => {
                progress.send_modify(|progress| progress.durable = last);
            }
            Err(e) => {
                tracing::error!("writing the consensus log: {e}");
                progress.send_modify(|progress| progress.failed = Some(e.to_string()));
                return;
            }
        }
    }
}

/// Reads or writes the database while it is open.
pub(crate) fn with_db<T>(
    db: &Db,
    work: impl FnOnce(&Database) -> Result<T, redb::Error>,
) -> std::io::Result<T> {
    let guard = db.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(db) = guard.as_ref() else {
        return Err(std::io::Error::other("the log is closed"));
    };
    work(db).map_err(io_error)
}

/// What the database says, as an error of the disk: `InvalidData` where what is on it is not what was written.
pub(crate) fn io_error(e: redb::Error) -> std::io::Error {
    match e {
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            std::io::Error::new(std::io::ErrorKind::InvalidData, "it is shorter than it was")
        }
        redb::Error::Io(e) => e,
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. } => {
            std::io::Error::new(std::io::ErrorKind::InvalidData, e)
        }
        e => std::io::Error::other(e),
    }
}

fn commit(db: &Database, ops: &[Op]) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    {
        let mut log = txn.open_table(LOG)?;
        let mut meta = txn.open_table(META)?;
        for op in ops {
            match &op.change {
                Change::Append { entries, .. } => {
                    for (index, bytes) in entries {
                        log.insert(index, bytes.as_slice())?;
                    }
                }
                Change::Truncate { since } => log.retain_in(*since.., |_, _| false)?,
                Change::Purge { upto } => {
                    log.retain_in(..=upto.index, |_, _| false)?;
                    meta.insert(PURGED, encode(upto)?.as_slice())?;
                }
                Change::Vote(vote) => {
                    meta.insert(VOTE, encode(vote)?.as_slice())?;
                }
            }
        }
        if let Some(committed) = ops.iter().filter_map(|op| op.committed).max() {
            meta.insert(COMMITTED, encode(&committed)?.as_slice())?;
        }
        if let Some(witness) = ops.iter().rev().find_map(|op| op.witness.as_deref()) {
            meta.insert(WITNESS, witness)?;
        }
    }
    txn.commit()?;
    Ok(())
}

/// What is in the database when it is opened.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) node_id: Option<u64>,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    /// The newest entry that says who votes.
    pub(crate) voters: Option<Vec<u64>>,
    pub(crate) witness: Option<Vec<u8>>,
    /// Whether the power may have been lost since it was open last.
    pub(crate) other_boot: bool,
}

/// Opens or creates the tables and reads what the Raft library starts from.
///
/// # Errors
/// [`redb::Error::Corrupted`] where an entry is not what belongs in its place.
pub(crate) fn open(db: &Database, node_id: u64, boot: &str) -> Result<Found, redb::Error> {
    let read = db.begin_read()?;
    match read.open_table(META) {
        Ok(_) => {}
        Err(redb::TableError::TableDoesNotExist(_)) => {
            let txn = db.begin_write()?;
            txn.open_table(LOG)?;
            txn.open_table(META)?
                .insert(NODE_ID, encode(&node_id)?.as_slice())?;
            txn.commit()?;
        }
        Err(e) => return Err(e.into()),
    }
    drop(read);
    let read = db.begin_read()?;
    let meta = read.open_table(META)?;
    let purged: Option<LogId> = get(&meta, PURGED)?;
    let (last, voters) = walk(&read.open_table(LOG)?, purged)?;
    let found = Found {
        node_id: get(&meta, NODE_ID)?,
        vote: get(&meta, VOTE)?,
        committed: get(&meta, COMMITTED)?,
        purged,
        last,
        voters,
        witness: meta.get(WITNESS)?.map(|bytes| bytes.value().to_vec()),
        other_boot: get::<String>(&meta, BOOT)?.as_deref() != Some(boot) || boot.is_empty(),
    };
    drop(meta);
    drop(read);
    if found.other_boot && !boot.is_empty() {
        let txn = db.begin_write()?;
        txn.open_table(META)?
            .insert(BOOT, encode(&boot)?.as_slice())?;
        txn.commit()?;
    }
    Ok(found)
}

/// Looks at every entry: each can be read, is the one of its place, and none is missing between two.
#[allow(clippy::type_complexity)]
fn walk(
    log: &impl ReadableTable<u64, &'static [u8]>,
    purged: Option<LogId>,
) -> Result<(Option<LogId>, Option<Vec<u64>>), redb::Error> {
    let wrong = |what: String| redb::Error::Corrupted(what);
    let (mut last, mut voters) = (None, None);
    for row in log.iter()? {
        let (key, bytes) = row?;
        let index = key.value();
        let entry: Entry = postcard::from_bytes(bytes.value())
            .map_err(|e| wrong(format!("entry {index} cannot be decoded: {e}")))?;
        let id = entry.log_id;
        let before = last.or(purged.filter(|purged| purged.index + 1 == index));
        if id.index != index || before.is_some_and(|b: LogId| b.index + 1 != index || b > id) {
            return Err(wrong(format!(
                "in place {index} after {before:?} there is entry {id:?}"
            )));
        }
        if purged.is_some_and(|purged| index > purged.index + 1) && last.is_none() {
            return Err(wrong(format!(
                "entries between {purged:?} and {index} are missing"
            )));
        }
        last = Some(id);
        if let EntryPayload::Membership(membership) = entry.payload {
            voters = Some(membership.voter_ids().collect());
        }
    }
    Ok((last, voters))
}

fn get<T: serde::de::DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, redb::Error> {
    match meta.get(key)? {
        None => Ok(None),
        Some(bytes) => postcard::from_bytes(bytes.value())
            .map(Some)
            .map_err(|e| redb::Error::Corrupted(format!("{key}: {e}"))),
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, redb::Error> {
    postcard::to_stdvec(value).map_err(|e| redb::Error::Corrupted(format!("encoding: {e}")))
}

fn clone_error(e: &std::io::Error) -> std::io::Error {
    std::io::Error::new(e.kind(), e.to_string())
}
