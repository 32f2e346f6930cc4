//! One node's copy of the state, fed by Raft on a member of the cluster's Raft group and by
//! observation elsewhere. It knows indexes, not what feeds it or what a command means.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ring::{LogEntry, Ring};
use crate::{Error, StateMachine};

/// Limits of a [`Replica`].
#[derive(Clone, Copy, Debug)]
pub struct ReplicaConfig {
    /// Recent entries kept in memory for observers. Default 4096.
    pub ring_entries: usize,
    /// The most that their commands may take, in bytes. Default 4 MiB.
    pub ring_bytes: usize,
    /// How often an observer that is up to date is told so. Default 1 s.
    pub heartbeat: Duration,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            ring_entries: 4096,
            ring_bytes: 4 * 1024 * 1024,
            heartbeat: Duration::from_secs(1),
        }
    }
}

/// The whole state at one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSnapshot {
    /// The last entry that is in it.
    pub index: u64,
    /// What the state machine made of it.
    pub bytes: Bytes,
}

/// A handle to this node's copy of the state. Clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
}

struct Shared {
    machine: Arc<dyn StateMachine>,
    config: ReplicaConfig,
    state: Mutex<State>,
    /// With a lock of its own: `state` is held while the machine takes a command, and who reads the machine may ask
    /// how fresh it is.
    fresh_at: Mutex<Option<Instant>>,
    applied: watch::Sender<u64>,
    /// Whether Raft feeds the replica. Changed only under the lock of `state`.
    raft_feeds: watch::Sender<bool>,
    leader: watch::Sender<Option<u64>>,
    /// One at a time: the state is turned into bytes once for many observers.
    snapshot: tokio::sync::Mutex<Option<ReplicaSnapshot>>,
    #[cfg(test)]
    tolerate_gaps: std::sync::atomic::AtomicBool,
}

struct State {
    applied: u64,
    ring: Ring,
}

impl Replica {
    /// A replica of an empty state. `machine` must be as new.
    #[must_use]
    pub fn new(machine: Arc<dyn StateMachine>, config: ReplicaConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                machine,
                config,
                state: Mutex::new(State {
                    applied: 0,
                    ring: Ring::new(config.ring_entries, config.ring_bytes),
                }),
                fresh_at: Mutex::new(None),
                applied: watch::Sender::new(0),
                raft_feeds: watch::Sender::new(false),
                leader: watch::Sender::new(None),
                snapshot: tokio::sync::Mutex::new(None),
                #[cfg(test)]
                tolerate_gaps: false.into(),
            }),
        }
    }

    /// The last log entry that is in the state; 0 if there is none.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        *self.shared.applied.borrow()
    }

    /// Follows [`applied_index`](Self::applied_index).
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Waits until the state contains entry `index`.
    pub async fn wait_for(&self, index: u64) {
        let mut applied = self.watch_applied();
        // The sender lives as long as `self`.
        let _ = applied.wait_for(|applied| *applied >= index).await;
    }

    /// How long ago this replica was last known to hold everything that the cluster had agreed
    /// on; `None` if it never was since the start. A replica is good for a stale answer as long
    /// as this is said with it.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.fresh_at().map(|at| at.elapsed())
    }

    /// The leader, as far as this node knows one that is alive: from Raft on a voter, from its
    /// source on an observer.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        *self.shared.leader.borrow()
    }

    /// Follows [`leader`](Self::leader).
    #[must_use]
    pub fn watch_leader(&self) -> watch::Receiver<Option<u64>> {
        self.shared.leader.subscribe()
    }

    /// Whether Raft feeds this replica (else it waits for an [`Observer`](crate::Observer)).
    #[must_use]
    pub fn fed_by_raft(&self) -> bool {
        *self.shared.raft_feeds.borrow()
    }

    /// The state at some recent index, as bytes. Nearly free when the last one is recent.
    pub async fn snapshot(&self) -> ReplicaSnapshot {
        let mut cached = self.shared.snapshot.lock().await;
        if let Some(snapshot) = cached.as_ref()
            && self.lock().ring.after(snapshot.index, 0).is_some()
        {
            return snapshot.clone();
        }
        let (index, frozen) = {
            let state = self.lock();
            (state.applied, self.shared.machine.freeze())
        };
        let bytes = serialise(frozen).await;
        let snapshot = ReplicaSnapshot { index, bytes };
        *cached = Some(snapshot.clone());
        snapshot
    }

    pub(crate) fn config(&self) -> &ReplicaConfig {
        &self.shared.config
    }

    pub(crate) fn watch_feed(&self) -> watch::Receiver<bool> {
        self.shared.raft_feeds.subscribe()
    }

    /// The state and its index at one instant, to be turned into bytes later.
    pub(crate) fn freeze(&self) -> (u64, crate::Frozen) {
        let state = self.lock();
        (state.applied, self.shared.machine.freeze())
    }

    /// From now on Raft feeds this replica; what observation brings is ignored. To be called
    /// before a command is proposed, so that its outcome comes from this node's own apply.
    pub(crate) fn claim(&self) {
        let _state = self.lock();
        self.shared.raft_feeds.send_if_modified(|fed| {
            let changed = !*fed;
            *fed = true;
            changed
        });
    }

    /// Raft feeds this replica no more: this node has left the group or hears nothing from it.
    pub(crate) fn release(&self) {
        let _state = self.lock();
        self.shared.raft_feeds.send_if_modified(|fed| {
            let changed = *fed;
            *fed = false;
            changed
        });
    }

    /// Applies entries that Raft has committed. Those that observation brought before are skipped
    /// with an empty outcome: nobody waits for it, as their proposer was another node.
    pub(crate) fn apply_committed(
        &self,
        entries: impl IntoIterator<Item = LogEntry>,
    ) -> Result<Vec<Bytes>, Error> {
        let mut outcomes = Vec::new();
        let mut state = self.lock();
        let mut reached = 0;
        for (index, command) in entries {
            reached = index;
            if index <= state.applied {
                outcomes.push(Bytes::new());
                continue;
            }
            outcomes.push(self.apply_next(&mut state, index, command)?);
        }
        // Raft has caught up with what observation brought.
        if reached >= state.applied {
            self.shared
                .raft_feeds
                .send_if_modified(|fed| !std::mem::replace(fed, true));
        }
        self.publish(&state);
        Ok(outcomes)
    }

    /// Applies one entry that observation brought. Ignored when Raft feeds the replica or the
    /// entry is in the state already.
    pub(crate) fn apply_observed(&self, index: u64, command: Option<Bytes>) -> Result<(), Error> {
        let mut state = self.lock();
        if self.fed_by_raft() || index <= state.applied {
            return Ok(());
        }
        self.apply_next(&mut state, index, command)?;
        self.publish(&state);
        Ok(())
    }

    /// Replaces the state by a snapshot, if that is newer.
    pub(crate) fn restore(&self, index: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.lock();
        if index <= state.applied {
            return Ok(());
        }
        self.shared
            .machine
            .restore(index, bytes)
            .map_err(|detail| Error::Restore { index, detail })?;
        state.applied = index;
        state.ring.restart_after(index);
        self.publish(&state);
        Ok(())
    }

    /// Like [`restore`](Self::restore), but ignored when Raft feeds the replica.
    pub(crate) fn restore_observed(&self, index: u64, bytes: &[u8]) -> Result<(), Error> {
        if self.fed_by_raft() {
            return Ok(());
        }
        self.restore(index, bytes)
    }

    /// The cluster had agreed on nothing beyond what is in this replica, at the time `at`.
    pub(crate) fn mark_fresh(&self, at: Instant) {
        let mut fresh_at = self.fresh_at();
        if fresh_at.is_none_or(|old| old < at) {
            *fresh_at = Some(at);
        }
    }

    pub(crate) fn set_leader(&self, leader: Option<u64>) {
        self.shared.leader.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
    }

    pub(crate) fn recent_after(&self, index: u64, max: usize) -> Option<Vec<LogEntry>> {
        self.lock().ring.after(index, max)
    }

    fn apply_next(
        &self,
        state: &mut State,
        index: u64,
        command: Option<Bytes>,
    ) -> Result<Bytes, Error> {
        if index != state.applied + 1 && !self.tolerates_gaps() {
            return Err(Error::Gap {
                applied: state.applied,
                found: index,
            });
        }
        let outcome = match &command {
            Some(command) => self.shared.machine.apply(index, command),
            None => Bytes::new(),
        };
        state.applied = index;
        let machine = &self.shared.machine;
        state
            .ring
            .push(index, command.map(|command| machine.keep(index, command)));
        Ok(outcome)
    }

    #[cfg(not(test))]
    fn tolerates_gaps(&self) -> bool {
        false
    }

    /// The library's test suite applies single entries from the middle of a log.
    #[cfg(test)]
    fn tolerates_gaps(&self) -> bool {
        self.shared
            .tolerate_gaps
            .load(std::sync::atomic::Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(crate) fn tolerate_gaps(&self) {
        self.shared
            .tolerate_gaps
            .store(true, std::sync::atomic::Ordering::SeqCst);
    }

    fn publish(&self, state: &State) {
        self.shared.applied.send_if_modified(|applied| {
            let changed = *applied != state.applied;
            *applied = state.applied;
            changed
        });
    }

    fn fresh_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shared
            .fresh_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("applied", &self.applied_index())
            .field("fed_by_raft", &self.fed_by_raft())
            .finish_non_exhaustive()
    }
}

/// Runs the closure where it does not hold up other tasks.
pub(crate) async fn serialise(frozen: crate::Frozen) -> Bytes {
    // A current-thread runtime is a simulation: it wants no other threads.
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => frozen(),
        _ => match tokio::task::spawn_blocking(frozen).await {
            Ok(bytes) => bytes,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down and nobody will see the result.
                Err(_) => Bytes::new(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    /// Asks its own replica while it applies, as a reader on another thread might that holds the machine's lock.
    #[derive(Default)]
    struct Asking(OnceLock<Replica>);

    impl StateMachine for Asking {
        fn apply(&self, _index: u64, _command: &Bytes) -> Bytes {
            let replica = self.0.get().unwrap();
            let (applied, leader) = (replica.applied_index(), replica.leader());
            format!("{applied} {leader:?} {:?}", replica.staleness()).into()
        }

        fn freeze(&self) -> crate::Frozen {
            Box::new(Bytes::new)
        }

        fn restore(&self, _index: u64, _snapshot: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_said_of_a_replica_needs_no_lock_that_is_held_while_a_command_is_applied() {
        let machine = Arc::new(Asking::default());
        let replica = Replica::new(machine.clone(), ReplicaConfig::default());
        machine.0.set(replica.clone()).ok();
        let outcomes = replica
            .apply_committed([(1, Some(Bytes::from("a")))])
            .unwrap();
        assert_eq!(outcomes, ["0 None None"]);
    }
}
