//! Who votes: what the core chooses is carried out at once where it gives a vote, as until then a host more may not
//! be lost; and once it has stood for a while where it takes one from a host that may come back, as one that restarts is
//! back sooner than it is replaced.

use super::SAFETY;
use super::pace::Backoff;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use swarm_api::model::{NodeId, Read};
use swarm_cluster::voters;
use swarm_member::{Member, MemberStatus};
use tokio::time::Instant;

/// How long a choice must stand that takes the vote from a node that may come back.
const STANDS: Duration = Duration::from_secs(5);
/// How long a manager that joins waits for its vote. It comes later then; others may have to be reached first.
const VOTE: Duration = Duration::from_secs(5);
/// How often it looks though nothing seems to have changed.
const LOOK: Duration = Duration::from_millis(100);

/// Never returns while the member lives.
pub(super) async fn run(member: &Member) {
    let mut applied = member.watch_applied();
    let mut choice = Choice::default();
    let mut backoff = Backoff::default();
    loop {
        applied.borrow_and_update();
        let view = View::of(member);
        let now = Instant::now();
        let due = choice.due(&view, now);
        if due.is_some_and(|due| due <= now) && view.has_quorum {
            let added = view.wanted.difference(&view.current).copied().collect();
            let outcome = tokio::select! {
                outcome = member.change_voters(view.wanted.clone()) => outcome,
                // It would be waited for; whatever is done already is taken up from there.
                () = one_is_lost(member, &added) => continue,
            };
            match outcome {
                Ok(()) => {
                    tracing::info!(voters = ?view.wanted, "changed who votes");
                    backoff.reset();
                }
                Err(why) => {
                    tracing::warn!(%why, voters = ?view.wanted, "cannot change who votes; trying again");
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

/// Returns when this node votes, if it is to, as seen from here; after [`VOTE`] in any case.
pub async fn has_its_vote(member: &Member) {
    let mut applied = member.watch_applied();
    let voted = async {
        loop {
            applied.borrow_and_update();
            // It also brings the news who votes.
            let fresh = member.read(Read::Linearizable).await;
            if fresh.is_ok_and(|fresh| !fresh.stale) && View::of(member).is_settled() {
                return;
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    };
    if tokio::time::timeout(VOTE, voted).await.is_err() {
        tracing::warn!(
            "this node has no vote yet; until it has, the cluster survives one host less"
        );
    }
}

/// Who votes, and who is to, as one node sees it.
struct View {
    me: NodeId,
    /// Who may vote, and whether each is counted on.
    managers: BTreeMap<NodeId, bool>,
    current: BTreeSet<NodeId>,
    wanted: BTreeSet<NodeId>,
    /// An earlier change is not done.
    under_way: bool,
    has_quorum: bool,
}

impl View {
    fn of(member: &Member) -> Self {
        let (status, departing) = (member.status(), member.departing());
        let mut managers = voters::managers(&member.state());
        // Who is about to leave gets no vote; who has one keeps it until it goes.
        managers.retain(|id, _| status.voters.contains(id) || !departing.contains(id));
        Self::new(member.id(), managers, &status)
    }

    fn new(me: NodeId, mut managers: BTreeMap<NodeId, bool>, status: &MemberStatus) -> Self {
        let current: BTreeSet<NodeId> = status.voters.iter().copied().collect();
        let wanted = voters::choose_but(&managers, &current, &status.lost);
        let wanted = if status.is_leader {
            voters::keep_leader(wanted, me, &managers, &current)
        } else {
            wanted
        };
        // Until then it does not come back.
        managers.retain(|id, _| !status.lost.contains(id));
        Self {
            me,
            managers,
            current,
            wanted,
            under_way: status.voters_change,
            has_quorum: status.has_quorum,
        }
    }

    /// Whether this node votes, or is not to.
    fn is_settled(&self) -> bool {
        if !self.wanted.contains(&self.me) {
            return !self.managers.is_empty() && !self.current.is_empty();
        }
        self.current.contains(&self.me) && !self.under_way
    }
}

/// Ends when one of those that are to get a vote is not counted on any more.
async fn one_is_lost(member: &Member, added: &BTreeSet<NodeId>) {
    let mut applied = member.watch_applied();
    loop {
        let lost = {
            let managers = voters::managers(&member.state());
            added.iter().any(|id| managers.get(id) != Some(&true))
        };
        if lost || applied.changed().await.is_err() {
            return;
        }
    }
}

/// A choice that is not carried out yet, and since when it stands.
#[derive(Debug, Default)]
struct Choice {
    standing: Option<(BTreeSet<NodeId>, Instant)>,
}

impl Choice {
    /// When what `view` wants is to be carried out; nothing where it is as it should be.
    fn due(&mut self, view: &View, now: Instant) -> Option<Instant> {
        let done = view.wanted == view.current && !view.under_way;
        if done || view.wanted.is_empty() {
            self.standing = None;
            return None;
        }
        let since = match &self.standing {
            Some((standing, since)) if *standing == view.wanted => *since,
            _ => now,
        };
        self.standing = Some((view.wanted.clone(), since));
        let mut losers = view.current.difference(&view.wanted);
        let may_come_back = losers.any(|id| view.managers.contains_key(id));
        Some(if may_come_back { since + STANDS } else { now })
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

    /// As node `me` sees it.
    fn view(me: u64, voters: &[u64], alive: &[u64], dead: &[u64], under_way: bool) -> View {
        let status = MemberStatus {
            voters: voters.iter().map(|id| NodeId(*id)).collect(),
            voters_change: under_way,
            ..MemberStatus::default()
        };
        View::new(NodeId(me), managers(alive, dead), &status)
    }

    #[test]
    fn a_vote_is_given_at_once_and_taken_late_from_one_who_may_come_back() {
        let (mut choice, start) = (Choice::default(), Instant::now());
        let third = view(1, &[1], &[1, 2, 3], &[], false);
        assert_eq!(third.wanted, ids(1..=3));
        assert_eq!(choice.due(&third, start), Some(start));
        let one_dead = view(1, &[1, 2, 3], &[1, 2, 4], &[3], false);
        assert_eq!(one_dead.wanted, ids([1, 2, 4]));
        assert_eq!(choice.due(&one_dead, start), Some(start + STANDS));
        let later = start + STANDS / 2;
        assert_eq!(choice.due(&one_dead, later), Some(start + STANDS));
        // It is not in the cluster any more.
        let left = view(1, &[1, 2, 3], &[1, 2, 4], &[], false);
        assert_eq!(choice.due(&left, later), Some(later));
        let done = view(1, &[1, 2, 3], &[1, 2, 3], &[], false);
        assert_eq!(choice.due(&done, later), None);
    }

    #[test]
    fn a_choice_that_changes_must_stand_anew() {
        let (mut choice, start) = (Choice::default(), Instant::now());
        let later = start + STANDS / 2;
        choice.due(&view(1, &[1, 2, 3], &[1, 2, 4], &[3], false), start);
        let other = view(1, &[1, 2, 3], &[1, 3, 4], &[2], false);
        assert_eq!(choice.due(&other, later), Some(later + STANDS));
    }

    #[test]
    fn what_a_leader_left_half_done_is_finished() {
        let start = Instant::now();
        let half = view(1, &[1, 2, 3], &[1, 2, 3], &[], true);
        assert_eq!(half.wanted, half.current);
        assert_eq!(Choice::default().due(&half, start), Some(start));
    }

    #[test]
    fn a_manager_that_joins_waits_for_its_vote_and_one_too_many_does_not() {
        assert!(!view(3, &[1], &[1, 2, 3], &[], false).is_settled());
        // The former voters still have to agree: nobody could be lost.
        assert!(!view(3, &[1, 2, 3], &[1, 2, 3], &[], true).is_settled());
        assert!(view(3, &[1, 2, 3], &[1, 2, 3], &[], false).is_settled());
        assert!(view(2, &[1], &[1, 2], &[], false).is_settled());
        assert!(view(4, &[1, 2, 3], &[1, 2, 3, 4], &[], false).is_settled());
        // Nothing is known of who votes.
        assert!(!view(2, &[], &[1, 2], &[], false).is_settled());
    }
}
