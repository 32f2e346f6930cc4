//! What is reserved on each node. Grows with each placement of a plan, so that a plan never promises the same twice.

use crate::State;
use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::{Id, NetworkMode, Node, NodeId, Port, Protocol, Task, TaskSpec, TaskState};

/// How often a slot must have been rejected by a node to avoid it.
const REJECTIONS: usize = 2;

/// What asks for a place.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    /// The service.
    pub service: &'a Id,
    /// How the task runs.
    pub spec: &'a TaskSpec,
    /// The service's ports.
    pub ports: &'a [Port],
    /// Nodes that rejected earlier tasks of the slot, once for each time.
    pub rejections: Vec<NodeId>,
}

impl Request<'_> {
    /// Whether the slot was rejected by `node` again and again.
    pub(super) fn rejected_on(&self, node: NodeId) -> bool {
        self.rejections.iter().filter(|n| **n == node).count() >= REJECTIONS
    }

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
    pub node: &'a Node,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Billionths of a CPU.
    pub cpus: u64,
    services: BTreeMap<&'a Id, usize>,
    ports: BTreeMap<(u16, Protocol), (&'a Id, bool)>,
}

impl<'a> Load<'a> {
    fn new(node: &'a Node) -> Self {
        Self {
            node,
            tasks: 0,
            memory: 0,
            cpus: 0,
            services: BTreeMap::new(),
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
        *self.services.entry(request.service).or_default() += 1;
        for (number, protocol, shared) in request.host_ports() {
            self.ports
                .insert((number, protocol), (request.service, shared));
        }
    }

    /// How many tasks of `service` are on it.
    pub(super) fn tasks_of(&self, service: &Id) -> usize {
        self.services.get(service).copied().unwrap_or(0)
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
pub(super) struct View<'a> {
    loads: BTreeMap<NodeId, Load<'a>>,
    names: BTreeMap<&'a Id, &'a str>,
}

impl<'a> View<'a> {
    /// The nodes as `state` has them. All tasks with a node that have not ended count, those that stop too.
    /// Tasks in `without` do not count.
    #[must_use]
    pub(super) fn of(state: &'a State, without: &BTreeSet<&Id>) -> Self {
        let mut view = Self {
            loads: (state.nodes.iter())
                .map(|(id, node)| (*id, Load::new(node)))
                .collect(),
            names: (state.services.iter())
                .map(|(id, record)| (id, record.service.spec.name.as_str()))
                .collect(),
        };
        for task in state.tasks.values() {
            if let Some(node) = task.node
                && !task.status.state.is_final()
                && !without.contains(&task.id)
            {
                view.reserve(node, &request_of(state, task));
            }
        }
        view
    }

    /// Counts a task that is placed on `node`.
    pub(super) fn reserve(&mut self, node: NodeId, request: &Request<'a>) {
        if let Some(load) = self.loads.get_mut(&node) {
            load.add(request);
        }
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = &Load<'a>> {
        self.loads.values().map(|load| {
            debug_assert!(load.services.values().sum::<usize>() == load.tasks);
            load
        })
    }

    /// A service's name, for people.
    pub(super) fn service_name<'b>(&self, id: &'b Id) -> &'b str
    where
        'a: 'b,
    {
        self.names.get(id).copied().unwrap_or(id.as_str())
    }
}

/// What `task` asks for.
pub(crate) fn request_of<'a>(state: &'a State, task: &'a Task) -> Request<'a> {
    let ports = state
        .services
        .get(&task.service_id)
        .map_or(&[][..], |record| &record.service.spec.ports);
    Request {
        service: &task.service_id,
        spec: &task.spec,
        ports,
        rejections: Vec::new(),
    }
}

/// The nodes that rejected tasks among `tasks`.
pub(crate) fn rejections<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Vec<NodeId> {
    tasks
        .into_iter()
        .filter(|task| task.status.state == TaskState::Rejected)
        .filter_map(|task| task.node)
        .collect()
}
