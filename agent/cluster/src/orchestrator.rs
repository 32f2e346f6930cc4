//! What is to change so that each service has the tasks it asks for: missing ones are made and placed, ended ones
//! replaced as the restart policy has it, those too many stopped, drained nodes left, old records forgotten.
//!
//! In: the state and the time. Out: items of a plan, and when to look again although nothing changed. A plan that was
//! carried out leaves nothing to plan. It must not know who proposes it, nor what containers are.

mod service;

use crate::command::PlanItem;
use crate::state::{State, is_gone};
use std::collections::BTreeMap;
use swarm_api::model::{DesiredState, Id, Task, Timestamp};

/// How many ended tasks of a slot are kept.
const HISTORY: usize = 5;
/// How long the last exit status of a service that removes itself can be read, in milliseconds.
const READABLE_MS: u64 = 5_000;

/// What is to be done now, and when there is more to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they are to be applied. They may be cut into several entries.
    pub items: Vec<PlanItem>,
    /// When something becomes due although nothing changes.
    pub next: Option<Timestamp>,
}

/// The plan for `state` at `now`.
#[must_use]
pub fn plan(state: &State, now: Timestamp) -> Plan {
    let mut of_service: BTreeMap<&Id, Vec<&Task>> = BTreeMap::new();
    for task in state.tasks.values() {
        of_service.entry(&task.service_id).or_default().push(task);
    }
    let mut plan = Plan::default();
    let mut view = None;
    for (id, record) in state.services.iter() {
        let tasks = of_service.remove(id).unwrap_or_default();
        let mut planner = service::Planner {
            state,
            now,
            record,
            plan: &mut plan,
        };
        planner.plan(&mut view, tasks);
    }
    // Tasks that are left without a service were lost with their node when it was removed.
    for task in of_service.into_values().flatten() {
        if task.desired < DesiredState::Removed {
            plan.desire(task, DesiredState::Removed);
        }
        if is_gone(task) {
            plan.items.push(PlanItem::Forget(task.id.clone()));
        }
    }
    plan
}

impl Plan {
    fn desire(&mut self, task: &Task, state: DesiredState) {
        self.items.push(PlanItem::Desire {
            task: task.id.clone(),
            state,
        });
    }

    /// Wants a task gone: one without a node at once, another when its node has ended it.
    fn remove(&mut self, task: &Task) {
        let waits = task.node.is_none() && !task.status.state.is_final();
        if waits || (task.desired < DesiredState::Removed && !task.status.state.is_final()) {
            self.desire(task, DesiredState::Removed);
        }
        if waits || is_gone(task) {
            self.items.push(PlanItem::Forget(task.id.clone()));
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

#[cfg(test)]
mod tests;
