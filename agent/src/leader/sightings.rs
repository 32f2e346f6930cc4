//! Which nodes count as alive, by gossip. Pure: members and time in, a verdict for each node of the state out.
//!
//! A node that gossip declares down is dead at once. One that gossip does not know is not: it may have joined just now,
//! or this agent may have just started, as all do after a power cut; it has [`GRACE`] to be seen. So has one that
//! said good-bye: an agent that is restarted or upgraded is back by then, and its containers have gone on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use swarm_api::model::NodeId;
use swarm_discovery::membership::{Member, MemberState};
use tokio::time::Instant;

/// How long a node may be unseen before it counts as dead.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Since when nodes are not seen.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    unseen: BTreeMap<NodeId, Instant>,
}

/// What is seen now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether each node is alive. Who is not in it is in doubt.
    pub alive: BTreeMap<NodeId, bool>,
    /// When the next doubt ends.
    pub due: Option<Instant>,
}

impl Sightings {
    /// Judges `nodes`, as `me` sees `members` at `now`.
    pub(super) fn judge(
        &mut self,
        nodes: &BTreeSet<NodeId>,
        members: &[Member],
        me: NodeId,
        now: Instant,
    ) -> Seen {
        let states: BTreeMap<NodeId, MemberState> = members
            .iter()
            .map(|member| (NodeId(member.node), member.state))
            .collect();
        self.unseen.retain(|node, _| nodes.contains(node));
        let mut seen = Seen {
            alive: BTreeMap::new(),
            due: None,
        };
        for node in nodes {
            let verdict = match states.get(node) {
                _ if *node == me => Some(true),
                Some(state) if state.is_active() => Some(true),
                Some(MemberState::Down) => Some(false),
                _ => None,
            };
            if let Some(alive) = verdict {
                self.unseen.remove(node);
                seen.alive.insert(*node, alive);
                continue;
            }
            let end = *self.unseen.entry(*node).or_insert(now) + GRACE;
            if end <= now {
                seen.alive.insert(*node, false);
            } else {
                seen.due = Some(seen.due.map_or(end, |due| due.min(end)));
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);

    fn member(node: u64, state: MemberState) -> Member {
        Member {
            node,
            addr: ([127, 0, 0, 1], 1).into(),
            generation: 1,
            state,
            soft_state: Default::default(),
        }
    }

    fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    fn verdicts(seen: &Seen) -> Vec<(u64, bool)> {
        seen.alive
            .iter()
            .map(|(id, alive)| (id.0, *alive))
            .collect()
    }

    #[test]
    fn a_node_that_gossip_declares_down_is_dead_at_once_and_a_suspect_is_not() {
        let members = [
            member(1, MemberState::Alive),
            member(2, MemberState::Down),
            member(3, MemberState::Suspect),
        ];
        let seen = Sightings::default().judge(&nodes(1..=3), &members, ME, Instant::now());
        assert_eq!(verdicts(&seen), [(1, true), (2, false), (3, true)]);
        assert_eq!(seen.due, None);
    }

    #[test]
    fn a_node_that_was_not_seen_yet_is_in_doubt_for_a_while() {
        let mut sightings = Sightings::default();
        let start = Instant::now();
        let members = [member(1, MemberState::Alive)];
        let seen = sightings.judge(&nodes(1..=2), &members, ME, start);
        assert_eq!(verdicts(&seen), [(1, true)]);
        assert_eq!(seen.due, Some(start + GRACE));
        // One that joins meanwhile has a time of its own.
        let later = start + GRACE / 2;
        let seen = sightings.judge(&nodes(1..=3), &members, ME, later);
        assert_eq!(seen.due, Some(start + GRACE));
        let seen = sightings.judge(&nodes(1..=3), &members, ME, start + GRACE);
        assert_eq!(verdicts(&seen), [(1, true), (2, false)]);
        assert_eq!(seen.due, Some(later + GRACE));
    }

    #[test]
    fn an_agent_that_said_good_bye_has_time_to_come_back() {
        let mut sightings = Sightings::default();
        let start = Instant::now();
        let gone = [member(2, MemberState::Left)];
        assert!(
            sightings
                .judge(&nodes([2]), &gone, ME, start)
                .alive
                .is_empty()
        );
        let back = [member(2, MemberState::Alive)];
        let seen = sightings.judge(&nodes([2]), &back, ME, start + GRACE / 2);
        assert_eq!(verdicts(&seen), [(2, true)]);
        // The next time counts anew.
        let seen = sightings.judge(&nodes([2]), &gone, ME, start + GRACE);
        assert!(seen.alive.is_empty());
    }
}
