//! Says something that others can provoke at most once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// One kind of message.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Calls `say` with how many times it was not called since it was last, if that is long enough ago.
    pub(crate) fn tell(&self, say: impl FnOnce(u64)) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| at.elapsed() < EVERY) {
            last.1 += 1;
            return;
        }
        let unsaid = std::mem::take(&mut last.1);
        last.0 = Some(Instant::now());
        drop(last);
        say(unsaid);
    }
}
