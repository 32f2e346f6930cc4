//! The serving side of observation: a replica as a stream of snapshot, entries and heartbeats.
//! Any node can serve it, voter or observer.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Replica;

/// One message to an observer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObserveItem {
    /// The whole state. It comes when the observer is new or has fallen behind the recent entries.
    Snapshot {
        /// The last entry that is in it.
        index: u64,
        /// What the state machine made of it.
        bytes: Bytes,
    },
    /// The next log entry.
    Entry {
        /// Its index: one more than that of the item before.
        index: u64,
        /// Its command; some entries have none (changes of the voters, new terms).
        command: Option<Bytes>,
    },
    /// The source is alive. First item of every stream, then in regular intervals and at once
    /// when the leader changes.
    Heartbeat {
        /// The last entry that the source has applied.
        applied: u64,
        /// How long ago the source was last known to be up to date; `None` if never.
        stale_for: Option<Duration>,
        /// The leader that the source knows to be alive.
        leader: Option<u64>,
    },
}

/// A stream of observation; it does not end by itself. It produces as fast as it is polled, so
/// that the transport's own flow control is the back-pressure.
pub type ObserveStream = BoxStream<'static, ObserveItem>;

const BATCH: usize = 64;

impl Replica {
    /// Everything after entry `from`, which the observer has, and then everything that comes.
    #[must_use]
    pub fn observe(&self, from: u64) -> ObserveStream {
        let server = Server {
            replica: self.clone(),
            applied: self.watch_applied(),
            leader: self.watch_leader(),
            sent: from,
            ready: VecDeque::new(),
            heartbeat_at: Instant::now(),
        };
        stream::unfold(server, |mut server| async move {
            let item = server.next().await;
            Some((item, server))
        })
        .boxed()
    }
}

struct Server {
    replica: Replica,
    applied: watch::Receiver<u64>,
    leader: watch::Receiver<Option<u64>>,
    sent: u64,
    ready: VecDeque<ObserveItem>,
    heartbeat_at: Instant,
}

impl Server {
    async fn next(&mut self) -> ObserveItem {
        loop {
            if Instant::now() >= self.heartbeat_at {
                self.heartbeat_at = Instant::now() + self.replica.config().heartbeat;
                // Staleness first: what is applied after it is read only makes it more true.
                let stale_for = self.replica.staleness();
                return ObserveItem::Heartbeat {
                    applied: self.replica.applied_index(),
                    stale_for,
                    leader: *self.leader.borrow_and_update(),
                };
            }
            if let Some(item) = self.ready.pop_front() {
                return item;
            }
            self.applied.borrow_and_update();
            match self.replica.recent_after(self.sent, BATCH) {
                None => {
                    let snapshot = self.replica.snapshot().await;
                    self.sent = snapshot.index;
                    return ObserveItem::Snapshot {
                        index: snapshot.index,
                        bytes: snapshot.bytes,
                    };
                }
                Some(entries) if entries.is_empty() => {
                    tokio::select! {
                        changed = self.applied.changed() => debug_assert!(changed.is_ok()),
                        _ = self.leader.changed() => self.heartbeat_at = Instant::now(),
                        () = tokio::time::sleep_until(self.heartbeat_at) => {}
                    }
                }
                Some(entries) => {
                    for (index, command) in entries {
                        self.sent = index;
                        self.ready.push_back(ObserveItem::Entry { index, command });
                    }
                }
            }
        }
    }
}
