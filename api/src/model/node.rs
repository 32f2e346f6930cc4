//! A node: one host of the cluster, with its agent.

use super::{Cpus, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What a node's certificate lets it be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// May be chosen as a voter and hold the cluster's sealed keys.
    Manager,
    /// Runs tasks and observes.
    #[default]
    Worker,
}

/// Whether new and old tasks may be on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Gets tasks.
    #[default]
    Active,
    /// Keeps its tasks, gets no new ones.
    Pause,
    /// Its tasks move away, it gets no new ones.
    Drain,
}

/// Whether the cluster counts on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum NodeHealth {
    /// Alive by gossip, and not fenced.
    #[default]
    Ready,
    /// Declared dead and fenced: its tasks are replaced elsewhere.
    Down,
}

/// A node's part in Raft, derived from the membership that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum RaftStatus {
    /// Leads, and votes.
    Leader,
    /// Votes.
    Voter,
    /// Follows the log, without a vote.
    #[default]
    Observer,
}

/// What a host has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Capacity {
    /// Processor time.
    pub cpus: Cpus,
    /// Memory in bytes.
    pub memory: u64,
}

/// One host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Node {
    /// Identity: derived from its key.
    pub id: NodeId,
    /// A name for people and for DNS, unique in the cluster.
    pub name: String,
    /// What its certificate lets it be.
    pub role: NodeRole,
    /// Set by the operator.
    pub availability: Availability,
    /// Fenced or not.
    pub health: NodeHealth,
    /// Its part in Raft. Filled in when answered, not replicated.
    pub raft: RaftStatus,
    /// Where its agent listens (TLS over TCP, and gossip over UDP, on the same port).
    pub address: Option<SocketAddr>,
    /// Set by the operator; for constraints.
    pub labels: BTreeMap<String, String>,
    /// What the host has to give.
    pub capacity: Capacity,
    /// The version of its `swarmd`.
    pub version: String,
    /// The processor's architecture, as OCI names it (`amd64`, `arm64`).
    pub arch: String,
    /// The operating system, as OCI names it.
    pub os: String,
    /// When it joined.
    pub joined_at: Timestamp,
}

/// A change that an operator makes to a node. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct NodeChange {
    /// The new availability.
    pub availability: Option<Availability>,
    /// Labels to set.
    pub set_labels: BTreeMap<String, String>,
    /// Labels to take away.
    pub remove_labels: Vec<String>,
}
