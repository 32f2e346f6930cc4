//! Which managers vote in Raft: 1, 3 or 5, as few changes as possible.
//!
//! In: the managers, which of them are alive, and who votes now. Out: who is to vote. It must not know of Raft itself:
//! the caller carries the change out, one joint change at a time, once those added have caught up.

use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::NodeId;

/// The most voters.
pub const MOST: usize = 5;

/// Who is to vote. `managers` are the nodes that may vote, and whether each is alive; `current` are the voters now.
///
/// The number is the largest odd one, at most [`MOST`], that the managers alive allow. Voters that are alive stay as
/// far as they fit. A dead voter makes way for an alive manager; while there is none it stays if it still may vote, as
/// fewer voters would outlive fewer failures, and it may come back. Nothing changes while no majority of the current
/// voters is alive: no change could be agreed on.
#[must_use]
pub fn choose(managers: &BTreeMap<NodeId, bool>, current: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    choose_without(managers, current, None)
}

/// As [`choose`], where `leaving`, if any, is alive and still counts for the majority, but is not to vote any more.
#[must_use]
pub fn choose_without(
    managers: &BTreeMap<NodeId, bool>,
    current: &BTreeSet<NodeId>,
    leaving: Option<NodeId>,
) -> BTreeSet<NodeId> {
    let alive = |id: &NodeId| managers.get(id).copied().unwrap_or(false);
    let staying = current.iter().filter(|id| alive(id)).count();
    if !current.is_empty() && staying * 2 <= current.len() {
        return current.clone();
    }
    let candidates = || managers.keys().filter(|id| Some(**id) != leaving);
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
    pool.into_iter().take(size).map(|(_, id)| id).collect()
}

fn odd(count: usize) -> usize {
    count.saturating_sub(usize::from(count.is_multiple_of(2)))
}

#[cfg(test)]
mod tests;
