//! Nodes come, go, change, are fenced and let in again.

use super::State;
use super::apply::Entry;
use crate::command::Outcome;
use ipnet::Ipv4Net;
use std::net::SocketAddr;
use swarm_api::model::{
    Capacity, EventAction, Id, Kind, NetworkSpec, Node, NodeChange, NodeHealth, NodeId, NodeRole,
    Object, RaftStatus, TaskState, validate_name,
};
use swarm_api::{Error, Result};

/// The network that is there from the start.
pub(super) const DEFAULT_NETWORK: &str = "default";

impl State {
    pub(super) fn init(
        &mut self,
        entry: Entry,
        cluster: &str,
        node: &Node,
        pool: Ipv4Net,
        sealed: &[u8],
    ) -> Outcome {
        if !self.cluster.is_empty() {
            return Err(Error::AlreadyExists(format!(
                "cluster {} exists already",
                self.cluster
            )));
        }
        if cluster.is_empty() {
            return Err(Error::Invalid("a cluster needs an id".into()));
        }
        validate_name("node", &node.name)?;
        let mut next = Self {
            cluster: cluster.into(),
            index: entry.index,
            pool: Some(pool),
            sealed: sealed.to_vec(),
            ..Self::default()
        };
        let node = next.put_node(entry, node);
        let spec = NetworkSpec {
            name: DEFAULT_NETWORK.into(),
            subnet: None,
        };
        next.create_network(entry, &spec)?;
        next.renew();
        *self = next;
        Ok(Some(Object::Node(node)))
    }

    pub(super) fn add_node(&mut self, entry: Entry, node: &Node, token: Option<&str>) -> Outcome {
        if let Some(token) = token {
            let role = self.check_token(token, entry.time)?;
            if node.role == NodeRole::Manager && role == NodeRole::Worker {
                return Err(Error::Denied(format!(
                    "token {token} lets workers join, and node {} asks to be a manager",
                    node.name
                )));
            }
        }
        validate_name("node", &node.name)?;
        let taken = (self.nodes.values()).find(|n| n.name == node.name && n.id != node.id);
        if let Some(other) = taken {
            return Err(Error::AlreadyExists(format!(
                "a node named {} is in the cluster already, with id {}",
                other.name, other.id
            )));
        }
        // It starts anew: what an earlier life of it ran is not counted on.
        self.lose_tasks(
            entry,
            node.id,
            &format!("node {} joined again", node.name),
            false,
        );
        Ok(Some(Object::Node(self.put_node(entry, node))))
    }

    fn put_node(&mut self, entry: Entry, node: &Node) -> Node {
        let before = self.nodes.get(&node.id).cloned();
        let action = match before {
            Some(_) => EventAction::Updated,
            None => EventAction::Created,
        };
        let mut node = Node {
            health: NodeHealth::Ready,
            raft: RaftStatus::default(),
            joined_at: entry.time,
            ..node.clone()
        };
        if let Some(before) = before {
            // What the operator set stays.
            node.availability = before.availability;
            node.labels.extend(before.labels);
        }
        self.nodes.insert(node.id, node.clone());
        for record in self.networks.values_mut() {
            record.gateway_for(node.id);
        }
        self.tell_node(entry, &node, action, "");
        node
    }

    pub(super) fn node_facts(
        &mut self,
        entry: Entry,
        id: NodeId,
        address: Option<SocketAddr>,
        capacity: Option<Capacity>,
        version: Option<&String>,
    ) -> Outcome {
        let node = self.node_mut(id)?;
        let before = node.clone();
        node.address = address.or(node.address);
        node.capacity = capacity.unwrap_or(node.capacity);
        if let Some(version) = version {
            node.version.clone_from(version);
        }
        let node = node.clone();
        if node != before {
            self.tell_node(entry, &node, EventAction::Updated, "");
        }
        Ok(Some(Object::Node(node)))
    }

    pub(super) fn node_down(&mut self, entry: Entry, id: NodeId) -> Outcome {
        let node = self.node_mut(id)?;
        if node.health == NodeHealth::Down {
            return Ok(None);
        }
        node.health = NodeHealth::Down;
        let node = node.clone();
        self.tell_node(entry, &node, EventAction::Updated, "it was declared dead");
        let why = format!("node {} was declared dead", node.name);
        self.lose_tasks(entry, id, &why, false);
        Ok(Some(Object::Node(node)))
    }

    pub(super) fn node_up(&mut self, entry: Entry, id: NodeId) -> Outcome {
        let node = self.node_mut(id)?;
        if node.health == NodeHealth::Ready {
            return Ok(None);
        }
        node.health = NodeHealth::Ready;
        let node = node.clone();
        self.tell_node(entry, &node, EventAction::Updated, "it is back");
        Ok(Some(Object::Node(node)))
    }

    pub(super) fn update_node(&mut self, entry: Entry, id: NodeId, change: &NodeChange) -> Outcome {
        let node = self.node_mut(id)?;
        let before = node.clone();
        node.availability = change.availability.unwrap_or(node.availability);
        for label in &change.remove_labels {
            node.labels.remove(label);
        }
        node.labels.extend(change.set_labels.clone());
        let node = node.clone();
        if node != before {
            self.tell_node(entry, &node, EventAction::Updated, "");
        }
        Ok(Some(Object::Node(node)))
    }

    pub(super) fn remove_node(&mut self, entry: Entry, id: NodeId, force: bool) -> Outcome {
        let node = self.node_mut(id)?.clone();
        if node.health != NodeHealth::Down && !force {
            return Err(Error::Conflict(format!(
                "node {} is up; let it leave with `swarmctl leave` on it, or take it out with --force",
                node.name
            )));
        }
        let why = format!("node {} left the cluster", node.name);
        self.lose_tasks(entry, id, &why, true);
        self.nodes.remove(&id);
        for record in self.networks.values_mut() {
            record.gateways.remove(&id);
        }
        for record in self.images.values_mut() {
            record.nodes.remove(&id);
        }
        self.marks.images = entry.index;
        self.tell_node(entry, &node, EventAction::Removed, "");
        Ok(Some(Object::Node(node)))
    }

    /// The live tasks of a node become lost. Their addresses stay theirs until the node says that their containers are
    /// gone, as it may be only cut off; with `gone` nothing of the node is reachable any more, and they are free.
    fn lose_tasks(&mut self, entry: Entry, node: NodeId, why: &str, gone: bool) {
        let on_node = self.tasks.of_node(node);
        let (live, ended): (Vec<_>, Vec<_>) = on_node.partition(|t| !t.status.state.is_final());
        let live: Vec<Id> = live.into_iter().map(|t| t.id.clone()).collect();
        let ended: Vec<Id> = (ended.into_iter())
            .filter(|t| t.status.finished_at.is_none())
            .map(|t| t.id.clone())
            .collect();
        let time = gone.then_some(entry.time);
        for id in live {
            self.end_task(entry, &id, TaskState::Lost, why, time);
        }
        if gone {
            for id in ended {
                self.confirm_gone(&id, entry.time);
            }
        }
    }

    /// The node, or that it is not there.
    pub(super) fn node_mut(&mut self, id: NodeId) -> Result<&mut Node> {
        self.nodes
            .get_mut(&id)
            .ok_or_else(|| Error::NotFound(format!("node {id} is not in this cluster")))
    }

    fn tell_node(&mut self, entry: Entry, node: &Node, action: EventAction, message: &str) {
        self.marks.nodes = entry.index;
        self.marks.networks = entry.index;
        let health = match node.health {
            NodeHealth::Ready => "ready",
            NodeHealth::Down => "down",
        };
        let attributes = vec![
            ("node", node.name.clone()),
            ("state", health.into()),
            ("message", message.into()),
        ];
        let id = Id::from_text(node.id.to_string());
        self.tell(entry, Kind::Node, &id, &node.name, action, attributes);
    }
}
