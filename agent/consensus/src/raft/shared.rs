//! What the message handler, the driver and the connections of one node share: the election
//! clock, and whether a hand-over is going on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::election::{Election, Time};
use crate::ConsensusConfig;

/// How long a node that the leader asked to stand may say so in its requests for votes.
const HAND_OVER: Duration = Duration::from_secs(3);

pub(crate) struct Shared {
    started: Instant,
    election: Mutex<Election>,
    following: AtomicUsize,
    stands_until: Mutex<Option<Instant>>,
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

    pub(crate) fn is_following(&self) -> bool {
        self.following.load(Ordering::SeqCst) > 0
    }

    /// The leader asked this node to take over.
    pub(crate) fn stand_for_leader(&self) {
        *lock(&self.stands_until) = Some(Instant::now() + HAND_OVER);
    }

    pub(crate) fn stands_for_leader(&self) -> bool {
        lock(&self.stands_until).is_some_and(|until| Instant::now() < until)
    }
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
