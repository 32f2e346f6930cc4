//! Changing who votes, and handing the leadership over. On the leader.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode};

use super::network::call;
use super::node::{Consensus, Running};
use super::status::Role;
use super::types::{Metrics, Raft};
use super::wire::{Reply, Request};
use crate::{Error, MessageKind};

/// Entries that a new voter may still lack when it gets its vote.
const CLOSE_ENOUGH: u64 = 64;
const HAND_OVER_TRIES: u32 = 3;

impl Consensus {
    /// Makes exactly `voters` the voters. New ones are first brought up to date without a vote,
    /// then all changes happen in one step (joint consensus). Former voters are members no more.
    ///
    /// It can be repeated after any failure: it goes on from where it is. A leader that is not
    /// among the new voters steps down at the end; it had better hand over first.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::Membership`] when new voters do not catch up within the
    /// configured time (they are taken out again) or another change is under way.
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

    /// Takes a member without a vote out of the group. It is no error if it is not in it.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::Membership`] if `id` votes.
    pub async fn remove_learner(&self, id: u64) -> Result<(), Error> {
        let _one_at_a_time = self.inner.changes.lock().await;
        let running = self.leading()?;
        let raft = &running.raft;
        let (configs, members) = current(raft);
        if configs.iter().any(|voters| voters.contains(&id)) {
            return Err(Error::Membership(format!(
                "node {id} is a voter; change the voters first"
            )));
        }
        if !members.contains(&id) {
            return Ok(());
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        self.changed(&running, raft.change_membership(change, false))
            .await
    }

    /// Hands the leadership to the voter that is the most up to date, so that there is no wait
    /// for an election timeout when this node goes. On a node that does not lead, and on a single
    /// voter, it does nothing. Commands are refused meanwhile (for about two heartbeats).
    ///
    /// # Errors
    /// [`Error::Timeout`] if nobody took over; this node then goes on leading.
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
        // The library's own lease on the voters has to run out.
        let lease = self.inner.config.heartbeat + Duration::from_millis(10);
        let mut metrics = raft.metrics();
        for _ in 0..HAND_OVER_TRIES {
            tokio::time::sleep(lease).await;
            let Some(target) = most_up_to_date(&metrics.borrow(), node_id) else {
                continue;
            };
            let asked = call(
                self.inner.transport.as_ref(),
                target,
                MessageKind::Vote,
                &Request::StandForElection,
            );
            let asked = tokio::time::timeout(self.inner.config.election_timeout_min, asked).await;
            if !matches!(asked, Ok(Ok(Reply::StandForElection))) {
                tracing::warn!(
                    "node {target} does not take over: {:?}",
                    asked.map(Result::err)
                );
                continue;
            }
            let gone = metrics.wait_for(|m| !m.state.is_leader());
            let gone = tokio::time::timeout(self.inner.config.election_timeout_min, gone)
                .await
                .map(|gone| gone.map(drop));
            if let Ok(gone) = gone {
                gone.map_err(|_| Error::Stopped)?;
                let mut status = self.watch_status();
                // The new leader has been chosen; its first heartbeat is only waited for to be polite.
                let known = status.wait_for(|s| {
                    s.role != Role::Leader && s.leader.is_some_and(|id| id != node_id)
                });
                let _ = tokio::time::timeout(self.inner.config.election_timeout_min, known).await;
                return Ok(());
            }
        }
        Err(Error::Timeout {
            attempted: "handing the leadership over",
            waited: (lease + self.inner.config.election_timeout_min) * HAND_OVER_TRIES,
        })
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

fn most_up_to_date(metrics: &Metrics, node_id: u64) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    metrics
        .membership_config
        .voter_ids()
        .filter(|id| *id != node_id)
        .max_by_key(|id| {
            (
                replication.get(id).copied().flatten(),
                std::cmp::Reverse(*id),
            )
        })
}
