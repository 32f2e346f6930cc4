//! What this node knows of the others' disks and they of its own: what each follower said to be safe, and whether a log
//! that was opened again still has all of it. Pure but for one lock; it must not know how it is asked or kept.
//!
//! A disk that says that something is durable which is not shows only after the power was lost, and then as a log that is
//! whole, and shorter than it was. Its node cannot know; the leader that counted on it can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::election::LastLog;
use super::types::{LogId, StoredMembership, Vote};

/// What a leader was told by one follower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acked {
    /// The leader that was told.
    pub(crate) leader: Vote,
    /// Up to where the follower's log was safe on its disk.
    pub(crate) last: LogId,
    /// The part of that which the leader knew to be agreed on: no other leader can have had it taken back.
    pub(crate) agreed: Option<LogId>,
}

/// The voters and members that were agreed on last, and by which entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    pub(crate) at: Option<LogId>,
    pub(crate) voters: BTreeSet<u64>,
    pub(crate) members: BTreeSet<u64>,
}

/// What a node says when another one asks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Testimony {
    /// What it was told by the one that asks.
    pub(crate) acked: Option<Acked>,
    pub(crate) vote: Vote,
    pub(crate) last: Option<LogId>,
    pub(crate) group: Agreed,
}

/// What follows from what others say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not enough was heard.
    Wait,
    /// The log is good, as far as anyone can tell. `vote` may have been given and `floor` have been seen.
    Good { vote: Vote, floor: LastLog },
    /// It is not what it was, and by how much.
    Lost(String),
}

/// What a node that has just opened its log knows itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    pub(crate) node_id: u64,
    pub(crate) last: Option<LogId>,
    pub(crate) vote: Vote,
    pub(crate) group: Agreed,
    /// Who votes by the newest entry of that kind, agreed on or not.
    pub(crate) voters: BTreeSet<u64>,
    /// Whether any other node is known.
    pub(crate) has_others: bool,
}

/// Judges an opened log. `over`: there was time enough for all to answer; those that did not are not waited for.
pub(crate) fn judge(own: &Own, said: &BTreeMap<u64, Testimony>, over: bool) -> Verdict {
    if let Some(why) = said.iter().find_map(|(id, said)| lost(own, *id, said)) {
        return Verdict::Lost(why);
    }
    let voters = match newest(said) {
        Some(group) if group.at > own.group.at => &group.voters,
        _ => &own.voters,
    };
    if voters.is_empty() && own.has_others {
        return Verdict::Wait;
    }
    let others: BTreeSet<u64> = voters
        .iter()
        .copied()
        .filter(|id| *id != own.node_id)
        .collect();
    let answered = others.iter().filter(|id| said.contains_key(id)).count();
    let enough = (answered + 1) * 2 > others.len() + 1;
    if answered < others.len() && !(over && enough) {
        return Verdict::Wait;
    }
    Verdict::Good {
        vote: said
            .values()
            .map(|said| said.vote)
            .max_by(order)
            .unwrap_or_default(),
        floor: (said.values().filter_map(|said| said.last).max())
            .map(|id| (id.leader_id.term, id.index)),
    }
}

/// The group that was agreed on last, of those that others tell of.
fn newest(said: &BTreeMap<u64, Testimony>) -> Option<&Agreed> {
    said.values().map(|said| &said.group).max_by_key(|g| g.at)
}

fn order(a: &Vote, b: &Vote) -> std::cmp::Ordering {
    a.leader_id.cmp(&b.leader_id)
}

/// Why the log is not what node `id` was told that it is, if so.
fn lost(own: &Own, id: u64, said: &Testimony) -> Option<String> {
    let acked = said.acked.as_ref()?;
    // A later leader may have taken back what was not agreed on; not what was.
    let heard_of_later = own.vote.leader_id > acked.leader.leader_id;
    let had = if heard_of_later {
        acked.agreed
    } else {
        Some(acked.last)
    };
    (own.last < had).then(|| {
        let at = |log: Option<LogId>| {
            log.map_or("nothing".into(), |log| {
                format!("entry {} of term {}", log.index, log.leader_id.term)
            })
        };
        format!(
            "its log ends with {} and had {} by its own word to node {id}: the disk lost what it had said to be durable",
            at(own.last),
            at(had)
        )
    })
}

/// Whether a node that lost its log may begin a new one: those that count on the old one have taken its vote, and forgotten
/// what it said. They may have begun to prepare it for a new vote.
pub(crate) fn may_begin_anew(own: &Own, said: &BTreeMap<u64, Testimony>) -> bool {
    let nothing = Own {
        last: None,
        vote: Vote::default(),
        ..own.clone()
    };
    newest(said).is_some_and(|g| g.at.is_some() && !g.voters.contains(&own.node_id))
        && said
            .iter()
            .all(|(id, said)| lost(&nothing, *id, said).is_none())
}

/// What is known of the others.
#[derive(Debug, Default)]
pub(crate) struct Witness(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    acked: BTreeMap<u64, Acked>,
    /// Nodes that lost their logs and are members still.
    lost: BTreeSet<u64>,
    group: Agreed,
    changed: bool,
}

impl Witness {
    /// A follower said that its log is safe up to `last`, to this node as `leader`, which knows `committed` to be agreed.
    pub(crate) fn told(
        &self,
        id: u64,
        leader: Vote,
        last: Option<LogId>,
        committed: Option<LogId>,
    ) {
        let Some(last) = last else { return };
        let mut known = self.lock();
        // It has begun anew.
        known.lost.remove(&id);
        let before = known.acked.get(&id).filter(|acked| acked.leader == leader);
        let acked = Acked {
            leader,
            last: before.map_or(last, |acked| acked.last.max(last)),
            agreed: (committed.min(Some(last)))
                .max(known.acked.get(&id).and_then(|acked| acked.agreed)),
        };
        if known.acked.get(&id) != Some(&acked) {
            known.acked.insert(id, acked);
            known.changed = true;
        }
    }

    /// Whether a follower that lacks the entry `prev` said to the same leader that it has it.
    pub(crate) fn went_back(&self, id: u64, leader: Vote, prev: Option<LogId>) -> bool {
        let mut known = self.lock();
        let acked = known.acked.get(&id);
        let back = prev.is_some()
            && acked.is_some_and(|acked| acked.leader == leader && prev <= Some(acked.last));
        if back && known.lost.insert(id) {
            tracing::error!(
                "node {id} has lost what it had said to be durable: its disk cannot be relied on"
            );
        }
        back
    }

    /// A node says that its log is lost.
    pub(crate) fn is_lost(&self, id: u64) {
        let mut known = self.lock();
        if known.group.members.contains(&id) && known.lost.insert(id) {
            tracing::error!("node {id} has lost its log: its disk cannot be relied on");
        }
    }

    /// A node has opened a log: the lost one is gone, or else it says so again soon.
    pub(crate) fn is_on_trial(&self, id: u64) {
        self.lock().lost.remove(&id);
    }

    /// Nodes that lost their logs and have to be taken out of the group first.
    pub(crate) fn lost(&self) -> BTreeSet<u64> {
        self.lock().lost.clone()
    }

    /// The group was agreed on: nobody counts on those any more that are not in it.
    pub(crate) fn agreed(&self, membership: &StoredMembership) {
        let mut known = self.lock();
        let group = Agreed {
            at: *membership.log_id(),
            voters: membership.membership().voter_ids().collect(),
            members: membership.membership().nodes().map(|(id, _)| *id).collect(),
        };
        if group.at < known.group.at {
            return;
        }
        let before = known.acked.len();
        known.acked.retain(|id, _| group.members.contains(id));
        known.changed |= known.acked.len() != before;
        known.lost.retain(|id| group.members.contains(id));
        known.group = group;
    }

    pub(crate) fn group(&self) -> Agreed {
        self.lock().group.clone()
    }

    /// What is said to node `id` when it asks.
    pub(crate) fn testify(&self, id: u64, vote: Vote, last: Option<LogId>) -> Testimony {
        let known = self.lock();
        Testimony {
            acked: known.acked.get(&id).cloned(),
            vote,
            last,
            group: known.group.clone(),
        }
    }

    /// What is to be kept, if it changed.
    pub(crate) fn to_keep(&self) -> Option<Vec<u8>> {
        let mut known = self.lock();
        if !std::mem::take(&mut known.changed) {
            return None;
        }
        // Plain data: it cannot fail.
        postcard::to_stdvec(&known.acked).ok()
    }

    /// What was kept; what is known since is newer.
    pub(crate) fn kept(&self, bytes: &[u8]) {
        let kept: BTreeMap<u64, Acked> = postcard::from_bytes(bytes).unwrap_or_default();
        let mut known = self.lock();
        for (id, acked) in kept {
            known.acked.entry(id).or_insert(acked);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
