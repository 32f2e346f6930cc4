//! What gossip says of nodes, made facts: a dead one is fenced, one that is back is let in again.
//! In: the state and who is alive in gossip. Out: changes. It must not know how gossip works, nor for how long a node
//! must be silent.

use crate::command::Change;
use crate::state::State;
use std::collections::BTreeMap;
use swarm_api::model::{NodeHealth, NodeId};

/// The changes that follow from `seen`: whether each node is alive. Of a node that is not in it nothing is known, and
/// nothing changes.
///
/// Where several other nodes are there and none of them is alive, none is declared dead: it is far likelier that this
/// node is the one that is cut off. A leader that only its own vote made (one manager with workers) could otherwise
/// start all tasks a second time on itself; one of three or five voters has lost its quorum then anyway and could
/// decide nothing. Of two nodes, one that is silent is declared dead: there is no third to ask.
#[must_use]
pub fn changes(state: &State, seen: &BTreeMap<NodeId, bool>) -> Vec<Change> {
    let known = || state.nodes.keys().filter(|id| seen.contains_key(id));
    let alive = |id: &NodeId| seen.get(id).copied();
    let living = known().filter(|id| alive(id) == Some(true)).count();
    let cut_off = state.nodes.len() > 2 && living <= 1;
    (state.nodes.iter())
        .filter_map(|(id, node)| match (node.health, alive(id)?) {
            (NodeHealth::Ready, false) if !cut_off => Some(Change::NodeDown(*id)),
            (NodeHealth::Down, true) => Some(Change::NodeUp(*id)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
