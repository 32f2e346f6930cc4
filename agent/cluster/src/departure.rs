//! How a node leaves: what the leader does next for one that asked to be let go, and what the one that leaves does next.
//!
//! In: who manages, who votes, who else is leaving. Out: one step. A node is let go in this order: its vote is taken, that
//! is agreed on without it, its record goes, and only then is it told. Until it is told, it serves on: its vote may be
//! needed for each of these steps. It must not know of Raft itself, nor how anyone is reached.

use crate::voters;
use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::NodeId;

/// Who votes, as the leader has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The voters; while they change, the former ones and the new ones.
    pub voters: BTreeSet<NodeId>,
    /// The voters, and who is prepared for a vote.
    pub members: BTreeSet<NodeId>,
    /// Whether this is agreed on, and no change is under way.
    pub settled: bool,
}

/// What the leader does next for a node that wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Makes these the voters.
    Voters(BTreeSet<NodeId>),
    /// Takes its record out of the state.
    Record,
    /// Waits: a change is not agreed on yet.
    Wait,
    /// Nothing, for without the node there would be no majority.
    Keep,
    /// Lets it go: it is needed no more.
    Done,
}

/// The next step of `leader` for `node`. `managers` are the nodes that may vote, and whether each is alive; `leaving` are
/// all that asked to be let go; `recorded` is whether the state has the node.
#[must_use]
pub fn release(
    node: NodeId,
    leader: NodeId,
    recorded: bool,
    managers: &BTreeMap<NodeId, bool>,
    leaving: &BTreeSet<NodeId>,
    group: &Group,
) -> Release {
    if group.members.contains(&node) {
        let mut leaving = leaving.clone();
        leaving.insert(node);
        leaving.remove(&leader);
        let wanted = voters::choose_without(managers, &group.voters, &leaving);
        let wanted = voters::keep_leader(wanted, leader, managers, &group.voters);
        if wanted.is_empty() || wanted.contains(&node) {
            return Release::Keep;
        }
        return Release::Voters(wanted);
    }
    if !group.settled {
        return Release::Wait;
    }
    if recorded {
        Release::Record
    } else {
        Release::Done
    }
}

/// What a node that wants to go sees of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Leaver {
    /// Itself.
    pub me: NodeId,
    /// Whether it leads.
    pub leads: bool,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Whether other nodes are in the state.
    pub others: bool,
    /// The voters, as it knows them.
    pub voters: BTreeSet<NodeId>,
    /// The other managers that seem to be alive.
    pub managers: BTreeSet<NodeId>,
    /// Those of them that asked it, as the leader, to be let go.
    pub leaving: BTreeSet<NodeId>,
}

/// What a node that wants to go does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    /// Hands the leadership over to another voter.
    Resign,
    /// Has this node vote as well, so that it can lead.
    Promote(NodeId),
    /// Asks these, one after the other, to be let go: the leader is one of them, or they know it.
    Ask(Vec<NodeId>),
    /// Waits until others have left.
    Wait,
    /// Nothing: the cluster ends with it.
    Last,
    /// Nothing: nobody else could lead.
    OnlyManager,
}

/// The next step of one that wants to go.
#[must_use]
pub fn leave(it: &Leaver) -> Leave {
    if !it.others {
        return Leave::Last;
    }
    if it.leads {
        if it.voters.iter().any(|v| *v != it.me) {
            return Leave::Resign;
        }
        return match it.managers.difference(&it.leaving).next() {
            Some(successor) => Leave::Promote(*successor),
            None if it.managers.is_empty() => Leave::OnlyManager,
            None => Leave::Wait,
        };
    }
    let leader = it.leader.filter(|l| *l != it.me);
    let rest = it.managers.iter().copied().filter(|m| Some(*m) != leader);
    let asked: Vec<NodeId> = leader.into_iter().chain(rest).collect();
    if asked.is_empty() {
        Leave::Wait
    } else {
        Leave::Ask(asked)
    }
}

#[cfg(test)]
mod tests;
