//! Addresses: subnets of networks, gateways of nodes, leases of tasks.
//!
//! An address is one task's only. It is free again when the task has ended and its container is known to be gone: its
//! node reported an end; or, for a task that was lost with its node, the node is back and said that it has removed
//! what it had, or the node is no longer in the cluster, and nobody sends to it. The search for a free address goes on
//! where it ended last time, so an address rests as long as possible before it is used again.

use crate::state::{NetworkRecord, State};
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};
use swarm_api::model::{Id, NetworkSpec, NodeId};
use swarm_api::{Error, Result};

/// The longest prefix of a network: room for a gateway and a few tasks.
const LONGEST_PREFIX: u8 = 29;

/// The subnet of a new network: what is asked for, or the first part of the pool that is free.
///
/// # Errors
/// When what is asked for cannot be used, or the pool has no part left.
pub(crate) fn choose_subnet(state: &State, spec: &NetworkSpec) -> Result<Ipv4Net> {
    let Some(wanted) = spec.subnet else {
        return cut(state).ok_or_else(|| {
            Error::Exhausted(format!(
                "the cluster's address pool has no room for network {}; give it a subnet of its own with --subnet",
                spec.name
            ))
        });
    };
    let subnet = wanted.trunc();
    let bad = |why: &str| {
        Err(Error::Invalid(format!(
            "{wanted} cannot be the subnet of network {}: {why}",
            spec.name
        )))
    };
    if subnet.prefix_len() > LONGEST_PREFIX || subnet.prefix_len() < 8 {
        return bad("give it a prefix length of 8 to 29");
    }
    let first = subnet.network();
    if first.is_loopback() || first.is_multicast() || first.octets()[0] == 0 || first.is_broadcast()
    {
        return bad("these addresses have another meaning; use private ones, such as 10.42.0.0/16");
    }
    match obstacle(state, subnet) {
        Some(why) => Err(Error::Conflict(format!(
            "{wanted} cannot be the subnet of network {}: {why}",
            spec.name
        ))),
        None => Ok(subnet),
    }
}

/// What is in the way of a subnet.
fn obstacle(state: &State, subnet: Ipv4Net) -> Option<String> {
    let overlaps = |a: Ipv4Net, b: Ipv4Net| a.contains(&b) || b.contains(&a);
    let mut networks = state.networks.values().map(|r| &r.network);
    if let Some(other) = networks.find(|n| overlaps(n.subnet, subnet)) {
        return Some(format!("network {} has {}", other.name, other.subnet));
    }
    let inside = |address: IpAddr| matches!(address, IpAddr::V4(v4) if subnet.contains(&v4));
    let mut nodes = state.nodes.values();
    let node = nodes.find(|n| n.address.is_some_and(|a| inside(a.ip())))?;
    Some(format!("node {} has an address in it", node.name))
}

/// A sixteenth of the pool, but no more than 65,536 addresses.
fn cut(state: &State) -> Option<Ipv4Net> {
    let pool = state.pool?;
    let prefix = (pool.prefix_len() + 4)
        .max(16)
        .min(LONGEST_PREFIX.max(pool.prefix_len()));
    let mut parts = pool.subnets(prefix).ok()?;
    parts.find(|part| obstacle(state, *part).is_none())
}

impl NetworkRecord {
    /// How many addresses are free.
    #[must_use]
    pub fn free(&self) -> usize {
        let all = hosts(self.network.subnet) as usize;
        all.saturating_sub(self.leases.len() + self.gateways.len())
    }

    /// The node's gateway; it gets one if it has none and one is free.
    pub(crate) fn gateway_for(&mut self, node: NodeId) -> Option<Ipv4Addr> {
        if let Some(gateway) = self.gateways.get(&node) {
            return Some(*gateway);
        }
        let address = self.next_free()?;
        self.gateways.insert(node, address);
        Some(address)
    }

    /// An address for a task.
    pub(crate) fn lease(&mut self, task: &Id) -> Option<Ipv4Addr> {
        #[cfg(sabotage)]
        if crate::sabotage::is(crate::sabotage::Bug::OneAddress)
            && let Some(first) = self.leases.keys().next()
        {
            return Some(*first);
        }
        let address = self.next_free()?;
        self.leases.insert(address, task.clone());
        Some(address)
    }

    /// The address is free again, if it is the task's.
    pub(crate) fn release(&mut self, address: Ipv4Addr, task: &Id) {
        if self.leases.get(&address) == Some(task) {
            self.leases.remove(&address);
        }
    }

    fn next_free(&mut self) -> Option<Ipv4Addr> {
        if self.free() == 0 {
            return None;
        }
        let count = hosts(self.network.subnet);
        let first = u32::from(self.network.subnet.network()) + 1;
        for step in 0..count {
            let offset = (self.cursor % count + step) % count;
            let address = Ipv4Addr::from(first + offset);
            let taken = self.leases.contains_key(&address)
                || self.gateways.values().any(|gateway| *gateway == address);
            if !taken {
                self.cursor = (offset + 1) % count;
                return Some(address);
            }
        }
        None
    }
}

/// The addresses of a subnet without the first and the last.
fn hosts(subnet: Ipv4Net) -> u32 {
    let bits = 32 - u32::from(subnet.prefix_len());
    let all = 1u64 << bits;
    u32::try_from(all.saturating_sub(2)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
