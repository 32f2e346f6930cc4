//! Whether a slot of a service is to be filled, and when: what its newest task came to, and the restart policy.
//! It must not know where a task goes.

use crate::state::ServiceRecord;
use swarm_api::model::{DesiredState, Restart, Task, TaskState, Timestamp};

/// A task that a slot is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refill {
    /// See `Task::attempt`.
    pub(crate) attempt: u32,
    /// How long after the end of the task before, in milliseconds.
    pub(crate) delay_ms: u64,
}

impl Refill {
    const AT_ONCE: Self = Self {
        attempt: 0,
        delay_ms: 0,
    };

    /// When the task may start. A node's clock may be ahead: its task did not end after `now`.
    pub(crate) fn not_before(&self, newest: Option<&Task>, now: Timestamp) -> Timestamp {
        if self.delay_ms == 0 {
            return Timestamp(0);
        }
        let ended = newest.and_then(|t| t.status.finished_at).unwrap_or(now);
        Timestamp(ended.min(now).0.saturating_add(self.delay_ms))
    }
}

/// What `slot` is to get after `newest`, the newest task in it; nothing if it has what it needs, or its work is done.
/// `drained` says that the newest task's node is to be left.
///
/// - A slot that a user closed stays empty.
/// - A task that the cluster itself stopped (scaled to 0 and up again, removed by a user) is replaced at once.
/// - So is one that has to leave a drained node, whatever the policy: an operator moves it.
/// - A task that was lost with its node is replaced at once and without counting as an attempt, unless it is to run
///   once only (`never`): nobody knows how far it got.
/// - Otherwise the policy decides.
pub(crate) fn refill(
    record: &ServiceRecord,
    slot: u32,
    newest: Option<&Task>,
    drained: bool,
) -> Option<Refill> {
    let spec = &record.service.spec;
    if record.removing || slot == 0 || slot > spec.replicas || record.closed.contains(&slot) {
        return None;
    }
    let Some(task) = newest else {
        return Some(Refill::AT_ONCE);
    };
    let again = Refill {
        attempt: task.attempt,
        delay_ms: 0,
    };
    let (state, policy) = (task.status.state, &spec.restart);
    if !state.is_final() {
        return (drained && task.desired == DesiredState::Running).then_some(again);
    }
    match state {
        _ if task.desired != DesiredState::Running => Some(Refill::AT_ONCE),
        TaskState::Shutdown => Some(Refill::AT_ONCE),
        TaskState::Lost => (policy.condition != Restart::Never).then_some(again),
        _ => {
            let status = &task.status;
            let ran = match (status.started_at, status.finished_at) {
                (Some(started), Some(finished)) => finished.since(started),
                _ => std::time::Duration::ZERO,
            };
            let attempt = policy.next_attempt(task.attempt, ran);
            let delay = policy.delay(attempt.saturating_sub(1), state.is_failure())?;
            Some(Refill {
                attempt,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            })
        }
    }
}
