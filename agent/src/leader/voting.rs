//! Who votes: what the core chooses is carried out once it has stood for a while, as each change of the voters is
//! work for all of them, and a host that restarts is back sooner than it is replaced.

use super::SAFETY;
use super::pace::Backoff;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use swarm_api::model::{NodeHealth, NodeId, NodeRole};
use swarm_cluster::{State, voters};
use swarm_member::Member;
use tokio::time::Instant;

/// How long a choice must stand that only adds voters, or takes away those that are no longer in the cluster.
const STANDS: Duration = Duration::from_millis(500);
/// How long a choice must stand that takes the vote from a node that may come back.
const STANDS_LONG: Duration = Duration::from_secs(5);

/// Never returns while the member lives.
pub(super) async fn run(member: &Member) {
    let mut applied = member.watch_applied();
    let mut choice = Choice::default();
    let mut backoff = Backoff::default();
    loop {
        applied.borrow_and_update();
        let status = member.status();
        let current: BTreeSet<NodeId> = status.voters.iter().copied().collect();
        let managers = managers(&member.state());
        let wanted = keep_leader(
            voters::choose(&managers, &current),
            member.id(),
            &managers,
            &current,
        );
        let now = Instant::now();
        let due = choice.due(wanted, &current, &managers, now);
        if due.is_some_and(|due| due <= now) && status.has_quorum {
            let wanted = choice.wanted();
            match member.change_voters(wanted.clone()).await {
                Ok(()) => {
                    tracing::info!(voters = ?wanted, "changed who votes");
                    backoff.reset();
                }
                Err(why) => {
                    tracing::warn!(%why, voters = ?wanted, "cannot change who votes; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
            continue;
        }
        let wake = due.filter(|due| *due > now).unwrap_or(now + SAFETY);
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(wake.min(now + SAFETY)) => {}
        }
    }
}

/// Who may vote, and whether each is counted on.
fn managers(state: &State) -> BTreeMap<NodeId, bool> {
    let managers = state.nodes.values().filter(|n| n.role == NodeRole::Manager);
    managers
        .map(|n| (n.id, n.health == NodeHealth::Ready))
        .collect()
}

/// The choice with the leader in place of another voter, if it is to lose its vote only because there are too many:
/// the cluster would have to find another leader first.
fn keep_leader(
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

/// A choice and since when it stands.
#[derive(Debug, Default)]
struct Choice {
    standing: Option<(BTreeSet<NodeId>, Instant)>,
}

impl Choice {
    /// When `wanted` is to be carried out; nothing where it is as it should be.
    fn due(
        &mut self,
        wanted: BTreeSet<NodeId>,
        current: &BTreeSet<NodeId>,
        managers: &BTreeMap<NodeId, bool>,
        now: Instant,
    ) -> Option<Instant> {
        if wanted == *current || wanted.is_empty() {
            self.standing = None;
            return None;
        }
        let may_come_back = (current.difference(&wanted)).any(|id| managers.contains_key(id));
        let stands = if may_come_back { STANDS_LONG } else { STANDS };
        let since = match &self.standing {
            Some((standing, since)) if *standing == wanted => *since,
            _ => now,
        };
        self.standing = Some((wanted, since));
        Some(since + stands)
    }

    fn wanted(&self) -> BTreeSet<NodeId> {
        let standing = self.standing.as_ref();
        standing
            .map(|(wanted, _)| wanted.clone())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    fn managers(alive: &[u64], dead: &[u64]) -> BTreeMap<NodeId, bool> {
        let alive = alive.iter().map(|id| (NodeId(*id), true));
        alive
            .chain(dead.iter().map(|id| (NodeId(*id), false)))
            .collect()
    }

    #[test]
    fn a_voter_that_may_come_back_is_replaced_late_and_a_new_one_added_soon() {
        let (mut choice, start) = (Choice::default(), Instant::now());
        let all = managers(&[1, 2, 3], &[]);
        assert_eq!(
            choice.due(ids(1..=3), &ids([1]), &all, start),
            Some(start + STANDS)
        );
        let one_dead = managers(&[1, 2, 4], &[3]);
        assert_eq!(
            choice.due(ids([1, 2, 4]), &ids(1..=3), &one_dead, start),
            Some(start + STANDS_LONG)
        );
        // It is not in the cluster any more.
        let left = managers(&[1, 2, 4], &[]);
        assert_eq!(
            choice.due(ids([1, 2, 4]), &ids(1..=3), &left, start),
            Some(start + STANDS)
        );
        assert_eq!(choice.due(ids(1..=3), &ids(1..=3), &all, start), None);
    }

    #[test]
    fn a_choice_that_changes_must_stand_anew() {
        let (mut choice, start) = (Choice::default(), Instant::now());
        let all = managers(&[1, 2, 3, 4, 5], &[]);
        let later = start + STANDS / 2;
        choice.due(ids(1..=3), &ids([1]), &all, start);
        assert_eq!(
            choice.due(ids(1..=3), &ids([1]), &all, later),
            Some(start + STANDS)
        );
        assert_eq!(
            choice.due(ids(1..=5), &ids([1]), &all, later),
            Some(later + STANDS)
        );
    }

    #[test]
    fn a_leader_does_not_lose_its_vote_for_being_one_too_many() {
        let all = managers(&[1, 2], &[]);
        assert_eq!(
            keep_leader(ids([1]), NodeId(2), &all, &ids([1, 2, 3])),
            ids([2])
        );
        assert_eq!(
            keep_leader(ids([1]), NodeId(1), &all, &ids([1, 2, 3])),
            ids([1])
        );
        // It left, or was made a worker.
        assert_eq!(
            keep_leader(ids([1]), NodeId(9), &all, &ids([1, 2, 9])),
            ids([1])
        );
    }
}
