//! What is reserved on each node. Grows with each placement of a plan, so that a plan never promises the same twice.

use crate::state::{State, full_name};
use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::{Id, NetworkMode, Node, NodeId, Port, Protocol, Task, TaskSpec};

/// What asks for a place: any task of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The service.
    pub(crate) service: &'a Id,
    /// How the task runs.
    pub(crate) spec: &'a TaskSpec,
    /// The service's ports.
    pub(crate) ports: &'a [Port],
}

impl Request<'_> {
    /// The ports that a task of it takes on its node; whether tasks of the same service may share them.
    /// A published port leads to all tasks of its service, but on the host's network each listens by itself.
    pub(super) fn host_ports(&self) -> impl Iterator<Item = (u16, Protocol, bool)> + '_ {
        let host = self.spec.network == NetworkMode::Host;
        self.ports.iter().filter_map(move |port| {
            if host {
                Some((port.target, port.protocol, false))
            } else {
                port.published.map(|number| (number, port.protocol, true))
            }
        })
    }
}

/// One node and what is reserved on it.
#[derive(Debug, Clone)]
pub(super) struct Load<'a> {
    pub(super) node: &'a Node,
    /// Tasks that have not ended.
    pub(super) tasks: usize,
    /// Memory in bytes.
    pub(super) memory: u64,
    /// Billionths of a CPU.
    pub(super) cpus: u64,
    ports: BTreeMap<(u16, Protocol), (&'a Id, bool)>,
}

impl<'a> Load<'a> {
    fn new(node: &'a Node) -> Self {
        Self {
            node,
            tasks: 0,
            memory: 0,
            cpus: 0,
            ports: BTreeMap::new(),
        }
    }

    fn add(&mut self, request: &Request<'a>) {
        self.tasks += 1;
        let resources = request.spec.resources;
        self.memory = self.memory.saturating_add(resources.memory.unwrap_or(0));
        self.cpus = self
            .cpus
            .saturating_add(resources.cpus.map_or(0, |cpus| cpus.0));
        for (number, protocol, shared) in request.host_ports() {
            self.ports
                .insert((number, protocol), (request.service, shared));
        }
    }

    /// The fuller of memory and CPUs, in thousandths of the node's capacity.
    pub(super) fn reserved_share(&self) -> u64 {
        let share = |used: u64, of: u64| {
            let thousandths = u128::from(used) * 1000 / u128::from(of.max(1));
            u64::try_from(thousandths).unwrap_or(u64::MAX)
        };
        let capacity = self.node.capacity;
        share(self.memory, capacity.memory).max(share(self.cpus, capacity.cpus.0))
    }

    /// Whose a port on the node is, if it is not free for `service`.
    pub(super) fn port_owner(
        &self,
        port: (u16, Protocol),
        service: &Id,
        shared: bool,
    ) -> Option<&'a Id> {
        self.ports
            .get(&port)
            .filter(|(owner, theirs)| *owner != service || !shared || !theirs)
            .map(|(owner, _)| *owner)
    }
}

/// The nodes, and what is reserved on each.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    loads: BTreeMap<NodeId, Load<'a>>,
    names: BTreeMap<&'a Id, &'a str>,
    /// Free addresses of each network, and the nodes that have a gateway on it.
    addresses: BTreeMap<&'a str, (usize, BTreeSet<NodeId>)>,
    state: &'a State,
}

impl<'a> View<'a> {
    /// The nodes as `state` has them. All tasks with a node that have not ended count, those that stop too.
    pub(crate) fn of(state: &'a State) -> Self {
        let networks = state.networks.values();
        let mut view = Self {
            loads: (state.nodes.iter())
                .map(|(id, node)| (*id, Load::new(node)))
                .collect(),
            names: (state.services.iter())
                .map(|(id, record)| (id, record.service.spec.name.as_str()))
                .collect(),
            addresses: networks
                .map(|r| {
                    let nodes = r.gateways.keys().copied().collect();
                    (r.network.name.as_str(), (r.free(), nodes))
                })
                .collect(),
            state,
        };
        // Most services have none, and their tasks are many.
        let ports: BTreeMap<&Id, &[Port]> = (state.services.iter())
            .map(|(id, record)| (id, record.service.spec.ports.as_slice()))
            .filter(|(_, ports)| !ports.is_empty())
            .collect();
        for task in state.tasks.values() {
            if let Some(load) = place_of(task).and_then(|node| view.loads.get_mut(&node)) {
                load.add(&Request {
                    service: &task.service_id,
                    spec: &task.spec,
                    ports: ports.get(&task.service_id).copied().unwrap_or_default(),
                });
            }
        }
        view
    }

    /// Counts a task that is placed on `node`, with its address.
    pub(super) fn reserve(&mut self, node: NodeId, request: &Request<'a>) {
        if let Some(load) = self.loads.get_mut(&node) {
            load.add(request);
        }
        if let NetworkMode::Cluster(name) = &request.spec.network
            && let Some((free, nodes)) = self.addresses.get_mut(name.as_str())
        {
            let needs = 1 + usize::from(nodes.insert(node));
            *free = free.saturating_sub(needs);
        }
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = &Load<'a>> {
        self.loads.values()
    }

    pub(super) fn load(&self, node: NodeId) -> Option<&Load<'a>> {
        self.loads.get(&node)
    }

    /// Whether a task on `node` would get an address of the network.
    pub(super) fn has_address(&self, network: &str, node: NodeId) -> bool {
        let found = self.addresses.get(network);
        found.is_some_and(|(free, nodes)| *free > usize::from(!nodes.contains(&node)))
    }

    /// The nodes that have all layers of the image.
    pub(super) fn nodes_with(&self, image: &str) -> Option<&'a BTreeSet<NodeId>> {
        let record = self.state.images.get(&full_name(image));
        record.map(|r| &r.nodes)
    }

    /// A service's name, for people.
    pub(super) fn service_name<'b>(&self, id: &'b Id) -> &'b str
    where
        'a: 'b,
    {
        self.names.get(id).copied().unwrap_or(id.as_str())
    }
}

/// The node where a task takes its share: it has one, and has not ended.
pub(super) fn place_of(task: &Task) -> Option<NodeId> {
    task.node.filter(|_| !task.status.state.is_final())
}
