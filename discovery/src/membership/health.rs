//! Lifeguard's local health multiplier: a node that is itself slow must doubt itself before it doubts others.
//!
//! From "Lifeguard: Local Health Awareness for More Accurate Failure Detection" (Dadgar, Phillips, Currey, 2017),
//! section IV-A. Signs of trouble here raise a score, each probe that is answered lowers it, and every timeout is
//! stretched by `1 + score`.

use std::time::Duration;

/// A sign of this node's own health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthEvent {
    /// A probe of ours was answered in time.
    ProbeAnswered,
    /// A timer ran well after it was due: this process or this host is short of CPU.
    LateTimer,
    /// A probe failed, and none of the helpers that should have been heard from was heard from either.
    HelpersSilent,
    /// Somebody suspected this node and it had to refute.
    Refuted,
}

/// The score and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalHealth {
    score: u32,
    max: u32,
}

impl LocalHealth {
    /// A healthy node whose score will never exceed `max` (8 in the paper).
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { score: 0, max }
    }

    /// Takes one sign into account.
    pub fn note(&mut self, event: HealthEvent) {
        self.score = match event {
            HealthEvent::ProbeAnswered => self.score.saturating_sub(1),
            HealthEvent::LateTimer | HealthEvent::HelpersSilent | HealthEvent::Refuted => {
                self.score.saturating_add(1).min(self.max)
            }
        };
    }

    /// 0 for a healthy node, the maximum for one that should trust nothing it concludes.
    #[must_use]
    pub fn score(&self) -> u32 {
        self.score
    }

    /// The timeout that this node should use in place of `base`.
    #[must_use]
    pub fn stretch(&self, base: Duration) -> Duration {
        base.saturating_mul(self.score.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = HealthEvent> {
        prop_oneof![
            Just(HealthEvent::ProbeAnswered),
            Just(HealthEvent::LateTimer),
            Just(HealthEvent::HelpersSilent),
            Just(HealthEvent::Refuted),
        ]
    }

    proptest! {
        #[test]
        fn the_score_stays_within_its_bounds(max in 0u32..20, events in prop::collection::vec(any_event(), 0..200)) {
            let mut health = LocalHealth::new(max);
            for event in events {
                let before = health.score();
                health.note(event);
                prop_assert!(health.score() <= max);
                prop_assert!(health.score().abs_diff(before) <= 1);
                if event == HealthEvent::ProbeAnswered {
                    prop_assert!(health.score() <= before);
                } else {
                    prop_assert!(health.score() >= before);
                }
            }
        }

        #[test]
        fn a_slow_node_recovers_after_as_many_good_probes(events in prop::collection::vec(any_event(), 0..200), base in 1u64..10_000) {
            let base = Duration::from_millis(base);
            let mut health = LocalHealth::new(8);
            for event in events {
                health.note(event);
                prop_assert!(health.stretch(base) >= base);
                prop_assert!(health.stretch(base) <= base * 9);
            }
            for _ in 0..8 {
                health.note(HealthEvent::ProbeAnswered);
            }
            prop_assert_eq!(health.stretch(base), base);
        }
    }
}
