//! Which managers vote in Raft: 1, 3 or 5, as few changes as possible.
//!
//! In: the managers, which of them are alive, and who votes now. Out: who is to vote. It must not know of Raft itself:
//! the caller carries the change out, one joint change at a time, once those added have caught up.

use crate::state::State;
use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::{NodeHealth, NodeId, NodeRole};

/// The most voters.
pub const MOST: usize = 5;

/// The nodes that may vote, and whether each is alive.
#[must_use]
pub fn managers(state: &State) -> BTreeMap<NodeId, bool> {
    let managers = state.nodes.values().filter(|n| n.role == NodeRole::Manager);
    managers
        .map(|n| (n.id, n.health == NodeHealth::Ready))
        .collect()
}

/// Who is to vote. `managers` are the nodes that may vote, and whether each is alive; `current` are the voters now.
///
/// The number is the largest odd one, at most [`MOST`], that the managers alive allow. Voters that are alive stay as
/// far as they fit. A dead voter makes way for an alive manager; while there is none it stays if it still may vote, as
/// fewer voters would outlive fewer failures, and it may come back. Nothing changes while no majority of the current
/// voters is alive: no change could be agreed on.
#[must_use]
pub fn choose(managers: &BTreeMap<NodeId, bool>, current: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    choose_without(managers, current, &BTreeSet::new())
}

/// As [`choose`], where those of `leaving` are alive and still count for the majority, but are not to vote any more. Nobody
/// is chosen where no other manager is alive.
#[must_use]
pub fn choose_without(
    managers: &BTreeMap<NodeId, bool>,
    current: &BTreeSet<NodeId>,
    leaving: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let alive = |id: &NodeId| leaving.contains(id) || managers.get(id).copied().unwrap_or(false);
    if !current.is_empty() && !is_majority(current, alive) {
        return current.clone();
    }
    let candidates = || managers.keys().filter(|id| !leaving.contains(id));
    let living = candidates().filter(|id| alive(id)).count();
    // The best first: voters alive, managers alive, dead voters that may come back.
    let mut pool: Vec<(u8, NodeId)> = candidates()
        .filter_map(|id| match (alive(id), current.contains(id)) {
            (true, true) => Some((0, *id)),
            (true, false) => Some((1, *id)),
            (false, true) => Some((2, *id)),
            (false, false) => None,
        })
        .collect();
    pool.sort();
    let size = odd(living.min(MOST)).max(odd(pool.len().min(current.len()).min(MOST)));
    // A majority of those chosen is alive: of the dead ones that keep their vote there are fewer.
    let size = size.min((living * 2).saturating_sub(1));
    pool.into_iter().take(size).map(|(_, id)| id).collect()
}

/// As [`choose`], where the disks of `lost` have lost what they had said to be durable: those have to give their votes back
/// before they may vote again, and count for nothing until then. No other voter loses its vote over that, though the rest
/// may be even in number: it would leave what is agreed on to fewer disks.
#[must_use]
pub fn choose_but(
    managers: &BTreeMap<NodeId, bool>,
    current: &BTreeSet<NodeId>,
    lost: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    if current.is_disjoint(lost) {
        return choose(managers, current);
    }
    let mut sound = managers.clone();
    sound.retain(|id, _| !lost.contains(id));
    if !is_majority(current, |id| sound.get(id).copied().unwrap_or(false)) {
        return current.clone();
    }
    let rest: BTreeSet<NodeId> = current.difference(lost).copied().collect();
    let wanted = choose(&sound, &rest);
    if wanted.len() < rest.len() {
        rest
    } else {
        wanted
    }
}

/// The choice with the leader in place of another voter, if it is to lose its vote only because there are too many:
/// the cluster would have to find another leader first.
#[must_use]
pub fn keep_leader(
    mut wanted: BTreeSet<NodeId>,
    leader: NodeId,
    managers: &BTreeMap<NodeId, bool>,
    current: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let may_stay = managers.contains_key(&leader) && current.contains(&leader);
    if may_stay && !wanted.contains(&leader) && wanted.pop_last().is_some() {
        wanted.insert(leader);
    }
    wanted
}

fn is_majority(voters: &BTreeSet<NodeId>, alive: impl Fn(&NodeId) -> bool) -> bool {
    voters.iter().filter(|id| alive(id)).count() * 2 > voters.len()
}

fn odd(count: usize) -> usize {
    count.saturating_sub(usize::from(count.is_multiple_of(2)))
}

#[cfg(test)]
mod tests;
