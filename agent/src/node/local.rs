//! The tasks of this node as observed: those that the host has, and those that have not got as far as the host or
//! never will (their image is on its way, or they were refused). It must not know what is wanted of them.

use crate::runtime::Runtime;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use swarm_api::model::{Id, Task, TaskState, TaskStatus, Timestamp};
use tokio::sync::watch;

/// What is observed on this node.
pub(super) struct Local {
    pub(super) host: Arc<dyn Runtime>,
    /// Tasks that the host has no record of, or none that counts.
    own: Mutex<BTreeMap<Id, Task>>,
    changed: watch::Sender<u64>,
}

/// Tells of changes from its making on.
pub(super) struct Changes {
    host: watch::Receiver<u64>,
    own: watch::Receiver<u64>,
}

impl Local {
    pub(super) fn new(host: Arc<dyn Runtime>) -> Self {
        Self {
            host,
            own: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// All tasks, with their status.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let host = self.host.cluster_tasks();
        merge(
            host,
            &self.own.lock().unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Whether the host has a record of the task.
    pub(super) fn host_has(&self, id: &Id) -> bool {
        self.host.cluster_tasks().iter().any(|t| t.id == *id)
    }

    /// From now on this is the status of a task that the host does not have.
    pub(super) fn set(&self, task: &Task, state: TaskState, message: String, now: Timestamp) {
        let status = TaskStatus {
            state,
            message,
            finished_at: state.is_final().then_some(now),
            observed_at: now,
            ..TaskStatus::default()
        };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let same = own
            .get(&task.id)
            .is_some_and(|t| t.status.state == status.state && t.status.message == status.message);
        if !same {
            let task = Task {
                status,
                ..task.clone()
            };
            own.insert(task.id.clone(), task);
            drop(own);
            self.touch();
        }
    }

    /// What the host says of the task counts alone.
    pub(super) fn forget(&self, id: &Id) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.remove(id).is_some() {
            drop(own);
            self.touch();
        }
    }

    pub(super) fn changes(&self) -> Changes {
        Changes {
            host: self.host.changes(),
            own: self.changed.subscribe(),
        }
    }

    fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

impl Changes {
    /// Waits for a change since the last time. Never returns once the host is gone.
    pub(super) async fn next(&mut self) {
        let gone = tokio::select! {
            changed = self.host.changed() => changed.is_err(),
            changed = self.own.changed() => changed.is_err(),
        };
        if gone {
            std::future::pending::<()>().await;
        }
    }
}

/// The host knows better, unless a task ended without it.
fn merge(host: Vec<Task>, own: &BTreeMap<Id, Task>) -> Vec<Task> {
    let mut tasks: BTreeMap<Id, Task> = host.into_iter().map(|t| (t.id.clone(), t)).collect();
    for (id, task) in own {
        let counts = tasks
            .get(id)
            .is_none_or(|known| task.status.state.is_final() && !known.status.state.is_final());
        if counts {
            tasks.insert(id.clone(), task.clone());
        }
    }
    tasks.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::*;

    fn with(number: u32, state: TaskState) -> Task {
        let mut task = task(number);
        task.status.state = state;
        task
    }

    fn states(host: &[Task], own: &[Task]) -> Vec<TaskState> {
        let own = own.iter().map(|t| (t.id.clone(), t.clone())).collect();
        let merged = merge(host.to_vec(), &own);
        merged.into_iter().map(|t| t.status.state).collect()
    }

    #[test]
    fn what_the_host_says_counts_before_what_was_said_before_it_was_asked() {
        let (preparing, running) = (with(1, TaskState::Preparing), with(1, TaskState::Running));
        assert_eq!(
            states(&[running], std::slice::from_ref(&preparing)),
            [TaskState::Running]
        );
        assert_eq!(states(&[], &[preparing]), [TaskState::Preparing]);
    }

    #[test]
    fn a_refusal_counts_where_the_host_has_not_seen_an_end() {
        let (rejected, starting) = (with(1, TaskState::Rejected), with(1, TaskState::Starting));
        assert_eq!(
            states(&[starting], std::slice::from_ref(&rejected)),
            [TaskState::Rejected]
        );
        let failed = with(1, TaskState::Failed);
        assert_eq!(states(&[failed], &[rejected]), [TaskState::Failed]);
    }
}
