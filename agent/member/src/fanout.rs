//! Whom a node turns to, where there are too many to turn to all, or for all to turn to one.
//!
//! The log spreads as a tree. All nodes are put in one order, the voters first, and each serves the next ones that are not
//! served yet: nobody serves more than [`FAN_OUT`] others, the leader neither, and a thousand nodes are two steps from a
//! voter, of five. Nodes that have heard different things may build different trees; a circle that comes of that is fed by
//! nobody, goes stale, and its nodes try the next candidates.
//!
//! Pure.

use crate::book::Addresses;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use swarm_api::model::NodeId;

/// How many others a node serves.
pub(crate) const FAN_OUT: usize = 16;

/// How many others a node turns to when it joins the gossip; from these it hears of all.
const SEEDS: usize = 32;

/// Whom `own` tries, in this order: who serves it in the tree; that one's own source, and so on up to a voter; all others that
/// live, spread; those that seem dead.
pub(crate) fn candidates(
    own: NodeId,
    roots: &BTreeSet<NodeId>,
    alive: &BTreeSet<NodeId>,
    dead: &BTreeSet<NodeId>,
) -> Vec<NodeId> {
    let mut order: Vec<NodeId> = alive.iter().copied().chain([own]).collect();
    order.sort_by_cached_key(|node| (!roots.contains(node), spread(NodeId(0), *node), *node));
    order.dedup();
    let count = order.iter().filter(|node| roots.contains(node)).count();
    let mut found = Vec::with_capacity(alive.len() + dead.len());
    let mut at = order.iter().position(|node| *node == own).unwrap_or(0);
    // Without a voter there is no tree.
    while count > 0 && at >= count {
        at = (at - count) / FAN_OUT;
        found.push(order[at]);
    }
    let above: BTreeSet<NodeId> = found.iter().copied().collect();
    let mut others: Vec<NodeId> = (alive.iter().chain(dead).copied())
        .filter(|node| *node != own && !above.contains(node))
        .collect();
    others.sort_by_cached_key(|node| {
        (
            dead.contains(node),
            !roots.contains(node) && roots.contains(&own),
            spread(own, *node),
        )
    });
    found.extend(others);
    found
}

/// Through whom `own` joins the gossip: a few of those that it knows, others for each node.
pub(crate) fn seeds(own: NodeId, known: &Addresses) -> Vec<SocketAddr> {
    let mut nodes: Vec<NodeId> = known.keys().copied().filter(|node| *node != own).collect();
    nodes.sort_by_cached_key(|node| spread(own, *node));
    let few = nodes.iter().take(SEEDS);
    few.filter_map(|node| known.get(node).copied()).collect()
}

/// A number that differs for each pair, so that followers spread evenly (rendezvous hashing).
fn spread(own: NodeId, other: NodeId) -> u64 {
    let hash = crate::token::sha256(&[own.0.to_be_bytes(), other.0.to_be_bytes()].concat());
    hash[..8]
        .iter()
        .fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn ids(numbers: std::ops::Range<u64>) -> BTreeSet<NodeId> {
        numbers.map(|n| NodeId(n * 7919)).collect()
    }

    fn sources(nodes: &BTreeSet<NodeId>, roots: &BTreeSet<NodeId>) -> BTreeMap<NodeId, NodeId> {
        let none = BTreeSet::new();
        let of = |own: &NodeId| {
            let others = nodes.iter().copied().filter(|n| n != own).collect();
            (*own, candidates(*own, roots, &others, &none)[0])
        };
        nodes.difference(roots).map(of).collect()
    }

    #[test]
    fn nobody_serves_too_many_and_all_are_a_few_steps_from_a_voter() {
        for count in [2, 6, 64, 65, 300, 1000] {
            let (nodes, roots) = (ids(1..count + 1), ids(1..count.min(6)));
            let sources = sources(&nodes, &roots);
            let mut served: BTreeMap<NodeId, usize> = BTreeMap::new();
            for (node, source) in &sources {
                *served.entry(*source).or_default() += 1;
                let (mut at, mut steps) = (*node, 0);
                while let Some(next) = sources.get(&at) {
                    (at, steps) = (*next, steps + 1);
                    assert!(steps <= 3, "{count} nodes");
                }
                assert!(roots.contains(&at));
            }
            assert!(served.values().all(|n| *n <= FAN_OUT), "{count} nodes");
        }
    }

    #[test]
    fn every_other_node_is_tried_once_and_the_dead_last() {
        let (alive, dead) = (ids(2..40), ids(40..50));
        let own = NodeId(7919);
        for roots in [ids(2..5), ids(1..4), BTreeSet::new()] {
            let tried = candidates(own, &roots, &alive, &dead);
            let all: BTreeSet<NodeId> = tried.iter().copied().collect();
            assert_eq!((tried.len(), all.len()), (48, 48));
            assert!(!all.contains(&own));
            assert!(tried[38..].iter().all(|node| dead.contains(node)));
            if roots.contains(&own) {
                // One that votes and is behind asks the others.
                assert!(tried[..2].iter().all(|node| roots.contains(node)));
            }
        }
    }

    #[test]
    fn one_whose_source_dies_goes_to_that_one_s_own_source() {
        let (nodes, roots) = (ids(1..500), ids(1..6));
        let others = |own: NodeId| nodes.iter().copied().filter(|n| *n != own).collect();
        let none = BTreeSet::new();
        for own in nodes.difference(&roots) {
            let tried = candidates(*own, &roots, &others(*own), &none);
            if !roots.contains(&tried[0]) {
                assert_eq!(
                    tried[1],
                    candidates(tried[0], &roots, &others(tried[0]), &none)[0]
                );
            }
        }
    }
}
