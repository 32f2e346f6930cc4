//! Stopping, and waiting for an end.

use super::reads::sure;
use super::{Cluster, await_state, names};
use std::time::Duration;
use swarm_api::model::{ExitStatus, Id, ServiceChange, Task, TaskState};
use swarm_api::{Error, Result};
use swarm_cluster::{Change, State};

impl Cluster {
    /// A task's end is in the state only after its process has ended; so this returns after that.
    pub(super) async fn stop(&self, name: &str, timeout: Option<Duration>) -> Result<()> {
        let freshness = self.fresh().await?;
        let target = names::service_or_task(&self.member.state(), name);
        let target = sure(&freshness, target)?;
        let live = live_ids(&self.member.state(), &target);
        if let Some(timeout) = timeout.filter(|_| !live.is_empty()) {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let change = Change::SetStopTimeout {
                tasks: live,
                timeout_ms,
            };
            self.member.propose(change).await?;
        }
        let change = match &target {
            names::Target::Service(id) => {
                Change::UpdateService(id.clone(), ServiceChange { replicas: Some(0) })
            }
            names::Target::Task(id) => Change::StopTask(id.clone()),
        };
        sure(&freshness, self.member.propose(change).await)?;
        await_state::until(&self.member, |state| {
            live_ids(state, &target).is_empty().then_some(())
        })
        .await
    }

    /// A task that is about to be made is waited for as well. One that is removed meanwhile has the exit status that
    /// was last known.
    pub(super) async fn wait(&self, name: &str) -> Result<ExitStatus> {
        self.fresh().await?;
        let mut followed: Option<Task> = None;
        await_state::until(&self.member, |state| {
            let now = match &followed {
                Some(task) => state.tasks.get(&task.id).cloned(),
                None => match names::expected_task(state, name) {
                    Ok(task) => task,
                    Err(why) => return Some(Err(why)),
                },
            };
            match (now, &followed) {
                (Some(task), _) if task.status.state.is_final() => Some(ended(state, &task)),
                (Some(task), _) => {
                    followed = Some(task);
                    None
                }
                (None, Some(last)) => Some(ended(state, last)),
                (None, None) => None,
            }
        })
        .await?
    }
}

/// The tasks of `target` that have not ended.
fn live_ids(state: &State, target: &names::Target) -> Vec<Id> {
    let live = |t: &&Task| !t.status.state.is_final();
    match target {
        names::Target::Task(id) => {
            let task = state.tasks.get(id).filter(live);
            task.into_iter().map(|t| t.id.clone()).collect()
        }
        names::Target::Service(id) => {
            let tasks = state.tasks.of_service(id);
            tasks.filter(live).map(|t| t.id.clone()).collect()
        }
    }
}

/// How `task` ended, as its last status or, where that was missed, the events say.
pub(super) fn ended(state: &State, task: &Task) -> Result<ExitStatus> {
    if let Some(exit) = task.status.exit {
        return Ok(exit);
    }
    if let Some(code) = exit_code_from_events(state, &task.id) {
        return Ok(ExitStatus {
            code,
            ..ExitStatus::default()
        });
    }
    let (name, why) = (&task.name, &task.status.message);
    match task.status.state {
        TaskState::Rejected => Err(Error::Conflict(format!(
            "task {name} could not be started: {why}"
        ))),
        TaskState::Lost => Err(Error::Unavailable(format!(
            "task {name} was lost with its node, and how it ended is not known: {why}"
        ))),
        _ => Err(Error::NotFound(format!(
            "task {name} was removed before it had run to an end; there is no exit status"
        ))),
    }
}

fn exit_code_from_events(state: &State, task: &Id) -> Option<i32> {
    let of_task = state.events.iter().rev().filter(|e| e.id == *task);
    of_task
        .filter_map(|e| e.attributes.get("exit_code")?.parse().ok())
        .next()
}
