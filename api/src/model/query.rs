//! Questions and answers.

use super::{Id, Image, Network, Node, NodeId, Service, Task};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A host of the cluster.
    Node,
    /// A name and the tasks to run for it.
    Service,
    /// One container.
    Task,
    /// Layers and a configuration.
    Image,
    /// A subnet that spans the hosts.
    Network,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Node => "node",
            Self::Service => "service",
            Self::Task => "task",
            Self::Image => "image",
            Self::Network => "network",
        })
    }
}

/// An object of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[allow(clippy::large_enum_variant)]
pub enum Object {
    /// A node.
    Node(Node),
    /// A service.
    Service(Service),
    /// A task.
    Task(Task),
    /// An image.
    Image(Image),
    /// A network.
    Network(Network),
}

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Read {
    /// Nothing acknowledged before the question is missing; needs a quorum.
    #[default]
    Linearizable,
    /// What this node knows; needs nobody.
    Stale,
}

/// Which objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Of this kind.
    pub kind: Kind,
    /// Tasks of this service only.
    pub service: Option<String>,
    /// Tasks on this node only (name or id).
    pub node: Option<String>,
    /// Whether ended tasks are wanted as well.
    pub all: bool,
    /// How fresh.
    pub read: Read,
}

impl Query {
    /// Everything of `kind`, linearizable.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            service: None,
            node: None,
            all: false,
            read: Read::default(),
        }
    }
}

/// How fresh an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Freshness {
    /// The log index that it reflects; 0 on a single host.
    pub index: u64,
    /// Whether the node could not confirm it with a quorum or was asked not to.
    pub stale: bool,
    /// Milliseconds since the node last heard from a leader, where it is stale and that is known.
    pub age_ms: Option<u64>,
}

/// An answer, and how fresh it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// How fresh it is.
    pub freshness: Freshness,
}

/// A live task of a service, as a look-up finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The task's id.
    pub task_id: Id,
    /// The task's name.
    pub task: String,
    /// Its service.
    pub service: String,
    /// Where it runs.
    pub node: NodeId,
    /// Where it runs.
    pub node_name: String,
    /// Where it is reached from containers and hosts of the cluster.
    pub addresses: Vec<IpAddr>,
    /// The ports that its service declares.
    pub ports: Vec<super::Port>,
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Lookup {
    /// The name that was looked up.
    pub name: String,
    /// Live tasks only.
    pub endpoints: Vec<Endpoint>,
}

/// What answers: one host, or a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// One host's runtime.
    Host,
    /// A cluster of hosts.
    Cluster,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// One host or a cluster.
    pub scope: Scope,
    /// The version of `swarmd`.
    pub version: String,
    /// The node that answers, where it is in a cluster.
    pub node: Option<NodeId>,
    /// Its name.
    pub node_name: String,
    /// The cluster's id.
    pub cluster: Option<String>,
    /// The leader, where one is known.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: u64,
    /// The log index applied here.
    pub applied: u64,
    /// The voters.
    pub voters: Vec<NodeId>,
    /// What is wrong at present, one line each: no quorum, a full disk, a kernel feature that is missing.
    pub warnings: Vec<String>,
}
