//! Tasks: what is wanted of them moves down, what is observed of them moves down, and then their records go.

use super::State;
use super::apply::{Entry, short};
use crate::command::Outcome;
use crate::restart;
use std::net::IpAddr;
use swarm_api::model::{
    DesiredState, EventAction, Id, Kind, NetworkMode, NodeHealth, NodeId, Task, TaskState,
    TaskStatus, Timestamp,
};
use swarm_api::{Error, Result};

/// Whether a task has ended and its container is known to hold nothing any more. Of a task that was lost with its node
/// nobody knows, until it has a time of its end: the node came back and has removed it, or was taken out.
pub(crate) fn is_gone(task: &Task) -> bool {
    let status = &task.status;
    status.state.is_final() && (status.state != TaskState::Lost || status.finished_at.is_some())
}

impl State {
    pub(super) fn stop_task(&mut self, entry: Entry, id: &Id) -> Outcome {
        let task = self.known_task(id)?.clone();
        if task.status.state.is_final() {
            return Ok(None);
        }
        self.close_slot(&task);
        self.desire(entry, id, DesiredState::Shutdown);
        Ok(None)
    }

    pub(super) fn remove_task(&mut self, entry: Entry, id: &Id) -> Outcome {
        let task = self.known_task(id)?.clone();
        let is_done = (self.services.get(&task.service_id)).is_some_and(|record| {
            record.newest.get(&task.slot) == Some(id)
                && task.status.state.is_final()
                && restart::refill(record, task.slot, Some(&task), false).is_none()
        });
        if is_done {
            // A task that has done its work is not done again because its record goes.
            self.close_slot(&task);
        }
        self.desire(entry, id, DesiredState::Removed);
        Ok(None)
    }

    pub(super) fn set_stop_timeout(&mut self, tasks: &[Id], timeout_ms: u64) -> Outcome {
        for id in tasks {
            if let Some(task) = self.tasks.get_mut(id)
                && !task.status.state.is_final()
            {
                task.spec.stop_timeout_ms = Some(timeout_ms);
            }
        }
        Ok(None)
    }

    pub(super) fn report(
        &mut self,
        entry: Entry,
        node: NodeId,
        statuses: &[(Id, TaskStatus)],
    ) -> Outcome {
        if self.node_mut(node)?.health == NodeHealth::Down {
            // It is fenced: what it says of its tasks was decided without it.
            return Ok(None);
        }
        for (id, status) in statuses {
            self.observe(entry, node, id, status);
        }
        Ok(None)
    }

    fn observe(&mut self, entry: Entry, node: NodeId, id: &Id, status: &TaskStatus) {
        let Some(task) = self.tasks.get(id).filter(|t| t.node == Some(node)) else {
            return;
        };
        let before = task.status.state;
        if before.is_final() {
            if before == TaskState::Lost && status.state.is_final() {
                self.marks.plan = entry.index;
                self.confirm_gone(id, entry.time);
            }
            return;
        }
        if status.state < before {
            return;
        }
        if status.state.is_final() {
            self.marks.plan = entry.index;
        }
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let health = |s: &TaskStatus| s.health.as_ref().map(|h| h.state);
        let news = status.state != before
            || health(status) != health(&task.status)
            || status.oom_kills != task.status.oom_kills;
        task.status = short(status);
        if status.state.is_final() {
            task.status.finished_at = status.finished_at.or(Some(entry.time));
            task.status.pid = None;
            self.free_address(id);
        }
        if news {
            self.tell_task(entry, id, EventAction::Updated);
        }
    }

    /// Wants no more than `state` of a task. One that has no node yet ends at once.
    pub(super) fn desire(&mut self, entry: Entry, id: &Id, state: DesiredState) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if state <= task.desired {
            return;
        }
        task.desired = state;
        if task.node.is_none() && !task.status.state.is_final() {
            let why = "stopped before it had a node";
            self.end_task(entry, id, TaskState::Shutdown, why, Some(entry.time));
        }
    }

    /// A live task ends by decree.
    pub(super) fn end_task(
        &mut self,
        entry: Entry,
        id: &Id,
        state: TaskState,
        why: &str,
        finished_at: Option<Timestamp>,
    ) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.status = TaskStatus {
            state,
            message: why.into(),
            pid: None,
            finished_at,
            observed_at: entry.time,
            ..task.status.clone()
        };
        if is_gone(task) {
            self.free_address(id);
        }
        self.tell_task(entry, id, EventAction::Updated);
    }

    /// The container of a lost task is gone.
    pub(super) fn confirm_gone(&mut self, id: &Id, time: Timestamp) {
        if let Some(task) = self.tasks.get_mut(id) {
            task.status.finished_at = task.status.finished_at.or(Some(time));
        }
        self.free_address(id);
    }

    /// The record of a task that is gone goes.
    pub(super) fn forget(&mut self, entry: Entry, id: &Id) {
        let Some(task) = self.tasks.get(id).filter(|t| is_gone(t)).cloned() else {
            return;
        };
        self.free_address(id);
        if let Some(record) = self.services.get_mut(&task.service_id)
            && record.newest.get(&task.slot) == Some(id)
        {
            record.newest.remove(&task.slot);
        }
        self.tell_task(entry, id, EventAction::Removed);
        self.tasks.remove(id);
    }

    fn close_slot(&mut self, task: &Task) {
        if let Some(record) = self.services.get_mut(&task.service_id)
            && record.newest.get(&task.slot) == Some(&task.id)
        {
            record.closed.insert(task.slot);
        }
    }

    fn free_address(&mut self, id: &Id) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let NetworkMode::Cluster(name) = &task.spec.network else {
            return;
        };
        let record = (self.networks.values_mut()).find(|r| r.network.name == *name);
        let Some(record) = record else {
            return;
        };
        for address in &task.addresses {
            if let IpAddr::V4(address) = address {
                record.release(*address, id);
            }
        }
    }

    fn known_task(&self, id: &Id) -> Result<&Task> {
        self.tasks
            .get(id)
            .ok_or_else(|| Error::NotFound(format!("there is no task with id {id}")))
    }

    pub(super) fn tell_task(&mut self, entry: Entry, id: &Id, action: EventAction) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        if matches!(task.spec.network, NetworkMode::Cluster(_)) {
            self.marks.networks = entry.index;
        }
        let node = task.node.and_then(|node| self.nodes.get(&node));
        let exit = task.status.exit;
        let health = task.status.health.as_ref();
        let attributes = vec![
            ("service", task.service.clone()),
            ("node", node.map(|n| n.name.clone()).unwrap_or_default()),
            ("state", task.status.state.to_string()),
            (
                "exit_code",
                exit.map(|e| e.code.to_string()).unwrap_or_default(),
            ),
            (
                "oom_killed",
                exit.filter(|e| e.oom_killed)
                    .map(|_| "true".to_owned())
                    .unwrap_or_default(),
            ),
            (
                "oom_kills",
                match task.status.oom_kills {
                    0 => String::new(),
                    kills => kills.to_string(),
                },
            ),
            (
                "health",
                health.map(|h| h.state.to_string()).unwrap_or_default(),
            ),
            ("message", task.status.message.clone()),
        ];
        let name = task.name.clone();
        self.tell(entry, Kind::Task, id, &name, action, attributes);
    }
}
