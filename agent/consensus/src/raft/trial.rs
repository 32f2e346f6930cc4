//! A log that was opened is on trial until the others were asked what they were told of it: it answers nothing and stands
//! for nothing before. A node whose log proves to be lost waits here until nobody counts on it any more. What follows from
//! the answers is decided in `witness`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};

use super::Running;
use super::network::call;
use super::node::Inner;
use super::types::{LogId, Vote, VoteRequest};
use super::wire::{Reply, Request};
use super::witness::{self, Own, Testimony, Verdict};
use crate::MessageKind;

/// For how long all are waited for after the power may have been lost: hosts that lost it together come back together.
const AFTER_POWER_LOSS: Duration = Duration::from_secs(20);
/// And where only the agent was started again.
const AFTER_RESTART: Duration = Duration::from_secs(3);
/// How long one answer is waited for, and the pause before all are asked again.
const ANSWER: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(200);
/// How often a node that lost its log says so.
const LOST_AGAIN: Duration = Duration::from_secs(1);

/// Tries the log. `None`: it is good, and counted on from now on. Else why it is not.
pub(super) async fn stand(inner: &Inner, running: &Running) -> Option<String> {
    let log = &running.log;
    let mut others = others(inner, log.opened_voters());
    let own = Own {
        node_id: inner.config.node_id,
        last: log.last(),
        vote: log.vote(),
        group: inner.shared.witness.group(),
        voters: voters(inner, running),
        has_others: !others.is_empty(),
    };
    let patience = if log.is_of_other_boot() {
        AFTER_POWER_LOSS
    } else {
        AFTER_RESTART
    };
    let end = Instant::now() + patience;
    let mut said = BTreeMap::new();
    loop {
        // The group may have become another one since.
        others.extend(newer_members(&own, &said));
        let judge = |said: &BTreeMap<_, _>| witness::judge(&own, said, Instant::now() >= end);
        let verdict = match judge(&said) {
            Verdict::Wait => ask(inner, &others, false, &mut said, judge).await,
            verdict => verdict,
        };
        tracing::debug!(?verdict, ?said, "the log is on trial");
        match verdict {
            Verdict::Lost(why) => return Some(why),
            Verdict::Good { vote, floor } if adopt(running, own.node_id, vote).await => {
                inner.shared.trust(floor);
                return None;
            }
            _ => sleep(AGAIN).await,
        }
    }
}

/// Says that the log is lost until nobody counts on it any more.
pub(super) async fn wait_to_begin_anew(inner: &Inner) {
    let own = Own {
        node_id: inner.config.node_id,
        ..Own::default()
    };
    let mut others = others(inner, None);
    loop {
        let mut said = BTreeMap::new();
        ask(inner, &others, true, &mut said, |_| Verdict::Wait).await;
        others.extend(newer_members(&own, &said));
        if witness::may_begin_anew(&own, &said) {
            return;
        }
        sleep(LOST_AGAIN).await;
    }
}

/// Whoever may know something: the group, or where none is known here, all other nodes.
fn others(inner: &Inner, voters: Option<&[u64]>) -> BTreeSet<u64> {
    let mut others = inner.shared.witness.group().members;
    others.extend(voters.unwrap_or_default());
    others.remove(&inner.config.node_id);
    if others.is_empty() {
        others.extend(inner.transport.others());
    }
    others
}

fn newer_members(own: &Own, said: &BTreeMap<u64, Testimony>) -> BTreeSet<u64> {
    let groups = said.values().map(|said| &said.group);
    let newer = groups.filter(|group| group.at > own.group.at);
    let mut members: BTreeSet<u64> = newer.flat_map(|group| &group.members).copied().collect();
    members.remove(&own.node_id);
    members
}

/// Who votes by the newest entry in the log, or in the snapshot.
fn voters(inner: &Inner, running: &Running) -> BTreeSet<u64> {
    match running.log.opened_voters() {
        Some(voters) => voters.iter().copied().collect(),
        None => inner.shared.witness.group().voters,
    }
}

/// Asks all of them once, until what they said is enough to judge.
async fn ask(
    inner: &Inner,
    others: &BTreeSet<u64>,
    lost: bool,
    said: &mut BTreeMap<u64, Testimony>,
    judge: impl Fn(&BTreeMap<u64, Testimony>) -> Verdict,
) -> Verdict {
    let from = inner.config.node_id;
    let mut answers: FuturesUnordered<_> = (others.iter())
        .map(|id| async move {
            let question = Request::Witness { from, lost };
            let asked = call(inner.transport.as_ref(), *id, MessageKind::Vote, &question);
            (*id, asked.await)
        })
        .collect();
    let end = Instant::now() + ANSWER;
    while let Ok(Some((id, answer))) = timeout_at(end, answers.next()).await {
        if let Ok(Reply::Witness(testimony)) = answer {
            said.insert(id, testimony);
            match judge(said) {
                Verdict::Wait => {}
                verdict => return verdict,
            }
        }
    }
    judge(said)
}

/// Any vote that this node may have given and forgotten is no later than the latest that any other one knows of: it is
/// taken for given. Says whether that is safe on the disk.
async fn adopt(running: &Running, node_id: u64, vote: Vote) -> bool {
    if vote.leader_id <= running.log.vote().leader_id {
        return true;
    }
    let given = if vote.leader_id.voted_for() == Some(node_id) {
        // It would take itself for a candidate.
        Vote::new(vote.leader_id.term + 1, 0)
    } else {
        Vote {
            committed: false,
            ..vote
        }
    };
    let beyond_all = LogId::new(
        openraft::CommittedLeaderId::new(u64::MAX, u64::MAX),
        u64::MAX,
    );
    let asked = running.raft.vote(VoteRequest::new(given, Some(beyond_all)));
    asked
        .await
        .is_ok_and(|answer| answer.vote.leader_id >= vote.leader_id)
}
