//! Where each member is reached: what gossip heard last, else what the replicated state says, else what was known at the
//! last run. Kept on disk, so that a host that starts finds the others. Addresses only: who is who is TLS's affair.

use crate::identity;
use crate::machine::Machine;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use swarm_api::Result;
use swarm_api::model::NodeId;
use swarm_discovery::membership::Membership;

const FILE: &str = "peers.json";

/// Addresses by node.
pub(crate) type Addresses = BTreeMap<NodeId, SocketAddr>;

/// The address book of one node.
pub(crate) struct Book {
    own: NodeId,
    machine: Arc<Machine>,
    membership: OnceLock<Arc<Membership>>,
    known: Mutex<Addresses>,
}

impl Book {
    pub(crate) fn new(own: NodeId, machine: Arc<Machine>, known: Addresses) -> Self {
        Self {
            own,
            machine,
            membership: OnceLock::new(),
            known: Mutex::new(known),
        }
    }

    /// From now on gossip is asked first.
    pub(crate) fn gossip(&self, membership: Arc<Membership>) {
        let _ = self.membership.set(membership);
    }

    /// A node's address, and which life of it that is of (0 where gossip has not heard of it).
    pub(crate) fn find(&self, node: NodeId) -> Option<(SocketAddr, u64)> {
        let heard = self.membership.get().and_then(|m| {
            let members = m.members();
            let member = members.iter().find(|m| m.node == node.0)?;
            Some((member.addr, member.generation))
        });
        heard.or_else(|| {
            let recorded = self.machine.read().nodes.get(&node).and_then(|n| n.address);
            recorded
                .or_else(|| self.lock().get(&node).copied())
                .map(|address| (address, 0))
        })
    }

    /// Everybody's address but this node's.
    pub(crate) fn others(&self) -> Addresses {
        let mut all: Addresses = {
            let state = self.machine.read();
            state
                .nodes
                .values()
                .filter_map(|n| Some((n.id, n.address?)))
                .collect()
        };
        if all.is_empty() {
            all = self.lock().clone();
        }
        if let Some(membership) = self.membership.get() {
            for member in membership.members().iter() {
                if let Some(address) = all.get_mut(&NodeId(member.node)) {
                    *address = member.addr;
                }
            }
        }
        all.remove(&self.own);
        all
    }

    /// Whether gossip takes the node to be there; yes if it does not know it.
    pub(crate) fn seems_alive(&self, node: NodeId) -> bool {
        self.membership.get().is_none_or(|m| {
            let members = m.members();
            members
                .iter()
                .find(|m| m.node == node.0)
                .is_none_or(|m| m.state.is_active())
        })
    }

    /// The nodes that gossip knows and takes not to be there.
    pub(crate) fn seem_dead(&self) -> BTreeSet<NodeId> {
        let Some(membership) = self.membership.get() else {
            return BTreeSet::new();
        };
        let members = membership.members();
        let dead = members.iter().filter(|m| !m.state.is_active());
        dead.map(|m| NodeId(m.node)).collect()
    }

    /// Writes the addresses down if they have changed.
    pub(crate) fn keep(&self, world: &World) -> Result<()> {
        let now = self.others();
        if now.is_empty() || *self.lock() == now {
            return Ok(());
        }
        save(world, &now)?;
        *self.lock() = now;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Addresses> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn save(world: &World, addresses: &Addresses) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(addresses)
        .map_err(|e| swarm_api::Error::Internal(e.to_string()))?;
    identity::write_private(world, FILE, &bytes)
}

/// What was written down; nothing if there is nothing that can be read.
pub(crate) fn load(world: &World) -> Addresses {
    identity::read_private(world, FILE)
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// `ID@IP:PORT`, as it is sent to who joins.
pub(crate) fn format_peer(node: NodeId, address: SocketAddr) -> String {
    format!("{node}@{address}")
}

pub(crate) fn parse_peer(text: &str) -> Option<(NodeId, SocketAddr)> {
    let (node, address) = text.split_once('@')?;
    Some((node.parse().ok()?, address.parse().ok()?))
}
