//! What checks of a container's health come to, and when the next is due. Pure: what was found and the time in, the
//! state out. It must not know how a check is made.

use std::time::Duration;
use swarm_api::model::{HealthPlan, HealthState, Timestamp};

/// The first wait of a container that has not passed a check, where its plan does not say how long. It doubles from
/// check to check.
const EARLY: Duration = Duration::from_millis(250);
/// The longest of these waits.
const EARLY_MAX: Duration = Duration::from_secs(5);

/// The health of one container. It only ever moves from starting to healthy, and from both to unhealthy.
///
/// While it starts it is checked more often than later, so that it is found soon once it works. Until its start period
/// is over, and one interval has passed at least, a check can only bring good news: a failure does not count then.
#[derive(Debug, Clone)]
pub(super) struct Monitor {
    plan: HealthPlan,
    started_at: Timestamp,
    state: HealthState,
    /// Counted ones in a row.
    failures: u32,
    /// Checks that it has not passed since it began.
    early: u32,
}

impl Monitor {
    /// Of a container that runs since `started_at`, and was in `state` when that was last known.
    pub(super) fn new(plan: HealthPlan, started_at: Timestamp, state: HealthState) -> Self {
        Self {
            plan,
            started_at,
            state,
            failures: 0,
            early: 0,
        }
    }

    pub(super) fn state(&self) -> HealthState {
        self.state
    }

    pub(super) fn plan(&self) -> &HealthPlan {
        &self.plan
    }

    /// How long to wait for the next check, at `now`; none when nothing more is to be found.
    pub(super) fn wait(&self, now: Timestamp) -> Option<Duration> {
        if self.state == HealthState::Unhealthy {
            return None;
        }
        let interval = self.plan.interval;
        let left = self.grace_ends().since(now);
        if self.state != HealthState::Starting || left.is_zero() {
            return Some(interval);
        }
        let grown = EARLY.saturating_mul(1 << self.early.min(10)).min(EARLY_MAX);
        Some(
            self.plan
                .start_interval
                .unwrap_or(grown)
                .min(interval)
                .min(left),
        )
    }

    /// Takes in what a check found that began at `began`. The state, where that is another one now.
    pub(super) fn note(&mut self, began: Timestamp, passed: bool) -> Option<HealthState> {
        let before = self.state;
        if before == HealthState::Unhealthy {
            return None;
        }
        if passed {
            self.failures = 0;
            self.state = HealthState::Healthy;
        } else if before == HealthState::Starting && began < self.grace_ends() {
            self.early += 1;
        } else {
            self.failures += 1;
            if self.failures >= self.plan.retries {
                self.state = HealthState::Unhealthy;
            }
        }
        (self.state != before).then_some(self.state)
    }

    fn grace_ends(&self) -> Timestamp {
        self.started_at
            .plus(self.plan.start_period.max(self.plan.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use swarm_api::model::HealthTest;

    fn plan(interval: u64, start_period: u64, retries: u32) -> HealthPlan {
        HealthPlan {
            test: HealthTest::Tcp { port: 1 },
            interval: Duration::from_millis(interval),
            timeout: Duration::from_secs(1),
            start_period: Duration::from_millis(start_period),
            start_interval: None,
            retries,
        }
    }

    fn fresh(plan: HealthPlan) -> Monitor {
        Monitor::new(plan, Timestamp(0), HealthState::Starting)
    }

    #[test]
    fn a_container_that_works_is_found_long_before_one_interval_is_over() {
        let mut monitor = fresh(plan(30_000, 0, 3));
        assert_eq!(monitor.wait(Timestamp(0)), Some(EARLY));
        assert_eq!(monitor.note(Timestamp(250), false), None);
        assert_eq!(monitor.wait(Timestamp(300)), Some(EARLY * 2));
        let healthy = Some(HealthState::Healthy);
        assert_eq!(monitor.note(Timestamp(800), true), healthy);
        assert_eq!(monitor.wait(Timestamp(900)), Some(Duration::from_secs(30)));
        assert_eq!(monitor.note(Timestamp(40_000), true), None);
    }

    #[test]
    fn failures_count_from_the_end_of_the_start_period_or_of_the_first_interval() {
        for (start_period, first) in [(0, 1000), (500, 1000), (5000, 5000)] {
            let mut monitor = fresh(plan(1000, start_period, 2));
            for time in [1, 999, first - 1] {
                assert_eq!(monitor.note(Timestamp(time), false), None);
            }
            assert_eq!(monitor.note(Timestamp(first), false), None);
            let unhealthy = Some(HealthState::Unhealthy);
            assert_eq!(monitor.note(Timestamp(first + 1000), false), unhealthy);
            assert_eq!(monitor.wait(Timestamp(first + 1001)), None);
        }
    }

    #[test]
    fn once_it_was_healthy_the_start_period_is_over() {
        let mut monitor = fresh(plan(1000, 60_000, 1));
        monitor.note(Timestamp(10), true);
        assert_eq!(
            monitor.note(Timestamp(20), false),
            Some(HealthState::Unhealthy)
        );
    }

    #[test]
    fn a_healthy_container_that_is_found_again_stays_healthy() {
        let monitor = Monitor::new(plan(1000, 60_000, 3), Timestamp(0), HealthState::Healthy);
        assert_eq!(monitor.wait(Timestamp(5)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn its_own_start_interval_goes_before_ours() {
        let mut monitor = fresh(HealthPlan {
            start_interval: Some(Duration::from_secs(2)),
            ..plan(30_000, 0, 3)
        });
        for time in 1..20 {
            assert_eq!(monitor.wait(Timestamp(time)), Some(Duration::from_secs(2)));
            monitor.note(Timestamp(time), false);
        }
    }

    proptest! {
        /// Whatever comes: the state only moves on, a check that is passed makes it healthy, and it is unhealthy with
        /// exactly `retries` failures in a row after the grace or after it was healthy. There is always a next check
        /// before that, no later than an interval from now, and never at once for ever.
        #[test]
        fn it_is_unhealthy_after_so_many_failures_in_a_row_and_not_before(
            interval in 100u64..5000,
            start_period in 0u64..10_000,
            retries in 1u32..5,
            checks in proptest::collection::vec((0u64..3000, any::<bool>()), 0..60),
        ) {
            let grace = interval.max(start_period);
            let mut monitor = fresh(plan(interval, start_period, retries));
            let (mut now, mut failures, mut state) = (0, 0, HealthState::Starting);
            for (took, passed) in checks {
                let Some(wait) = monitor.wait(Timestamp(now)) else {
                    prop_assert_eq!(state, HealthState::Unhealthy);
                    prop_assert_eq!(monitor.note(Timestamp(now), passed), None);
                    continue;
                };
                prop_assert!(wait > Duration::ZERO && wait <= Duration::from_millis(interval));
                now += u64::try_from(wait.as_millis()).unwrap();
                let before = state;
                if passed {
                    (state, failures) = (HealthState::Healthy, 0);
                } else if state == HealthState::Healthy || now >= grace {
                    failures += 1;
                    if failures == retries {
                        state = HealthState::Unhealthy;
                    }
                }
                let told = monitor.note(Timestamp(now), passed);
                prop_assert_eq!(told, (state != before).then_some(state));
                now += took;
            }
        }
    }
}
