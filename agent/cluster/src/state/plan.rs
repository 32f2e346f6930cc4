//! What the orchestrator decided is carried out, as far as it still fits: another leader may have decided meanwhile.

use super::State;
use super::apply::{Entry, cut};
use crate::command::PlanItem;
use crate::restart;
use std::net::IpAddr;
use swarm_api::model::{
    Availability, DesiredState, EventAction, Id, NetworkMode, Node, NodeHealth, NodeId, Task,
    TaskState, TaskStatus, Timestamp,
};

impl State {
    pub(super) fn plan_item(&mut self, entry: Entry, item: &PlanItem) {
        match item {
            PlanItem::AddTask {
                service,
                slot,
                attempt,
                not_before,
                node,
            } => self.add_task(entry, service, *slot, *attempt, *not_before, *node),
            PlanItem::Assign { task, node } => self.assign(entry, task, *node),
            PlanItem::Explain { task, why } => self.explain(entry, task, why),
            PlanItem::Desire { task, state } => self.desire(entry, task, *state),
            PlanItem::Forget(task) => self.forget(entry, task),
            PlanItem::DropService(service) => self.drop_service(entry, service),
        }
    }

    fn add_task(
        &mut self,
        entry: Entry,
        service: &Id,
        slot: u32,
        attempt: u32,
        not_before: Timestamp,
        node: Option<NodeId>,
    ) {
        let Some(record) = self.services.get(service) else {
            return;
        };
        let newest = record.newest.get(&slot).and_then(|id| self.tasks.get(id));
        let drained = newest.is_some_and(|t| self.is_drained(t));
        if restart::refill(record, slot, newest, drained).is_none_or(|r| r.attempt != attempt)
            || node.is_some_and(|node| !self.may_place(node))
        {
            return;
        }
        let spec = record.service.spec.clone();
        let id = self.new_id(entry);
        let addresses = match node {
            None => Vec::new(),
            Some(node) => match self.addresses_for(&id, &spec.task.network, node) {
                Some(addresses) => addresses,
                None => return,
            },
        };
        let task = Task {
            id: id.clone(),
            name: format!("{}.{slot}", spec.name),
            service: spec.name,
            service_id: service.clone(),
            slot,
            spec: spec.task,
            node,
            node_name: String::new(),
            addresses,
            desired: DesiredState::Running,
            status: TaskStatus {
                state: match node {
                    Some(_) => TaskState::Assigned,
                    None => TaskState::Pending,
                },
                observed_at: entry.time,
                ..TaskStatus::default()
            },
            attempt,
            not_before,
            created_at: entry.time,
        };
        #[cfg(sabotage)]
        if crate::sabotage::is(crate::sabotage::Bug::TwoTasks) {
            let twin = Task {
                id: self.new_id(entry),
                addresses: Vec::new(),
                ..task.clone()
            };
            self.tasks.insert(twin.id.clone(), twin);
        }
        self.tasks.insert(id.clone(), task);
        if let Some(record) = self.services.get_mut(service) {
            record.newest.insert(slot, id.clone());
        }
        self.tell_task(entry, &id, EventAction::Created);
    }

    fn assign(&mut self, entry: Entry, id: &Id, node: NodeId) {
        let waits = |t: &&Task| {
            t.status.state == TaskState::Pending
                && t.node.is_none()
                && t.desired == DesiredState::Running
        };
        let Some(task) = self.tasks.get(id).filter(waits) else {
            return;
        };
        let network = task.spec.network.clone();
        if !self.may_place(node) {
            return;
        }
        let Some(addresses) = self.addresses_for(id, &network, node) else {
            return;
        };
        self.tasks.assign(id, node);
        if let Some(task) = self.tasks.get_mut(id) {
            task.addresses = addresses;
            task.status.state = TaskState::Assigned;
            task.status.message.clear();
            task.status.observed_at = entry.time;
        }
        self.tell_task(entry, id, EventAction::Updated);
    }

    fn explain(&mut self, entry: Entry, id: &Id, why: &str) {
        let task = self.tasks.get_mut(id);
        let Some(task) = task.filter(|t| t.status.state == TaskState::Pending) else {
            return;
        };
        let why = cut(why);
        if task.status.message != why {
            task.status.message = why;
            task.status.observed_at = entry.time;
            self.tell_task(entry, id, EventAction::Updated);
        }
    }

    fn drop_service(&mut self, entry: Entry, id: &Id) {
        let Some(record) = self.services.get(id) else {
            return;
        };
        let newest = |slot: &u32| record.newest.get(slot).and_then(|id| self.tasks.get(id));
        let is_done = record.service.spec.auto_remove
            && (1..=record.service.spec.replicas)
                .all(|slot| restart::refill(record, slot, newest(&slot), false).is_none());
        if (record.removing || is_done) && self.is_all_ended(id) {
            self.take_service_away(entry, id);
        }
    }

    fn may_place(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(may_place)
    }

    pub(crate) fn is_drained(&self, task: &Task) -> bool {
        let node = task.node.and_then(|node| self.nodes.get(&node));
        node.is_some_and(|n| n.availability == Availability::Drain)
    }

    /// The addresses of a task on a node; nothing where its network has none left.
    fn addresses_for(
        &mut self,
        task: &Id,
        mode: &NetworkMode,
        node: NodeId,
    ) -> Option<Vec<IpAddr>> {
        let NetworkMode::Cluster(name) = mode else {
            return Some(Vec::new());
        };
        let mut networks = self.networks.values_mut();
        let record = networks.find(|r| r.network.name == *name)?;
        record.gateway_for(node)?;
        Some(vec![record.lease(task)?.into()])
    }
}

fn may_place(node: &Node) -> bool {
    node.health == NodeHealth::Ready && node.availability == Availability::Active
}
