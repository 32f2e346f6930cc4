//! The live tasks behind a name.

use super::{in_order, missing};
use crate::state::State;
use swarm_api::Result;
use swarm_api::model::{Endpoint, Kind, Lookup, Task};

impl State {
    /// The running tasks that are not known to be ill behind the name of a service, a task or a node; none where it has none.
    ///
    /// # Errors
    /// [`swarm_api::Error::NotFound`] naming it.
    pub fn lookup(&self, name: &str) -> Result<Lookup> {
        let service = (self.services.values()).any(|r| r.service.spec.name == name);
        let node = self.nodes.values().find(|n| n.name == name).map(|n| n.id);
        let task = self.tasks.values().any(|t| t.name == name);
        if !service && !task && node.is_none() {
            return Err(missing(Kind::Service, name));
        }
        // A service's name comes before a node's.
        let behind = |t: &Task| {
            if service {
                t.service == name
            } else if task {
                t.name == name
            } else {
                t.node == node
            }
        };
        let running = self.tasks.values().filter(|t| t.status.serves());
        let running = in_order(running.filter(|t| behind(t)).collect());
        Ok(Lookup {
            name: name.into(),
            endpoints: running
                .into_iter()
                .filter_map(|t| self.endpoint(t))
                .collect(),
        })
    }

    fn endpoint(&self, task: &Task) -> Option<Endpoint> {
        let node = task.node?;
        let service = self.services.get(&task.service_id);
        Some(Endpoint {
            task_id: task.id.clone(),
            task: task.name.clone(),
            service: task.service.clone(),
            node,
            node_name: self.node_name(node),
            addresses: task.addresses.clone(),
            ports: service
                .map(|r| r.service.spec.ports.clone())
                .unwrap_or_default(),
        })
    }
}
