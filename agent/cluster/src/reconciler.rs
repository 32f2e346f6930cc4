//! What a node has to do to its containers, so that they are as its replica wants them.
//! In: the replica, what the node has, the time. Out: actions, which may be under way already: the caller sees to it
//! that one task's actions do not overtake each other. It must not know how containers are made.

use crate::state::State;
use std::collections::BTreeMap;
use std::time::Duration;
use swarm_api::model::{DesiredState, Id, NodeHealth, NodeId, Task, TaskState, Timestamp};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Action {
    /// Make and start the task's container.
    Run(Task),
    /// Ask the task to end, and kill it after `timeout`. A task that has no container is only said to have ended.
    Stop {
        /// The task.
        id: Id,
        /// Between the stop signal and SIGKILL.
        timeout: Duration,
    },
    /// Everything of the task goes from this node; what runs is killed.
    Remove(Id),
}

/// What `node` has to do at `now`. `local` are the tasks that it has, with their status as observed.
///
/// - A task that is to run here and has no container is started, once its back-off is over. One that has a container,
///   also one that has ended, is never started again: the cluster makes another task for that.
/// - A task that is to stop is stopped; its container stays for its logs, until its record goes.
/// - What the replica does not know, gives to another node, or has written off as lost (this node was fenced and its
///   tasks were replaced) is removed.
/// - A replica without a cluster wants nothing: it is only not filled yet.
#[must_use]
pub fn actions(state: &State, node: NodeId, local: &[Task], now: Timestamp) -> Vec<Action> {
    if state.cluster.is_empty() {
        return Vec::new();
    }
    let here: BTreeMap<&Id, &Task> = local.iter().map(|t| (&t.id, t)).collect();
    let mut actions: Vec<Action> = (here.iter())
        .filter_map(|(id, local)| {
            let wanted = state.tasks.get(id).filter(|t| t.node == Some(node));
            for_container(wanted, local)
        })
        .collect();
    let fenced = (state.nodes.get(&node)).is_none_or(|n| n.health == NodeHealth::Down);
    let absent = (state.tasks.of_node(node))
        .filter(|t| !t.status.state.is_final() && !here.contains_key(&t.id));
    actions.extend(absent.filter_map(|task| match task.desired {
        DesiredState::Running if fenced || task.not_before > now => None,
        DesiredState::Running => Some(Action::Run(task.clone())),
        DesiredState::Shutdown | DesiredState::Removed => Some(stop(task)),
    }));
    actions
}

/// When the next task of `node` that waits for its back-off is due, after `now`.
#[must_use]
pub fn next(state: &State, node: NodeId, now: Timestamp) -> Option<Timestamp> {
    let waiting = state.tasks.of_node(node).filter(|t| {
        t.desired == DesiredState::Running && !t.status.state.is_final() && t.not_before > now
    });
    waiting.map(|t| t.not_before).min()
}

fn for_container(wanted: Option<&Task>, local: &Task) -> Option<Action> {
    let remove = || Some(Action::Remove(local.id.clone()));
    let Some(wanted) = wanted else {
        return remove();
    };
    let ended = local.status.state.is_final();
    match wanted.status.state {
        TaskState::Lost => remove(),
        // Its end is known, and with it all that was to be known of it.
        state if state.is_final() => {
            let keep = ended && wanted.desired < DesiredState::Removed;
            if keep { None } else { remove() }
        }
        _ if wanted.desired > DesiredState::Running && !ended => Some(stop(wanted)),
        _ => None,
    }
}

fn stop(task: &Task) -> Action {
    Action::Stop {
        id: task.id.clone(),
        timeout: task.spec.stop_timeout(),
    }
}

#[cfg(test)]
mod tests;
