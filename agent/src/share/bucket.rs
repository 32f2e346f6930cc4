//! A token bucket: how long to wait so that a rate is kept. Pure: told the time and the bytes, it says the pause.

use std::time::Duration;

/// How much may pass at once after a rest, as a part of a second's worth; never less than one piece of a layer.
const BURST_PART: u64 = 10;
const LEAST_BURST: u64 = 64 << 10;

/// Bytes that may pass. Whoever takes more than there are goes into debt and waits until it is paid.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// Bytes at most; in nanoseconds' worth of the rate below.
    burst: u128,
    /// Billionths of bytes, below zero while there is debt.
    level: i128,
    at: Duration,
}

const BILLION: u128 = 1_000_000_000;

impl Bucket {
    /// A full bucket. `rate` is bytes a second, at least one.
    pub(crate) fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        let burst = u128::from((rate / BURST_PART).max(LEAST_BURST)) * BILLION;
        Self {
            rate,
            burst,
            level: burst.cast_signed(),
            at: Duration::ZERO,
        }
    }

    /// Takes `bytes` at the time `now`, counted from any moment on; says how long to wait after that.
    pub(crate) fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        let filled = passed.saturating_mul(u128::from(self.rate));
        let filled = i128::try_from(filled).unwrap_or(i128::MAX);
        self.level = (self.level.saturating_add(filled)).min(self.burst.cast_signed());
        self.level -= (u128::from(bytes) * BILLION).cast_signed();
        if self.level >= 0 {
            return Duration::ZERO;
        }
        let nanos = self.level.unsigned_abs() / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_at_once_and_more_waits() {
        let mut bucket = Bucket::new(1 << 20);
        assert_eq!(bucket.take(Duration::ZERO, 100 << 10), Duration::ZERO);
        let pause = bucket.take(Duration::ZERO, 1 << 20);
        assert!(pause > Duration::from_millis(900) && pause < Duration::from_millis(1100));
        // Paid back after that, and full again a while later.
        assert_eq!(
            bucket.take(Duration::from_secs(10), 100 << 10),
            Duration::ZERO
        );
    }

    proptest! {
        #[test]
        fn whoever_waits_as_told_never_exceeds_rate_and_burst(
            rate in 1u64..1 << 32,
            steps in proptest::collection::vec((0u64..1 << 18, 0u64..100_000_000), 1..100),
        ) {
            let mut bucket = Bucket::new(rate);
            let burst = (rate / BURST_PART).max(LEAST_BURST);
            let (mut now, mut passed, mut largest) = (Duration::ZERO, 0u128, 0u64);
            for (bytes, rest) in steps {
                now += Duration::from_nanos(rest);
                now += bucket.take(now, bytes);
                passed += u128::from(bytes);
                largest = largest.max(bytes);
                let allowed = now.as_nanos() * u128::from(rate) / BILLION;
                // Nanoseconds are rounded down, each time.
                let slack = u128::from(rate) / BILLION + 1;
                prop_assert!(passed <= allowed + u128::from(burst) + 100 * slack);
            }
        }

        #[test]
        fn it_never_makes_anyone_wait_longer_than_what_is_owed(rate in 1u64..1 << 32, bytes in 0u64..1 << 20) {
            let mut bucket = Bucket::new(rate);
            let pause = bucket.take(Duration::from_secs(1), bytes);
            prop_assert!(pause.as_nanos() * u128::from(rate) <= u128::from(bytes) * BILLION);
        }
    }
}
