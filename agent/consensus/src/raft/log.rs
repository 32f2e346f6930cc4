//! The durable log, as the Raft library sees it, with early acknowledgement.
//!
//! The library waits for each append before it does anything else, heartbeats included, and
//! hands over one entry at a time; waiting for the disk there would mean one sync per command and
//! a leader that falls silent while its disk is slow. So an append is answered as soon as it is
//! queued, and durability is enforced where something leaves this node:
//!
//! - an append of another node's is answered after everything queued here is durable
//!   ([`LogStore::flushed`]);
//! - a commit index is told to others only when this node's own copy of the entry is durable
//!   (`network`), since the library counts the leader's copy in;
//! - an entry is applied, and its proposer answered, only when it is durable here
//!   ([`LogStore::durable`]);
//! - votes, and entries that change the voters, are waited for in place;
//! - a leader that restarts may have lost a tail of its term's entries which others have, so it
//!   never continues its term: its vote is read back as a candidate's ([`LogStore::open`]).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader};
use redb::{Database, ReadableDatabase, StorageBackend};
use tokio::sync::{mpsc, watch};

use super::types::{Entry, LogId, StorageError, StorageIOError, Types, Vote};
use super::witness::Witness;
use super::writer::{self, Change, Db, Found, Op, Progress};
use crate::Error;
use crate::disk::Disk;
use crate::sums::Summed;

/// Durable entries that are kept in memory for followers, beside those not yet durable.
const CACHE_ENTRIES: usize = 512;
const CACHE_BYTES: usize = 1024 * 1024;
/// What one append message may carry, unless a single command is longer.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// The database's page cache. The log is read from memory nearly always.
const DB_CACHE: usize = 2 * 1024 * 1024;
/// What it is called in messages.
const LOG_FILE: &str = "log.redb";

/// A handle to the log; clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    mem: Mutex<Mem>,
    ops: mpsc::UnboundedSender<Op>,
    progress: watch::Receiver<Progress>,
    /// A commit index was held back from others; somebody has to tell them later.
    held_back: std::sync::atomic::AtomicBool,
    tell: tokio::sync::Notify,
    /// What is known of the others' logs, kept along with the entries.
    witness: Arc<Witness>,
    other_boot: bool,
    opened_voters: Option<Vec<u64>>,
}

struct Mem {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The greatest commit index that was found durable.
    told: Option<LogId>,
    seq: u64,
    cache: BTreeMap<u64, Cached>,
    cache_bytes: usize,
}

struct Cached {
    seq: u64,
    entry: Entry,
}

impl LogStore {
    /// Opens the log of node `node_id`, creating an empty one if there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where what is on the disk is not what was written.
    pub(crate) async fn open(
        disk: &Arc<dyn Disk>,
        node_id: u64,
        witness: Arc<Witness>,
    ) -> Result<Self, Error> {
        let opened = crate::disk::run(disk, move |disk| {
            let storage = disk.open_log()?;
            // The database takes some of what it finds on the disk for granted.
            let opened = catch_unwind(AssertUnwindSafe(|| open(storage, node_id, &disk.boot())));
            opened.unwrap_or_else(|_| {
                let what = "the database cannot make sense of it";
                Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
            })
        })
        .await;
        let (db, found) = opened.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => Error::Corrupt {
                file: LOG_FILE.into(),
                detail: e.to_string(),
            },
            _ => Error::Storage(format!("opening the log: {e}")),
        })?;
        if let Some(found) = found.node_id.filter(|found| *found != node_id) {
            return Err(Error::WrongNode {
                expected: node_id,
                found,
            });
        }
        if let Some(kept) = &found.witness {
            witness.kept(kept);
        }
        // See the last point of this module's opening.
        let vote = found.vote.map(|mut vote: Vote| {
            if vote.leader_id.voted_for() == Some(node_id) {
                vote.committed = false;
            }
            vote
        });
        let db = Arc::new(RwLock::new(Some(db)));
        let (ops, queue) = mpsc::unbounded_channel();
        let (progress, watch) = watch::channel(Progress::default());
        tokio::spawn(writer::write_loop(
            Arc::clone(disk),
            Arc::clone(&db),
            queue,
            progress,
        ));
        Ok(Self {
            shared: Arc::new(Shared {
                db,
                mem: Mutex::new(Mem {
                    vote,
                    committed: found.committed,
                    purged: found.purged,
                    last: found.last.max(found.purged),
                    told: None,
                    seq: 0,
                    cache: BTreeMap::new(),
                    cache_bytes: 0,
                }),
                ops,
                progress: watch,
                held_back: false.into(),
                tell: tokio::sync::Notify::new(),
                witness,
                other_boot: found.other_boot,
                opened_voters: found.voters,
            }),
        })
    }

    /// Whether the power may have been lost between the last time that it was open and this one.
    pub(crate) fn is_of_other_boot(&self) -> bool {
        self.shared.other_boot
    }

    /// Who votes by the newest such entry that was in it when it was opened.
    pub(crate) fn opened_voters(&self) -> Option<&[u64]> {
        self.shared.opened_voters.as_deref()
    }

    /// Closes the database, whoever still holds a handle, after what is being written.
    pub(crate) async fn close(&self, disk: &Arc<dyn Disk>) {
        let _ = self.flushed().await;
        let db = Arc::clone(&self.shared.db);
        let closed = crate::disk::run(disk, move |_| {
            let db = db.write().unwrap_or_else(PoisonError::into_inner).take();
            drop(db);
            Ok(())
        });
        let _ = closed.await;
    }

    /// Waits until everything that was queued before this call is durable.
    pub(crate) async fn flushed(&self) -> Result<(), Error> {
        let seq = self.mem().seq;
        self.reached(seq).await
    }

    /// Waits until the entry at `index` is durable.
    pub(crate) async fn durable(&self, index: u64) -> Result<(), Error> {
        let seq = self.mem().cache.get(&index).map(|cached| cached.seq);
        match seq {
            None => Ok(()),
            Some(seq) => self.reached(seq).await,
        }
    }

    /// What may be told to others of a commit index: itself if this node's own copy is durable,
    /// else the last one of which that was so.
    pub(crate) fn tellable(&self, committed: Option<LogId>) -> Option<LogId> {
        let durable = self.shared.progress.borrow().durable;
        let mut mem = self.mem();
        let id = committed?;
        if mem
            .cache
            .get(&id.index)
            .is_some_and(|cached| cached.seq > durable)
        {
            self.shared
                .held_back
                .store(true, std::sync::atomic::Ordering::SeqCst);
            return mem.told.min(committed);
        }
        mem.told = mem.told.max(Some(id));
        Some(id)
    }

    /// An entry became applicable here: wakes [`must_tell`](Self::must_tell) if others have not
    /// been told of it.
    pub(crate) fn applied(&self) {
        if self
            .shared
            .held_back
            .swap(false, std::sync::atomic::Ordering::SeqCst)
        {
            self.shared.tell.notify_one();
        }
    }

    /// Waits until a commit index that was held back can be told to the others.
    pub(crate) async fn must_tell(&self) {
        self.shared.tell.notified().await;
    }

    /// Why the log takes nothing more, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.shared.progress.borrow().failed.clone()
    }

    /// Waits for a write to fail.
    pub(crate) async fn failed(&self) -> String {
        let mut progress = self.shared.progress.clone();
        match progress.wait_for(|p| p.failed.is_some()).await {
            Ok(progress) => progress.failed.clone().unwrap_or_default(),
            Err(_) => "the log's writer is gone".into(),
        }
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.mem().last
    }

    pub(crate) fn vote(&self) -> Vote {
        self.mem().vote.unwrap_or_default()
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.mem().committed
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.mem().purged
    }

    async fn reached(&self, seq: u64) -> Result<(), Error> {
        let mut progress = self.shared.progress.clone();
        let progress = progress
            .wait_for(|p| p.durable >= seq || p.failed.is_some())
            .await
            .map_err(|_| Error::Storage("the log's writer is gone".into()))?;
        match &progress.failed {
            Some(why) if progress.durable < seq => Err(Error::Storage(why.clone())),
            _ => Ok(()),
        }
    }

    fn queue(&self, mem: &mut Mem, change: Change) -> Result<u64, Error> {
        if let Some(why) = self.failure() {
            return Err(Error::Storage(why));
        }
        mem.seq += 1;
        let op = Op {
            seq: mem.seq,
            change,
            committed: mem.committed,
            witness: self.shared.witness.to_keep(),
        };
        self.shared
            .ops
            .send(op)
            .map_err(|_| Error::Storage("the log's writer is gone".into()))?;
        Ok(mem.seq)
    }

    fn entries(&self, range: &(Bound<u64>, Bound<u64>), limit: usize) -> Result<Vec<Entry>, Error> {
        let (start, end, mut found) = {
            let mem = self.mem();
            let floor = mem.purged.map_or(0, |id| id.index + 1);
            let ceiling = mem.last.map_or(0, |id| id.index + 1);
            let start = match range.0 {
                Bound::Included(i) => i,
                Bound::Excluded(i) => i + 1,
                Bound::Unbounded => 0,
            };
            let end = match range.1 {
                Bound::Included(i) => i + 1,
                Bound::Excluded(i) => i,
                Bound::Unbounded => u64::MAX,
            };
            let (start, end) = (start.max(floor), end.min(ceiling));
            if start >= end {
                return Ok(Vec::new());
            }
            // The cache holds the newest entries without a hole; older ones are in the database.
            let cached: Vec<Entry> = mem
                .cache
                .range(start..end)
                .map(|(_, cached)| cached.entry.clone())
                .collect();
            (start, end, cached)
        };
        let cached_from = found.first().map_or(end, |e| e.log_id.index);
        if start < cached_from {
            let (mut entries, complete) = self.read_db(start, cached_from, limit)?;
            if complete {
                entries.append(&mut found);
            }
            found = entries;
        }
        let mut bytes = 0;
        let fits = found
            .iter()
            .take_while(|entry| {
                bytes += size(entry);
                bytes <= limit
            })
            .count();
        found.truncate(fits.max(1));
        Ok(found)
    }

    /// Entries from the database, and whether they are all of the range (or the limit came first).
    fn read_db(&self, start: u64, end: u64, limit: usize) -> Result<(Vec<Entry>, bool), Error> {
        let (raw, complete) = writer::with_db(&self.shared.db, |db| {
            let read = db.begin_read()?;
            let log = read.open_table(writer::LOG)?;
            let mut raw = Vec::new();
            let mut bytes = 0;
            for row in log.range(start..end)? {
                let value = row?.1.value().to_vec();
                bytes += value.len();
                raw.push(value);
                if bytes > limit {
                    return Ok((raw, false));
                }
            }
            Ok((raw, true))
        })
        .map_err(|e| Error::Storage(format!("reading the log from {start} to {end}: {e}")))?;
        let entries: Result<Vec<Entry>, Error> = raw.iter().map(|bytes| decode(bytes)).collect();
        Ok((entries?, complete))
    }

    fn mem(&self) -> MutexGuard<'_, Mem> {
        self.shared
            .mem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mem {
    fn insert(&mut self, seq: u64, entry: Entry) {
        self.cache_bytes += size(&entry);
        let index = entry.log_id.index;
        self.last = Some(entry.log_id);
        if let Some(old) = self.cache.insert(index, Cached { seq, entry }) {
            self.cache_bytes -= size(&old.entry);
        }
    }

    /// Drops the oldest entries beyond the limits that the database has.
    fn evict(&mut self, durable: u64) {
        while self.cache.len() > CACHE_ENTRIES || self.cache_bytes > CACHE_BYTES {
            match self.cache.first_entry() {
                Some(oldest) if oldest.get().seq <= durable => {
                    self.cache_bytes -= size(&oldest.remove().entry);
                }
                _ => break,
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.cache.retain(|index, _| keep(*index));
        self.cache_bytes = self.cache.values().map(|c| size(&c.entry)).sum();
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(self
            .entries(&range, usize::MAX)
            .map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (Bound::Included(start), Bound::Excluded(end));
        Ok(self
            .entries(&range, MESSAGE_BYTES)
            .map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let mem = self.mem();
        Ok(LogState {
            last_purged_log_id: mem.purged,
            last_log_id: mem.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let queued = {
            let mut mem = self.mem();
            mem.vote = Some(*vote);
            self.queue(&mut mem, Change::Vote(*vote))
        };
        let saved = match queued {
            Ok(seq) => self.reached(seq).await,
            Err(e) => Err(e),
        };
        Ok(saved.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.mem().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // It goes to the disk with the next change: after a crash an older one is as good.
        self.mem().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.mem().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let raw = entries
            .iter()
            .map(|entry| Ok((entry.log_id.index, postcard::to_stdvec(entry)?)))
            .collect::<Result<Vec<_>, postcard::Error>>()
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        let wait = entries
            .iter()
            .any(|entry| matches!(entry.payload, EntryPayload::Membership(_)));
        let (at_once, when_durable) = if wait {
            (None, Some(callback))
        } else {
            (Some(callback), None)
        };
        {
            let durable = self.shared.progress.borrow().durable;
            let mut mem = self.mem();
            let change = Change::Append {
                entries: raw,
                flushed: when_durable,
            };
            let seq = self
                .queue(&mut mem, change)
                .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
            for entry in entries {
                mem.insert(seq, entry);
            }
            mem.evict(durable);
        }
        if let Some(callback) = at_once {
            callback.log_io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let since = log_id.index;
        let committed = self.committed().map(|id| id.index);
        if let Some(committed) = committed.filter(|committed| since <= *committed) {
            let why = format!(
                "the leader has other entries from {since} on, and up to {committed} they were agreed on: a majority of \
                 the voters' disks lost what they had said to be durable, and changes that were acknowledged are lost"
            );
            tracing::error!("{why}");
            return Err(StorageIOError::write_logs(AnyError::error(why)).into());
        }
        let before = match since.checked_sub(1) {
            Some(index) => self
                .entries(
                    &(Bound::Included(index), Bound::Included(index)),
                    usize::MAX,
                )
                .map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?
                .first()
                .map(|entry| entry.log_id),
            None => None,
        };
        let mut mem = self.mem();
        mem.retain(|index| index < since);
        mem.last = before.max(mem.purged);
        self.queue(&mut mem, Change::Truncate { since })
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut mem = self.mem();
        mem.retain(|index| index > log_id.index);
        mem.purged = mem.purged.max(Some(log_id));
        mem.last = mem.last.max(Some(log_id));
        self.queue(&mut mem, Change::Purge { upto: log_id })
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        Ok(())
    }
}

/// Opens the database and looks at all of it.
fn open(
    storage: Box<dyn StorageBackend>,
    node_id: u64,
    boot: &str,
) -> std::io::Result<(Database, Found)> {
    let mut db = redb::Builder::new()
        .set_cache_size(DB_CACHE)
        .create_with_backend(Summed::new(storage))
        .map_err(|e| writer::io_error(e.into()))?;
    // By the checksums that lead from its head to every page: afterwards it is known to be whole.
    let whole = db
        .check_integrity()
        .map_err(|e| writer::io_error(e.into()))?;
    if !whole {
        let what = "its pages are not those that its head tells of";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    }
    let found = writer::open(&db, node_id, boot).map_err(writer::io_error)?;
    Ok((db, found))
}

fn size(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(command) => command.len() + 48,
        EntryPayload::Blank | EntryPayload::Membership(_) => 64,
    }
}

fn decode(bytes: &[u8]) -> Result<Entry, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Corrupt {
        file: LOG_FILE.into(),
        detail: format!("an entry cannot be decoded: {e}"),
    })
}

/// The command of an entry, if it has one.
pub(crate) fn command(entry: Entry) -> Option<Bytes> {
    match entry.payload {
        EntryPayload::Normal(command) => Some(command),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}
