//! How fast to try again. Pure: no clock in it.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// A delay that doubles with each try in a row.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// How long to wait this time.
    pub(super) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(LONGEST);
        now
    }

    /// The next row of tries starts anew.
    pub(super) fn reset(&mut self) {
        self.0 = FIRST;
    }
}

/// Notices decisions that change nothing: the same one again and again on a state that does not take it up must not
/// fill the log.
#[derive(Debug)]
pub(super) struct Repeats<T> {
    last: Option<T>,
    backoff: Backoff,
}

impl<T> Default for Repeats<T> {
    fn default() -> Self {
        Self {
            last: None,
            backoff: Backoff::default(),
        }
    }
}

impl<T: PartialEq> Repeats<T> {
    /// How long to wait before `decision` is carried out; nothing unless it is the one before it again.
    pub(super) fn delay(&mut self, decision: T) -> Option<Duration> {
        if self.last.as_ref() == Some(&decision) {
            return Some(self.backoff.next());
        }
        self.last = Some(decision);
        self.backoff.reset();
        None
    }

    /// Nothing is to be decided: the next decision is a new one.
    pub(super) fn settle(&mut self) {
        self.last = None;
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_that_changes_nothing_is_made_ever_later() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.delay("a"), None);
        assert_eq!(repeats.delay("b"), None);
        let first = repeats.delay("b").unwrap();
        assert!(repeats.delay("b").unwrap() > first);
        for _ in 0..20 {
            assert!(repeats.delay("b").unwrap() <= LONGEST);
        }
        repeats.settle();
        assert_eq!(repeats.delay("b"), None);
        assert_eq!(repeats.delay("b"), Some(first));
    }
}
