//! The catalogue: which services there are and where their live tasks can be reached.
//!
//! Who answers names asks a [`Source`]: a replica that has indexes of its own, or a [`CatalogueCell`], which holds a
//! [`Catalogue`], an immutable snapshot with the indexes that look-ups need.
//! It serves what was put in and nothing else: that only running, healthy tasks are in it is up to the one who fills it.
//! Names are compared without regard to ASCII case. Knows nothing of DNS, Raft or containers.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

#[cfg(test)]
mod tests;

/// The transport that a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The name as in `_tcp` of an SRV query.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port that a task listens on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Port {
    /// Its name, such as `http`; empty for a port without one.
    pub name: String,
    /// Its number, as seen by who connects to the task's address.
    pub port: u16,
    /// Its transport.
    pub protocol: Protocol,
}

/// An address of a task, and where it can be reached from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The cluster network that the address belongs to; `None` if every network reaches it (a task in its host's own
    /// network).
    pub network: Option<String>,
    /// The address.
    pub ip: IpAddr,
}

/// One live task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The task's id.
    pub task_id: String,
    /// The task's name, such as `web.1`.
    pub task: String,
    /// The service it belongs to; `None` for a task on its own.
    pub service: Option<String>,
    /// The node it runs on.
    pub node: u64,
    /// That node's name.
    pub node_name: String,
    /// Where it is reached.
    pub addresses: Vec<Address>,
    /// What it listens on.
    pub ports: Vec<Port>,
}

impl Endpoint {
    /// The part of the task's name that tells it from the other tasks of its service: `1` of `web.1`.
    #[must_use]
    pub fn slot(&self) -> &str {
        self.service
            .as_deref()
            .and_then(|service| {
                let (head, tail) = self.task.split_at_checked(service.len())?;
                let slot = tail.strip_prefix('.')?;
                (head.eq_ignore_ascii_case(service) && !slot.is_empty()).then_some(slot)
            })
            .unwrap_or(&self.task)
    }

    /// The addresses that someone on `network` can reach; all of them from the host (`None`).
    pub fn visible(&self, network: Option<&str>) -> impl Iterator<Item = IpAddr> + '_ {
        let network = network.map(str::to_owned);
        self.addresses
            .iter()
            .filter(move |address| {
                network.is_none() || address.network.is_none() || address.network == network
            })
            .map(|address| address.ip)
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its id.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub addresses: Vec<IpAddr>,
}

/// What a catalogue is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The index of the replica that this was made from; it becomes the zone's serial number.
    pub index: u64,
    /// The replica is cut off from the quorum: what is served may be out of date.
    pub stale: bool,
    /// The names of all services, those without a live task included.
    pub services: Vec<String>,
    /// The names of all networks.
    pub networks: Vec<String>,
    /// All nodes.
    pub nodes: Vec<NodeEntry>,
    /// All live tasks.
    pub endpoints: Vec<Endpoint>,
}

/// A snapshot with its indexes. Cheap to share, never changed.
#[derive(Debug, Default)]
pub struct Catalogue {
    contents: Contents,
    by_service: HashMap<String, Vec<usize>>,
    by_task: HashMap<String, usize>,
    by_ip: HashMap<IpAddr, usize>,
    nodes_by_name: HashMap<String, usize>,
    nodes_by_ip: HashMap<IpAddr, usize>,
}

impl Catalogue {
    /// Indexes `contents`.
    #[must_use]
    pub fn new(contents: Contents) -> Self {
        let mut by_service: HashMap<String, Vec<usize>> = contents
            .services
            .iter()
            .map(|name| (name.to_ascii_lowercase(), Vec::new()))
            .collect();
        let mut by_task = HashMap::with_capacity(contents.endpoints.len() * 2);
        let mut by_ip = HashMap::with_capacity(contents.endpoints.len());
        for (at, endpoint) in contents.endpoints.iter().enumerate() {
            if let Some(service) = &endpoint.service {
                by_service
                    .entry(service.to_ascii_lowercase())
                    .or_default()
                    .push(at);
            }
            for name in [&endpoint.task, &endpoint.task_id] {
                by_task.entry(name.to_ascii_lowercase()).or_insert(at);
            }
            for address in &endpoint.addresses {
                // An address of the host's own belongs to the node, not to the tasks that share it.
                if address.network.is_some() {
                    by_ip.entry(address.ip).or_insert(at);
                }
            }
        }
        let mut nodes_by_name = HashMap::new();
        let mut nodes_by_ip = HashMap::new();
        for (at, node) in contents.nodes.iter().enumerate() {
            nodes_by_name
                .entry(node.name.to_ascii_lowercase())
                .or_insert(at);
            for ip in &node.addresses {
                nodes_by_ip.entry(*ip).or_insert(at);
            }
        }
        Self {
            contents,
            by_service,
            by_task,
            by_ip,
            nodes_by_name,
            nodes_by_ip,
        }
    }

    /// The live tasks of a service: `None` if there is no such service, empty if none of its tasks lives.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<Vec<&Endpoint>> {
        let tasks = self.by_service.get(&name.to_ascii_lowercase())?;
        Some(
            tasks
                .iter()
                .map(|&at| &self.contents.endpoints[at])
                .collect(),
        )
    }

    /// A live task by its name or id.
    #[must_use]
    pub fn task(&self, name: &str) -> Option<&Endpoint> {
        let at = *self.by_task.get(&name.to_ascii_lowercase())?;
        Some(&self.contents.endpoints[at])
    }

    /// The task that a cluster network's address belongs to.
    #[must_use]
    pub fn task_at(&self, ip: IpAddr) -> Option<&Endpoint> {
        Some(&self.contents.endpoints[*self.by_ip.get(&ip)?])
    }

    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeEntry> {
        let at = *self.nodes_by_name.get(&name.to_ascii_lowercase())?;
        Some(&self.contents.nodes[at])
    }

    /// The node that an address belongs to.
    #[must_use]
    pub fn node_at(&self, ip: IpAddr) -> Option<&NodeEntry> {
        Some(&self.contents.nodes[*self.nodes_by_ip.get(&ip)?])
    }

    /// The names of all services, sorted.
    #[must_use]
    pub fn services(&self) -> Vec<&str> {
        let names: BTreeSet<&str> = self
            .contents
            .services
            .iter()
            .map(String::as_str)
            .chain(
                self.contents
                    .endpoints
                    .iter()
                    .filter_map(|e| e.service.as_deref()),
            )
            .collect();
        names.into_iter().collect()
    }

    /// The names of all networks.
    #[must_use]
    pub fn networks(&self) -> &[String] {
        &self.contents.networks
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.contents.nodes
    }

    /// All live tasks.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.contents.endpoints
    }

    /// The index of the replica that this was made from.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.contents.index
    }

    /// Whether what is served may be out of date.
    #[must_use]
    pub fn stale(&self) -> bool {
        self.contents.stale
    }
}

/// What names stand for: a [`Catalogue`], or a replica that is asked as it is. Names are compared without regard to ASCII
/// case.
pub trait Names {
    /// The live tasks of a service: `None` if there is no such service, empty if none of its tasks lives.
    fn service(&self, name: &str) -> Option<Vec<Endpoint>>;
    /// A live task by its name or id.
    fn task(&self, name: &str) -> Option<Endpoint>;
    /// The live task that a cluster network's address belongs to.
    fn task_at(&self, ip: IpAddr) -> Option<Endpoint>;
    /// A node by its name.
    fn node(&self, name: &str) -> Option<NodeEntry>;
    /// The node that an address belongs to.
    fn node_at(&self, ip: IpAddr) -> Option<NodeEntry>;
    /// How far the replica is; it becomes the zone's serial number.
    fn index(&self) -> u64;
    /// Whether what is served may be out of date.
    fn stale(&self) -> bool;
}

/// Where a server finds out what names stand for, query by query.
pub trait Source: Send + Sync {
    /// Has `ask` look things up, in one state of affairs.
    fn with(&self, ask: &mut dyn FnMut(&dyn Names));
}

impl Names for Catalogue {
    fn service(&self, name: &str) -> Option<Vec<Endpoint>> {
        let tasks = Self::service(self, name)?;
        Some(tasks.into_iter().cloned().collect())
    }

    fn task(&self, name: &str) -> Option<Endpoint> {
        Self::task(self, name).cloned()
    }

    fn task_at(&self, ip: IpAddr) -> Option<Endpoint> {
        Self::task_at(self, ip).cloned()
    }

    fn node(&self, name: &str) -> Option<NodeEntry> {
        Self::node(self, name).cloned()
    }

    fn node_at(&self, ip: IpAddr) -> Option<NodeEntry> {
        Self::node_at(self, ip).cloned()
    }

    fn index(&self) -> u64 {
        Self::index(self)
    }

    fn stale(&self) -> bool {
        Self::stale(self)
    }
}

impl Source for CatalogueCell {
    fn with(&self, ask: &mut dyn FnMut(&dyn Names)) {
        ask(self.load().as_ref());
    }
}

/// Holds the current catalogue; swapped atomically, read without a lock.
#[derive(Debug, Default)]
pub struct CatalogueCell(ArcSwap<Catalogue>);

impl CatalogueCell {
    /// A cell that holds `catalogue`.
    #[must_use]
    pub fn new(catalogue: Catalogue) -> Self {
        Self(ArcSwap::from_pointee(catalogue))
    }

    /// The current catalogue.
    #[must_use]
    pub fn load(&self) -> Arc<Catalogue> {
        self.0.load_full()
    }

    /// Replaces the catalogue.
    pub fn store(&self, catalogue: Catalogue) {
        self.0.store(Arc::new(catalogue));
    }
}
