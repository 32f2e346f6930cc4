//! The identity of a node in gossip: a key with an address, never an address.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A node as gossip knows it. Two identities with the same `node` are the same member; the higher `generation` wins, so
/// that a node which restarts, or returns with another address, keeps its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// The node's id. 0 stands for "whoever listens at that address" and is only ever the target of an announcement.
    pub node: u64,
    /// Where the node receives gossip.
    pub addr: SocketAddr,
    /// Grows with every start, every change of address and every return from the dead.
    pub generation: u64,
}

impl NodeIdentity {
    /// The unknown node behind a seed address.
    pub(crate) fn seed(addr: SocketAddr) -> Self {
        Self {
            node: 0,
            addr,
            generation: 0,
        }
    }
}

impl foca::Identity for NodeIdentity {
    type Addr = u64;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            generation: self.generation.saturating_add(1),
            ..*self
        })
    }

    fn addr(&self) -> u64 {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.addr) > (adversary.generation, adversary.addr)
    }
}
