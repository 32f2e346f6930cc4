//! Nodes, and how they enter and leave.

use super::{enumeration, node_id, parse, present};
use crate::control::{Joined, Token};
use crate::model::{
    Availability, Capacity, Cpus, Node, NodeChange, NodeHealth, NodeRole, RaftStatus, Timestamp,
};
use crate::{Error, Result};
use swarm_proto::v1;

enumeration!(role: NodeRole = v1::NodeRole, Some(NodeRole::Worker), { Manager, Worker });
enumeration!(availability: Availability = v1::Availability, Some(Availability::Active), { Active, Pause, Drain });
enumeration!(health: NodeHealth = v1::NodeHealth, Some(NodeHealth::Ready), { Ready, Down });
enumeration!(raft: RaftStatus = v1::RaftStatus, Some(RaftStatus::Observer), { Leader, Voter, Observer });

impl From<Node> for v1::Node {
    fn from(n: Node) -> Self {
        Self {
            id: n.id.to_string(),
            name: n.name,
            role: v1::NodeRole::from(n.role).into(),
            availability: v1::Availability::from(n.availability).into(),
            health: v1::NodeHealth::from(n.health).into(),
            raft: v1::RaftStatus::from(n.raft).into(),
            address: n.address.map(|a| a.to_string()),
            labels: n.labels,
            nano_cpus: n.capacity.cpus.0,
            memory_bytes: n.capacity.memory,
            version: n.version,
            arch: n.arch,
            os: n.os,
            joined_at_unix_ms: n.joined_at.0,
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = Error;

    fn try_from(n: v1::Node) -> Result<Self> {
        Ok(Self {
            id: parse("id", &n.id)?,
            name: n.name,
            role: role(n.role)?,
            availability: availability(n.availability)?,
            health: health(n.health)?,
            raft: raft(n.raft)?,
            address: n.address.map(|a| parse("address", &a)).transpose()?,
            labels: n.labels,
            capacity: Capacity {
                cpus: Cpus(n.nano_cpus),
                memory: n.memory_bytes,
            },
            version: n.version,
            arch: n.arch,
            os: n.os,
            joined_at: Timestamp(n.joined_at_unix_ms),
        })
    }
}

impl From<NodeChange> for v1::NodeChange {
    fn from(c: NodeChange) -> Self {
        Self {
            availability: c.availability.map(|a| v1::Availability::from(a).into()),
            set_labels: c.set_labels,
            remove_labels: c.remove_labels,
        }
    }
}

impl TryFrom<v1::NodeChange> for NodeChange {
    type Error = Error;

    fn try_from(c: v1::NodeChange) -> Result<Self> {
        Ok(Self {
            availability: c.availability.map(availability).transpose()?,
            set_labels: c.set_labels,
            remove_labels: c.remove_labels,
        })
    }
}

impl From<Joined> for v1::Joined {
    fn from(j: Joined) -> Self {
        Self {
            cluster: j.cluster,
            node: j.node.to_string(),
            name: j.name,
            role: v1::NodeRole::from(j.role).into(),
        }
    }
}

impl TryFrom<v1::Joined> for Joined {
    type Error = Error;

    fn try_from(j: v1::Joined) -> Result<Self> {
        Ok(Self {
            cluster: j.cluster,
            node: present("node", node_id("node", Some(j.node))?)?,
            name: j.name,
            role: role(j.role)?,
        })
    }
}

impl From<Token> for v1::Token {
    fn from(t: Token) -> Self {
        Self {
            id: t.id,
            secret: t.secret,
            role: v1::NodeRole::from(t.role).into(),
            expires_at_unix_ms: t.expires_at.0,
        }
    }
}

impl TryFrom<v1::Token> for Token {
    type Error = Error;

    fn try_from(t: v1::Token) -> Result<Self> {
        Ok(Self {
            id: t.id,
            secret: t.secret,
            role: role(t.role)?,
            expires_at: Timestamp(t.expires_at_unix_ms),
        })
    }
}
