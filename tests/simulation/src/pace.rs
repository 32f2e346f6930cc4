//! How fast a host's time goes, beside the simulation's. All timers of its agent and its wall clock follow it; it never goes
//! back.
//!
//! It must not know what time it is.

use crate::network::Micros;

/// A host's time, as a function of the simulation's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// How much faster than the simulation's it goes, of 1000; slower where it is negative.
    ahead: i16,
    /// Since when it goes so, by the simulation's time and by the host's.
    since: (Micros, Micros),
}

impl Pace {
    /// The host's time when the simulation's is `now`, which must not be before the last change.
    #[must_use]
    pub fn local(&self, now: Micros) -> Micros {
        let (global, local) = self.since;
        let rate = u64::try_from(1000 + i64::from(self.ahead)).unwrap_or_default();
        local + now.saturating_sub(global) * rate / 1000
    }

    /// From `now` on (by the simulation's time) the host's goes that much faster, of 1000.
    pub fn change(&mut self, now: Micros, ahead: i16) {
        self.since = (now, self.local(now));
        self.ahead = ahead;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_that_changes_neither_jumps_nor_goes_back() {
        let mut pace = Pace::default();
        assert_eq!(pace.local(1_000), 1_000);
        pace.change(1_000, 200);
        assert_eq!([1_000, 2_000].map(|now| pace.local(now)), [1_000, 2_200]);
        pace.change(2_000, -500);
        assert_eq!([2_000, 4_000].map(|now| pace.local(now)), [2_200, 3_200]);
        pace.change(4_000, 0);
        assert_eq!(pace.local(5_000), 4_200);
    }
}
