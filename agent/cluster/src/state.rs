//! The replicated state: what every node knows after the same entries of the log.
//!
//! `apply` is deterministic: no clock, no randomness, no I/O, no map with an order of its own.

mod apply;
mod images;
mod kept;
mod networks;
mod nodes;
mod plan;
mod services;
mod table;
mod tasks;
mod tokens;

#[cfg(test)]
mod tests;

pub(crate) use apply::short;
pub(crate) use images::full_name;
pub use kept::Kept;
pub use table::Tasks;
pub(crate) use tasks::is_gone;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::{Event, Id, Image, Network, Node, NodeId, NodeRole, Service, Timestamp};

/// The cluster's state. Serialised whole as Raft's snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct State {
    /// The cluster's id; empty before `Change::Init`.
    pub cluster: String,
    /// Index of the last entry that was applied.
    pub index: u64,
    /// For ids: grows with each object made.
    pub counter: u64,
    /// The last VXLAN identifier that was given to a network; none is used twice.
    pub vni: u32,
    /// Where subnets are cut from.
    pub pool: Option<Ipv4Net>,
    /// Kept for managers: opaque, sealed.
    pub sealed: Vec<u8>,
    /// All nodes.
    pub nodes: Kept<BTreeMap<NodeId, Node>>,
    /// All services.
    pub services: Kept<BTreeMap<Id, Kept<ServiceRecord>>>,
    /// All tasks.
    pub tasks: Tasks,
    /// All networks.
    pub networks: Kept<BTreeMap<Id, Kept<NetworkRecord>>>,
    /// All images, by reference.
    pub images: Kept<BTreeMap<String, Kept<ImageRecord>>>,
    /// Join tokens, by public id.
    pub tokens: Kept<BTreeMap<String, TokenRecord>>,
    /// Recent events, oldest first; at most `State::EVENTS` of them.
    pub events: std::collections::VecDeque<Kept<Event>>,
    /// When what some work depends on last changed; kept beside the state.
    #[serde(skip)]
    pub marks: Marks,
}

/// The last entry of the log that changed what some work depends on, so that it is not done after every entry. They follow
/// from the entries that this replica has seen, not from the state: they are neither compared nor shown.
#[derive(Clone, Copy, Default)]
pub struct Marks {
    /// What the orchestrator may have to plan for.
    pub plan: u64,
    /// The nodes.
    pub nodes: u64,
    /// What hosts' networks are made from: nodes, networks, and the tasks in them.
    pub networks: u64,
    /// Images and who has them.
    pub images: u64,
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marks").finish_non_exhaustive()
    }
}

impl PartialEq for Marks {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// A service and what only the cluster knows of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The service.
    pub service: Service,
    /// It is being removed: no new tasks.
    pub removing: bool,
    /// Slots that stay empty until the service is scaled: a user stopped their task, or removed it after its end.
    pub closed: BTreeSet<u32>,
    /// The newest task of each slot that has a record.
    pub newest: BTreeMap<u32, Id>,
}

impl ServiceRecord {
    /// A service without tasks.
    #[must_use]
    pub fn new(service: Service) -> Self {
        Self {
            service,
            removing: false,
            closed: BTreeSet::new(),
            newest: BTreeMap::new(),
        }
    }
}

/// A network and which of its addresses are whose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The network.
    pub network: Network,
    /// Each node's gateway on it: the address of its bridge.
    pub gateways: BTreeMap<NodeId, std::net::Ipv4Addr>,
    /// Addresses of tasks.
    pub leases: BTreeMap<std::net::Ipv4Addr, Id>,
    /// Where the search for a free address goes on, so that an address rests before it is used again.
    pub cursor: u32,
}

/// An image and who has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image.
    pub image: Image,
    /// Nodes that have all its layers.
    pub nodes: BTreeSet<NodeId>,
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// What nodes that join with it may be.
    pub role: NodeRole,
    /// Not valid from then on.
    pub expires_at: Timestamp,
}

impl State {
    /// How many events are kept.
    pub const EVENTS: usize = 1024;

    /// This state was taken over from a snapshot: all of it is new to who followed the one before.
    pub fn renew(&mut self) {
        self.tasks.renew(self.index);
        self.marks = Marks {
            plan: self.index,
            nodes: self.index,
            networks: self.index,
            images: self.index,
        };
    }
}
