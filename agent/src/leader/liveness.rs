//! Gossip's verdicts made facts of the log: a dead node is fenced, one that is back is let in again.

use super::pace::{Backoff, Repeats};
use super::sightings::Sightings;
use super::{SAFETY, propose};
use crate::follow::Follow;
use std::collections::BTreeMap;
use std::time::Duration;
use swarm_api::model::NodeId;
use swarm_cluster::{Change, liveness};
use swarm_member::{Member, MemberStatus};
use tokio::time::Instant;

/// When to look again where gossip and Raft say the contrary of each other.
const DOUBT: Duration = Duration::from_secs(1);
/// How long the only voter must hear none of several others before it declares them dead: a cable that was pulled or a
/// switch that restarts is not to make it run everything by itself.
const ALONE: Duration = Duration::from_secs(5);

/// Never returns while the member lives.
pub(super) async fn run(member: &Member) {
    let mut members = member.membership().watch();
    let mut follow = Follow::new(member.clone(), |state| state.marks.nodes);
    // Of this time of leading only: who was not seen an hour ago may have come back and gone since.
    let mut sightings = Sightings::default();
    let mut repeats: Repeats<Vec<Change>> = Repeats::default();
    let mut backoff = Backoff::default();
    let mut alone_since = None;
    loop {
        let seen = members.borrow_and_update().clone();
        follow.look();
        let now = Instant::now();
        let status = member.status();
        let (mut changes, mut due) = {
            let state = member.state();
            let nodes = state.nodes.keys().copied().collect();
            let seen = sightings.judge(&nodes, &seen, member.id(), now);
            if liveness::sees_nobody(&state, &seen.alive) {
                alone_since.get_or_insert(now);
            } else {
                alone_since = None;
            }
            match doubt(&status, &seen.alive, alone_since, now) {
                Some(until) => (Vec::new(), Some(until)),
                None => (liveness::changes(&state, &seen.alive), seen.due),
            }
        };
        if changes.is_empty() {
            repeats.settle();
            let due = *due.get_or_insert(now + SAFETY);
            tokio::select! {
                changed = members.changed() => if changed.is_err() { return },
                changed = follow.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due.min(now + SAFETY)) => {}
            }
            continue;
        }
        if let Some(delay) = repeats.delay(changes.clone()) {
            tokio::time::sleep(delay).await;
        }
        for change in changes.drain(..) {
            if let Err(why) = propose(member, change.clone()).await {
                tracing::warn!(%why, ?change, "cannot record what gossip says of a node; trying again");
                tokio::time::sleep(backoff.next()).await;
                break;
            }
            tracing::info!(?change, "recorded what gossip says of a node");
            backoff.reset();
        }
    }
}

/// Until when gossip is not believed, if it is not. `alone_since`: since when none of several others was heard.
fn doubt(
    status: &MemberStatus,
    alive: &BTreeMap<NodeId, bool>,
    alone_since: Option<Instant>,
    now: Instant,
) -> Option<Instant> {
    if is_contradicted(status, alive) {
        return Some(now + DOUBT);
    }
    let only_voter = status.voters.len() == 1;
    match alone_since {
        // It has lost its quorum, or soon knows it.
        Some(_) if !only_voter => Some(now + DOUBT),
        Some(since) => Some(since + ALONE).filter(|until| *until > now),
        None => None,
    }
}

/// Whether gossip says that so many voters are dead as cannot be while a quorum of them answers this node: then it is
/// this node's gossip that is cut off, and nobody is to be fenced for it.
fn is_contradicted(status: &MemberStatus, alive: &BTreeMap<NodeId, bool>) -> bool {
    let dead = |voter: &&NodeId| alive.get(voter) == Some(&false);
    let dead = status.voters.iter().filter(dead).count();
    status.has_quorum && dead * 2 >= status.voters.len() && dead > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contradicted(voters: u64, dead: u64) -> bool {
        let status = MemberStatus {
            voters: (1..=voters).map(NodeId).collect(),
            has_quorum: true,
            ..MemberStatus::default()
        };
        let alive = (1..=voters + 1).map(|id| (NodeId(id), id > dead));
        is_contradicted(&status, &alive.collect())
    }

    #[test]
    fn the_only_voter_that_hears_nobody_waits_before_it_declares_all_dead_and_others_never_do() {
        let start = Instant::now();
        let alive = BTreeMap::from([(NodeId(1), true), (NodeId(2), false)]);
        let doubt = |voters: u64, has_quorum, since, now| {
            let status = MemberStatus {
                voters: (1..=voters).map(NodeId).collect(),
                has_quorum,
                ..MemberStatus::default()
            };
            doubt(&status, &alive, since, now)
        };
        assert_eq!(doubt(1, true, None, start), None);
        assert_eq!(doubt(1, true, Some(start), start), Some(start + ALONE));
        assert_eq!(doubt(1, true, Some(start), start + ALONE), None);
        let long = start + ALONE * 10;
        assert_eq!(doubt(3, false, Some(start), long), Some(long + DOUBT));
    }

    #[test]
    fn gossip_is_not_believed_against_a_quorum_that_answers() {
        assert!(!contradicted(3, 1));
        assert!(contradicted(3, 2));
        assert!(!contradicted(5, 2));
        assert!(contradicted(5, 3));
        assert!(!contradicted(1, 0));
    }
}
