//! Changing who votes, and handing the leadership over. On the leader.
//!
//! A change is made only where a majority of those who are to vote answers: once it is in the log, it can be taken back by
//! nobody without them.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode};

use super::election::is_quorum;
use super::network::call;
use super::node::{Consensus, Running};
use super::status::Role;
use super::types::{Metrics, Raft};
use super::wire::{Reply, Request};
use crate::{Error, MessageKind};

/// Entries that a new voter may still lack when it gets its vote.
const CLOSE_ENOUGH: u64 = 64;
const HAND_OVER_TRIES: u32 = 3;

/// Who is in the Raft group, as the leader has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The voters; while they change, the former ones and the new ones.
    pub voters: BTreeSet<u64>,
    /// The voters, and members without a vote.
    pub members: BTreeSet<u64>,
    /// Whether that is agreed on, and no change is under way.
    pub settled: bool,
}

impl Consensus {
    /// Makes exactly `voters` the voters. New ones are first brought up to date without a vote,
    /// then all changes happen in one step (joint consensus). Former voters are members no more.
    ///
    /// It can be repeated after any failure: it goes on from where it is. A leader that is not
    /// among the new voters steps down at the end; it had better hand over first.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::Membership`] when new voters do not catch up within the
    /// configured time (they are taken out again), another change is under way, or a majority of
    /// `voters` does not answer.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), Error> {
        if voters.is_empty() || voters.contains(&0) {
            return Err(Error::Membership(format!(
                "{voters:?} cannot be the voters: at least one is needed, and none is numbered 0"
            )));
        }
        let _one_at_a_time = self.inner.changes.lock().await;
        let running = self.leading()?;
        let raft = &running.raft;
        let (current, members) = current(raft);
        if current == [voters.clone()] && members == voters {
            return Ok(());
        }
        let new: BTreeSet<u64> = voters.difference(&members).copied().collect();
        for id in &new {
            let added = raft.add_learner(*id, EmptyNode {}, false);
            self.changed(&running, added).await?;
        }
        self.caught_up(&running, &voters, &new).await?;
        self.answering(&voters).await?;
        let change = ChangeMembers::ReplaceAllVoters(voters.clone());
        self.changed(&running, raft.change_membership(change, false))
            .await?;
        if !voters.contains(&self.inner.config.node_id) {
            return Ok(());
        }
        let left: BTreeSet<u64> = self::current(raft).1.difference(&voters).copied().collect();
        if !left.is_empty() {
            let change = ChangeMembers::RemoveNodes(left);
            self.changed(&running, raft.change_membership(change, false))
                .await?;
        }
        Ok(())
    }

    /// Who is in the group, with all that was decided so far. On the leader.
    ///
    /// # Errors
    /// [`Error::NotLeader`], and what keeps Raft from running.
    pub fn group(&self) -> Result<Group, Error> {
        let running = self.leading()?;
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        Ok(Group {
            voters: membership.voter_ids().collect(),
            members: membership.nodes().map(|(id, _)| *id).collect(),
            settled: membership.get_joint_config().len() == 1
                && *metrics.membership_config.log_id() <= metrics.last_applied,
        })
    }

    /// Whether this node takes over from no leader that asks it to, as it is about to leave itself. It still stands for
    /// election where no leader is heard.
    pub fn decline_leadership(&self, declines: bool) {
        self.inner.shared.decline(declines);
    }

    /// Hands the leadership to the voter that is the most up to date and takes it, so that there is no wait
    /// for an election timeout when this node goes. On a node that does not lead, and on a single
    /// voter, it does nothing. Commands are refused meanwhile (for about two heartbeats).
    ///
    /// # Errors
    /// [`Error::Timeout`] if nobody took over, [`Error::Membership`] if all that answered declined; this node then goes on
    /// leading.
    pub async fn hand_over(&self) -> Result<(), Error> {
        let _one_at_a_time = self.inner.changes.lock().await;
        let Ok(running) = self.leading() else {
            return Ok(());
        };
        let raft = &running.raft;
        if current(raft).0.iter().all(|voters| voters.len() == 1) {
            return Ok(());
        }
        self.inner.leaving.store(true, Ordering::SeqCst);
        raft.runtime_config().heartbeat(false);
        let done = self.try_hand_over(raft).await;
        raft.runtime_config().heartbeat(true);
        self.inner.leaving.store(false, Ordering::SeqCst);
        done
    }

    async fn try_hand_over(&self, raft: &Raft) -> Result<(), Error> {
        let node_id = self.inner.config.node_id;
        let patience = self.inner.config.election_timeout_min;
        // The library's own lease on the voters has to run out.
        let lease = self.inner.config.heartbeat + Duration::from_millis(10);
        let mut metrics = raft.metrics();
        let (mut passed_over, mut declined) = (BTreeSet::new(), false);
        for _ in 0..HAND_OVER_TRIES {
            tokio::time::sleep(lease).await;
            // Not over an await.
            let next =
                |but: &BTreeSet<u64>| most_up_to_date(&raft.metrics().borrow(), node_id, but);
            let found = self.find_successor(&next, &mut passed_over, &mut declined);
            let Some(target) = found.await else {
                if declined {
                    return Err(Error::Membership(
                        "no other voter takes the leadership over: those that answer are about to leave themselves"
                            .into(),
                    ));
                }
                // Whoever did not answer may do so now.
                passed_over.clear();
                continue;
            };
            let gone = metrics.wait_for(|m| !m.state.is_leader());
            let gone = tokio::time::timeout(patience, gone).await;
            if let Ok(gone) = gone.map(|gone| gone.map(drop)) {
                gone.map_err(|_| Error::Stopped)?;
                let mut status = self.watch_status();
                // The new leader has been chosen; its first heartbeat is only waited for to be polite.
                let known = status.wait_for(|s| {
                    s.role != Role::Leader && s.leader.is_some_and(|id| id != node_id)
                });
                let _ = tokio::time::timeout(patience, known).await;
                return Ok(());
            }
            // It may lack what only others have; if it is the only one, it is asked again.
            passed_over.insert(target);
            if next(&passed_over).is_none() && !declined {
                passed_over.clear();
            }
        }
        Err(Error::Timeout {
            attempted: "handing the leadership over",
            waited: (lease + patience) * HAND_OVER_TRIES,
        })
    }

    /// Asks one voter after the other to stand for election, until one says that it does.
    async fn find_successor(
        &self,
        next: impl Fn(&BTreeSet<u64>) -> Option<u64>,
        passed_over: &mut BTreeSet<u64>,
        declined: &mut bool,
    ) -> Option<u64> {
        let patience = self.inner.config.election_timeout_min;
        while let Some(target) = next(passed_over) {
            let transport = self.inner.transport.as_ref();
            let asked = call(
                transport,
                target,
                MessageKind::Vote,
                &Request::StandForElection,
            );
            match tokio::time::timeout(patience, asked).await {
                Ok(Ok(Reply::StandForElection)) => return Some(target),
                Ok(Ok(Reply::Failed(why))) => {
                    tracing::info!("node {target} does not take over: {why}");
                    *declined = true;
                }
                asked => tracing::warn!(
                    "node {target} does not take over: {:?}",
                    asked.map(Result::err)
                ),
            }
            passed_over.insert(target);
        }
        None
    }

    /// Sees that a majority of `voters` answers now.
    async fn answering(&self, voters: &BTreeSet<u64>) -> Result<(), Error> {
        let node_id = self.inner.config.node_id;
        let configs = [voters.clone()];
        let mut there = BTreeSet::from([node_id]);
        let mut answers: FuturesUnordered<_> = (voters.iter().copied())
            .filter(|id| *id != node_id)
            .map(|id| {
                let transport = self.inner.transport.as_ref();
                // It asks for nothing that anyone would grant.
                let asked = async move {
                    let nothing = Request::PreVote { last_log: None };
                    call(transport, id, MessageKind::Vote, &nothing).await
                };
                async move { (id, asked.await) }
            })
            .collect();
        let until = tokio::time::Instant::now() + self.inner.config.election_timeout_max;
        while !is_quorum(&configs, &there) {
            match tokio::time::timeout_at(until, answers.next()).await {
                Ok(Some((id, Ok(Reply::PreVote { .. })))) => {
                    there.insert(id);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    let silent: BTreeSet<_> = voters.difference(&there).collect();
                    return Err(Error::Membership(format!(
                        "{voters:?} cannot be the voters: nodes {silent:?} do not answer, and without them there would be \
                         no quorum"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Waits until all of `voters` have nearly all of the log.
    async fn caught_up(
        &self,
        running: &Running,
        voters: &BTreeSet<u64>,
        new: &BTreeSet<u64>,
    ) -> Result<(), Error> {
        let raft = &running.raft;
        let mut metrics = raft.metrics();
        let node_id = self.inner.config.node_id;
        let mut behind = BTreeSet::new();
        let all = metrics.wait_for(|m| {
            behind = lagging(m, voters, node_id);
            behind.is_empty() || !m.state.is_leader()
        });
        let waited = self.inner.config.catch_up_timeout;
        // What was seen is let go of at once: it must not be held over an await.
        let seen = tokio::time::timeout(waited, all)
            .await
            .map(|seen| seen.map(|metrics| metrics.state.is_leader()));
        let leads = match seen {
            Ok(Ok(leads)) => leads,
            Ok(Err(_)) => return Err(Error::Stopped),
            Err(_) => {
                // They would be waited for, and replicated to, for ever.
                if !new.is_empty() {
                    let change = ChangeMembers::RemoveNodes(new.clone());
                    let _ = self
                        .changed(running, raft.change_membership(change, false))
                        .await;
                }
                return Err(Error::Membership(format!(
                    "nodes {behind:?} did not catch up with the log within {waited:?}; \
                     are they running and reachable?"
                )));
            }
        };
        if leads {
            Ok(())
        } else {
            Err(self.not_leader())
        }
    }

    async fn changed<T>(
        &self,
        running: &Running,
        change: impl Future<Output = Result<T, RaftError<u64, ClientWriteError<u64, EmptyNode>>>>,
    ) -> Result<(), Error> {
        self.within("the change of the voters", async {
            match change.await {
                Ok(_) => Ok(()),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                    Err(self.not_leader())
                }
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) => Err(Error::Membership(
                    "an earlier change is not agreed on yet; try again in a moment".into(),
                )),
                Err(RaftError::APIError(e)) => Err(Error::Membership(e.to_string())),
                Err(RaftError::Fatal(e)) => Err(self.inner.fatal(running, &e)),
            }
        })
        .await
    }
}

/// The sets of voters (two during a change) and all members.
fn current(raft: &Raft) -> (Vec<BTreeSet<u64>>, BTreeSet<u64>) {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    (
        membership.get_joint_config().clone(),
        membership.nodes().map(|(id, _)| *id).collect(),
    )
}

fn lagging(metrics: &Metrics, voters: &BTreeSet<u64>, node_id: u64) -> BTreeSet<u64> {
    let goal = metrics
        .last_log_index
        .unwrap_or(0)
        .saturating_sub(CLOSE_ENOUGH);
    let matched = |id: &u64| {
        let replication = metrics.replication.as_ref()?;
        replication.get(id).copied().flatten().map(|log| log.index)
    };
    voters
        .iter()
        .filter(|id| **id != node_id && matched(id).is_none_or(|index| index < goal))
        .copied()
        .collect()
}

fn most_up_to_date(metrics: &Metrics, node_id: u64, but: &BTreeSet<u64>) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    metrics
        .membership_config
        .voter_ids()
        .filter(|id| *id != node_id && !but.contains(id))
        .max_by_key(|id| {
            (
                replication.get(id).copied().flatten(),
                std::cmp::Reverse(*id),
            )
        })
}
