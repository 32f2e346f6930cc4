//! When a task that ended is replaced, and how long the replacement waits. Pure: attempts in, delay out.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which ends of a task call for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// None: the task runs once.
    Never,
    /// An exit code other than 0, a signal, a failed start, a lost node.
    #[default]
    OnFailure,
    /// Every end.
    Always,
}

impl std::str::FromStr for Restart {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "never" | "no" => Ok(Self::Never),
            "on-failure" => Ok(Self::OnFailure),
            "always" | "unless-stopped" => Ok(Self::Always),
            _ => Err(Error::Invalid(format!(
                "\"{text}\" is not a restart policy: use never, on-failure or always"
            ))),
        }
    }
}

impl std::fmt::Display for Restart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        })
    }
}

/// When to replace a task and how fast. The delay doubles with each attempt in a row, up to a maximum; a task
/// that ran for `reset_after_ms` starts the row anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Which ends call for a replacement.
    pub condition: Restart,
    /// How many replacements in a row at the most; no limit if none.
    pub max_attempts: Option<u32>,
    /// The delay before the first replacement, in milliseconds.
    pub delay_ms: u64,
    /// The longest delay, in milliseconds.
    pub max_delay_ms: u64,
    /// A run of this many milliseconds counts as healthy and starts the row anew.
    pub reset_after_ms: u64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: Restart::default(),
            max_attempts: None,
            delay_ms: 100,
            max_delay_ms: 30_000,
            reset_after_ms: 10_000,
        }
    }
}

impl RestartPolicy {
    /// The default back-off with this condition.
    #[must_use]
    pub fn with(condition: Restart) -> Self {
        Self {
            condition,
            ..Self::default()
        }
    }

    /// How long to wait before replacement number `attempt` in a row (0 is the first) of a task that ended in
    /// `failure` or success; `None` when it is not to be replaced.
    #[must_use]
    pub fn delay(&self, attempt: u32, failure: bool) -> Option<Duration> {
        let wanted = match self.condition {
            Restart::Never => false,
            Restart::OnFailure => failure,
            Restart::Always => true,
        };
        if !wanted || self.max_attempts.is_some_and(|max| attempt >= max) {
            return None;
        }
        let factor = 1u64.checked_shl(attempt.min(32)).unwrap_or(u64::MAX);
        Some(Duration::from_millis(
            self.delay_ms.saturating_mul(factor).min(self.max_delay_ms),
        ))
    }

    /// The number of the next attempt in a row, after one numbered `attempt` which ran for `ran`.
    #[must_use]
    pub fn next_attempt(&self, attempt: u32, ran: Duration) -> u32 {
        if ran >= Duration::from_millis(self.reset_after_ms) {
            0
        } else {
            attempt.saturating_add(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_delay_never_shrinks_within_a_row_and_stays_under_its_maximum(attempt in 0u32..1000) {
            let policy = RestartPolicy::with(Restart::Always);
            let (now, next) = (policy.delay(attempt, true).unwrap(), policy.delay(attempt + 1, true).unwrap());
            prop_assert!(now <= next && next <= Duration::from_millis(policy.max_delay_ms));
        }
    }

    #[test]
    fn success_ends_a_task_that_restarts_on_failure() {
        let policy = RestartPolicy::default();
        assert_eq!(policy.delay(0, false), None);
        assert!(policy.delay(0, true).is_some());
    }
}
