//! What gossip says of nodes, made facts: a dead one is fenced, one that is back is let in again.
//! In: the state and who is alive in gossip. Out: changes. It must not know how gossip works, nor for how long a node
//! must be silent.

use crate::command::Change;
use crate::state::State;
use std::collections::BTreeMap;
use swarm_api::model::{NodeHealth, NodeId};

/// The changes that follow from `seen`: whether each node is alive. Of a node that is not in it nothing is known, and
/// nothing changes. Whether to wait with them where [`sees_nobody`] is the caller's to decide.
#[must_use]
pub fn changes(state: &State, seen: &BTreeMap<NodeId, bool>) -> Vec<Change> {
    (state.nodes.iter())
        .filter_map(|(id, node)| match (node.health, seen.get(id)?) {
            (NodeHealth::Ready, false) => Some(Change::NodeDown(*id)),
            (NodeHealth::Down, true) => Some(Change::NodeUp(*id)),
            _ => None,
        })
        .collect()
}

/// Whether several other nodes are there and none of them is alive: then it is likelier that this node is the one that
/// is cut off. Of two nodes, one that is silent may well be dead: there is no third to ask.
#[must_use]
pub fn sees_nobody(state: &State, seen: &BTreeMap<NodeId, bool>) -> bool {
    let alive = |id: &&NodeId| seen.get(id) == Some(&true);
    state.nodes.len() > 2 && state.nodes.keys().filter(alive).count() <= 1
}

#[cfg(test)]
mod tests;
