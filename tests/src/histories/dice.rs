//! Random choices that follow from a seed, the same in each version of each library.

use std::time::Duration;

/// A source of random choices (splitmix64: Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Choices that follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A source of its own, that follows from this one.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: even enough for choices.
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or_default()
    }

    /// Whether something happens that happens `percent` times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `all`, which are some.
    pub fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let n = self.below(all.len() as u64);
        &all[usize::try_from(n).unwrap_or_default()]
    }

    /// A time from `least` to `most`.
    pub fn time(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(self.below(span.max(1)))
    }
}

/// A seed from `SEED`, or of the moment.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.unwrap_or_default().subsec_nanos()) ^ u64::from(std::process::id()) << 32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_from_the_seed_and_stay_within_bounds() {
        let (mut a, mut b) = (Dice::new(7), Dice::new(7));
        let mut counts = [0; 5];
        for _ in 0..1000 {
            let n = a.below(5);
            assert_eq!(n, b.below(5));
            counts[n as usize] += 1;
        }
        assert!(counts.iter().all(|c| (100..300).contains(c)), "{counts:?}");
        assert_ne!(a.fork().below(u64::MAX), a.below(u64::MAX));
        let time = a.time(Duration::from_secs(1), Duration::from_secs(2));
        assert!((1.0..2.0).contains(&time.as_secs_f64()));
    }
}
