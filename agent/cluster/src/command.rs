//! What may be written into the log. Plain data; what it does is said in `state`.
//!
//! Times and randomness are handed in by the proposer, so that every replica applies the same.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use swarm_api::model::{
    Capacity, DesiredState, Id, Image, NetworkSpec, Node, NodeChange, NodeId, NodeRole, Object,
    ServiceChange, ServiceSpec, TaskStatus, Timestamp,
};

/// One entry of the log, serialised with postcard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// When it was proposed, by the proposer's clock.
    pub time: Timestamp,
    /// What is to change.
    pub change: Change,
}

/// A change of the cluster's state. Each is applied whole or refused whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)]
pub enum Change {
    /// The first entry: the cluster, its first node and the network `default`.
    Init {
        /// The cluster's id.
        cluster: String,
        /// Its first node, a manager.
        node: Node,
        /// Where networks without a subnet of their own are cut from.
        pool: Ipv4Net,
        /// Kept for managers: opaque, sealed.
        sealed: Vec<u8>,
    },
    /// A node joins; a node with the same id is replaced (it joined again). Consumes no token.
    AddNode {
        /// Its record. The name gets a number appended by the proposer if it is taken: here it is refused.
        node: Node,
        /// The token that let it in; refused if it is gone or has expired at `Command::time`.
        token: Option<String>,
    },
    /// What a node says of itself has changed.
    NodeFacts {
        /// Which node.
        id: NodeId,
        /// Its new address.
        address: Option<SocketAddr>,
        /// Its new capacity.
        capacity: Option<Capacity>,
        /// Its new version.
        version: Option<String>,
    },
    /// Gossip declared a node dead: it is fenced, its live tasks become `Lost`.
    NodeDown(NodeId),
    /// A fenced node is back.
    NodeUp(NodeId),
    /// An operator's change.
    UpdateNode(NodeId, NodeChange),
    /// A node leaves or is taken out: its tasks become `Lost`. Without `force` only when it is down.
    RemoveNode {
        /// Which node.
        id: NodeId,
        /// Also when it is up.
        force: bool,
    },
    /// A service.
    CreateService(ServiceSpec),
    /// A change of a service.
    UpdateService(Id, ServiceChange),
    /// The service's tasks are to go, and with the last of them the service.
    RemoveService(Id),
    /// One task is to stop and to stay stopped (`swarmctl stop TASK`).
    StopTask(Id),
    /// One task is to go (`swarmctl rm TASK`).
    RemoveTask(Id),
    /// Sets `Task::spec.stop_timeout_ms` of these tasks (`swarmctl stop --time`), before they are stopped by another
    /// change. Tasks that have ended or are gone are left out.
    SetStopTimeout {
        /// Which tasks.
        tasks: Vec<Id>,
        /// Milliseconds between the stop signal and SIGKILL.
        timeout_ms: u64,
    },
    /// What the orchestrator and the scheduler decided. Items that no longer fit the state are left out.
    Plan(Vec<PlanItem>),
    /// What a node observed of its tasks. Reports of a fenced node or of older states are left out.
    Report {
        /// Who observed.
        node: NodeId,
        /// Task ids and what was observed.
        statuses: Vec<(Id, TaskStatus)>,
    },
    /// A network.
    CreateNetwork(NetworkSpec),
    /// A network that no task uses.
    RemoveNetwork(Id),
    /// An image is known, and on these nodes.
    PutImage {
        /// The image.
        image: Image,
        /// A node that has its layers.
        node: NodeId,
    },
    /// An image is forgotten.
    RemoveImage(String),
    /// A join token; only the hash of its secret.
    AddToken {
        /// Public id.
        id: String,
        /// SHA-256 of the secret.
        hash: [u8; 32],
        /// What nodes that join with it may be.
        role: NodeRole,
        /// Not valid from then on.
        expires_at: Timestamp,
    },
    /// A token is void.
    RemoveToken(String),
    /// A node is about to be without an image that nothing wants. Refused where it would be lost with that.
    DropImage {
        /// Its name.
        reference: String,
        /// Its digest; nothing happens where the name stands for something else by now.
        digest: String,
        /// The node.
        node: NodeId,
    },
}

/// One decision of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PlanItem {
    /// A new task in a service's slot, after `attempt` earlier ones in a row.
    AddTask {
        /// The service.
        service: Id,
        /// Its slot, from 1.
        slot: u32,
        /// See `Task::attempt`.
        attempt: u32,
        /// See `Task::not_before`.
        not_before: Timestamp,
        /// Its node, where the plan places it at once.
        node: Option<NodeId>,
    },
    /// A pending task gets a node, and with it its addresses.
    Assign {
        /// The task.
        task: Id,
        /// Its node.
        node: NodeId,
    },
    /// Why a pending task has no node.
    Explain {
        /// The task.
        task: Id,
        /// Node by node.
        why: String,
    },
    /// A task's desired state moves down.
    Desire {
        /// The task.
        task: Id,
        /// To what.
        state: DesiredState,
    },
    /// The record of a task that has ended goes; its addresses are free.
    Forget(Id),
    /// A service whose tasks are all gone goes.
    DropService(Id),
}

/// What a change came to; serialised with postcard as the answer to the proposer.
pub type Outcome = swarm_api::Result<Option<Object>>;
