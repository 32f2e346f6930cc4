//! What the message handler, the driver and the connections of one node share: the election
//! clock, and whether a hand-over is going on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::election::{Election, LastLog, Time};
use super::witness::Witness;
use crate::ConsensusConfig;

/// How long a node that the leader asked to stand may say so in its requests for votes.
const HAND_OVER: Duration = Duration::from_secs(3);
/// How long a longer log that was heard of is waited for. Whoever has it may not come back.
const FLOOR_STANDS: Duration = Duration::from_secs(20);

pub(crate) struct Shared {
    started: Instant,
    election: Mutex<Election>,
    following: AtomicUsize,
    stands_until: Mutex<Option<Instant>>,
    /// What is known of the others' logs.
    pub(crate) witness: Arc<Witness>,
    trust: Mutex<Trust>,
    declines: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: &ConsensusConfig) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            election: Mutex::new(Election::new(
                config.election_timeout_min,
                config.election_timeout_max,
                config.seed,
                Duration::ZERO,
            )),
            following: AtomicUsize::new(0),
            stands_until: Mutex::new(None),
            witness: Arc::default(),
            trust: Mutex::new(Trust::Asking),
            declines: AtomicBool::new(false),
        })
    }

    /// The election state and the time to ask it about.
    pub(crate) fn election(&self) -> (MutexGuard<'_, Election>, Time) {
        let now = self.started.elapsed();
        (lock(&self.election), now)
    }

    /// Counts a leader's message as being worked on until the guard is dropped.
    pub(crate) fn following(self: &Arc<Self>) -> Following {
        self.following.fetch_add(1, Ordering::SeqCst);
        Following(Arc::clone(self))
    }

    /// The log was opened: nothing counts on it before the others were asked.
    pub(crate) fn distrust(&self) {
        *lock(&self.trust) = Trust::Asking;
    }

    /// The log is good as far as anyone can tell. Another voter's log ended at `floor`: it may be what a quorum with this
    /// node's word once agreed on, and is waited for.
    pub(crate) fn trust(&self, floor: LastLog) {
        let until = Instant::now() + FLOOR_STANDS;
        *lock(&self.trust) = Trust::Good { floor, until };
    }

    pub(crate) fn is_trusted(&self) -> bool {
        matches!(*lock(&self.trust), Trust::Good { .. })
    }

    /// Whether a log that ends at `last` is not to lead.
    pub(crate) fn is_below_floor(&self, last: LastLog) -> bool {
        match *lock(&self.trust) {
            Trust::Asking => true,
            Trust::Good { floor, until } => last < floor && Instant::now() < until,
        }
    }

    /// What a person is told while it asks.
    pub(crate) fn waits_for_others(&self) -> Option<String> {
        (!self.is_trusted()).then(|| {
            "asking the other voters whether this node's log is what they were told; it votes after that".to_owned()
        })
    }

    pub(crate) fn is_following(&self) -> bool {
        self.following.load(Ordering::SeqCst) > 0
    }

    /// The leader asked this node to take over.
    pub(crate) fn stand_for_leader(&self) {
        *lock(&self.stands_until) = Some(Instant::now() + HAND_OVER);
    }

    /// Whether this node takes over from no leader that asks it.
    pub(crate) fn decline(&self, declines: bool) {
        self.declines.store(declines, Ordering::SeqCst);
    }

    pub(crate) fn declines(&self) -> bool {
        self.declines.load(Ordering::SeqCst)
    }

    pub(crate) fn stands_for_leader(&self) -> bool {
        lock(&self.stands_until).is_some_and(|until| Instant::now() < until)
    }
}

/// Whether this node's log may be counted on.
#[derive(Clone, Copy, Debug)]
enum Trust {
    /// It was just opened; the others are being asked.
    Asking,
    /// It is, and it votes for nobody who has less than `floor`, until then at the latest.
    Good { floor: LastLog, until: Instant },
}

pub(crate) struct Following(Arc<Shared>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.following.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
