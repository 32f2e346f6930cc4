//! What is read from the state: lists, single objects, and the live tasks behind a name. Fills in what is not
//! replicated: names of nodes, numbers of running tasks. It must not know whether the state is fresh.

mod find;
mod lookup;

use crate::state::{State, full_name};
use std::collections::BTreeMap;
use swarm_api::model::{
    DesiredState, Id, Kind, Node, NodeId, Object, Query, Service, Task, TaskState,
};
use swarm_api::{Error, Result};

impl State {
    /// The objects that `query` asks for, in the order of their names; tasks by service, slot and age, the newest
    /// first. Of a service that is not there, there are no tasks.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a node that is not there, [`Error::Invalid`] where several could be meant.
    pub fn list(&self, query: &Query) -> Result<Vec<Object>> {
        Ok(match query.kind {
            Kind::Node => {
                let mut nodes: Vec<&Node> = self.nodes.values().collect();
                nodes.sort_by(|a, b| a.name.cmp(&b.name));
                nodes.into_iter().cloned().map(Object::Node).collect()
            }
            Kind::Service => {
                let running = self.running();
                let mut services: Vec<Service> = (self.services.values())
                    .map(|r| {
                        let mut service = r.service.clone();
                        service.running = running.get(&service.id).copied().unwrap_or(0);
                        service
                    })
                    .collect();
                services.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
                services.into_iter().map(Object::Service).collect()
            }
            Kind::Task => self.list_tasks(query)?,
            Kind::Image => {
                let images = self.images.values().map(|r| r.image.clone());
                images.map(Object::Image).collect()
            }
            Kind::Network => {
                let mut networks: Vec<_> = self.networks.values().map(|r| &r.network).collect();
                networks.sort_by(|a, b| a.name.cmp(&b.name));
                networks.into_iter().cloned().map(Object::Network).collect()
            }
        })
    }

    /// One object, by its name, its id or a unique prefix of its id; a task also as [`State::find_task`] has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming it, [`Error::Invalid`] with the candidates where several could be meant.
    pub fn get(&self, kind: Kind, name: &str) -> Result<Object> {
        match kind {
            Kind::Node => {
                let nodes = self.nodes.values();
                let named = nodes.map(|n| (n.name.as_str(), n.id.to_string(), n));
                find::one(kind, name, named).cloned().map(Object::Node)
            }
            Kind::Service => {
                let services = self.services.values().map(|r| &r.service);
                let named = services.map(|s| (s.spec.name.as_str(), s.id.to_string(), s));
                let mut service = find::one(kind, name, named)?.clone();
                service.running = self.running().get(&service.id).copied().unwrap_or(0);
                Ok(Object::Service(service))
            }
            Kind::Task => self.find_task(name).map(|t| Object::Task(self.filled(t))),
            Kind::Image => {
                if let Some(record) = self.images.get(&full_name(name)) {
                    return Ok(Object::Image(record.image.clone()));
                }
                let images = self.images.iter();
                let named = images.map(|(n, r)| (n.as_str(), r.image.digest.clone(), &r.image));
                find::one(kind, name, named).cloned().map(Object::Image)
            }
            Kind::Network => {
                let networks = self.networks.values().map(|r| &r.network);
                let named = networks.map(|n| (n.name.as_str(), n.id.to_string(), n));
                find::one(kind, name, named).cloned().map(Object::Network)
            }
        }
    }

    /// The tasks of a service, by slot and age, the newest first.
    #[must_use]
    pub fn tasks_of_service(&self, service: &Id) -> Vec<&Task> {
        let tasks = self.tasks.of_service(service);
        in_order(tasks.collect())
    }

    fn list_tasks(&self, query: &Query) -> Result<Vec<Object>> {
        let node = match &query.node {
            Some(name) => match self.get(Kind::Node, name)? {
                Object::Node(node) => Some(node.id),
                _ => None,
            },
            None => None,
        };
        let service = query.service.as_deref();
        let tasks = self.tasks.values().filter(|t| {
            let state = t.status.state;
            let shown = !state.is_final() || (query.all && t.desired < DesiredState::Removed);
            shown
                && node.is_none_or(|node| t.node == Some(node))
                && service.is_none_or(|s| t.service == s || t.service_id.as_str() == s)
        });
        let tasks = in_order(tasks.collect());
        Ok((tasks.into_iter())
            .map(|t| Object::Task(self.filled(t)))
            .collect())
    }

    fn filled(&self, task: &Task) -> Task {
        Task {
            node_name: task.node.map(|n| self.node_name(n)).unwrap_or_default(),
            ..task.clone()
        }
    }

    /// The node's name; its id where it is no longer there.
    fn node_name(&self, id: NodeId) -> String {
        let node = self.nodes.get(&id);
        node.map_or_else(|| id.to_string(), |node| node.name.clone())
    }

    fn running(&self) -> BTreeMap<&Id, u32> {
        let mut running = BTreeMap::new();
        for task in self.tasks.values() {
            if task.status.state == TaskState::Running {
                *running.entry(&task.service_id).or_default() += 1;
            }
        }
        running
    }
}

fn in_order(mut tasks: Vec<&Task>) -> Vec<&Task> {
    tasks.sort_by(|a, b| {
        let key = |t: &Task| (t.slot, std::cmp::Reverse(t.created_at));
        (a.service.cmp(&b.service))
            .then_with(|| key(a).cmp(&key(b)))
            .then_with(|| a.id.cmp(&b.id))
    });
    tasks
}

fn missing(kind: Kind, name: &str) -> Error {
    Error::NotFound(format!("there is no {kind} \"{name}\""))
}

#[cfg(test)]
mod tests;
