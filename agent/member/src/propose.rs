//! Having a change agreed on, from any node: by the leader, wherever it is, also while one is being elected.
//!
//! A proposal carries a number of its own, which the replicated machine remembers. So one whose answer was lost is safely
//! tried again: it is carried out once. Its time is the proposer's clock: what hangs on it (a token's expiry) is as right
//! as that.

use crate::Member;
use crate::links::{Lane, never_sent};
use crate::machine::{Proposal, decode_outcome};
use crate::wire::{self, MAX_MESSAGE};
use bytes::Bytes;
use std::time::Duration;
use swarm_api::model::{NodeId, Object};
use swarm_api::{Error, Result};
use swarm_cluster::{Change, Command, Outcome};
use swarm_consensus::Error as ConsensusError;
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_client::AgentClient;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Code;

/// How long a leader is looked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a leader that is there may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long this node's replica may lag behind the leader's before the caller is answered nevertheless.
const CATCH_UP: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

// Short-lived, and most often the largest.
#[allow(clippy::large_enum_variant)]
enum Attempt {
    /// It is in the log: where, and what it came to.
    Done(u64, Outcome),
    /// It was not taken; perhaps this node leads.
    Elsewhere(Option<u64>),
    /// It did not get there.
    NotSent(String),
    /// Nobody knows.
    Lost(String),
    /// It can never be taken.
    Refused(Error),
}

impl Member {
    /// Has a change agreed on, and returns when the replica here contains it.
    ///
    /// # Errors
    /// What the change came to; [`Error::Unavailable`] without a leader or a quorum, which says whether the change may
    /// still take effect.
    pub async fn propose(&self, change: Change) -> Result<Option<Object>> {
        self.propose_at(change).await.map(|(_, object)| object)
    }

    /// As [`Member::propose`], but by this node as the leader or not at all: what a leader decided that has lost its
    /// place since is not for the next one to carry out.
    ///
    /// # Errors
    /// What the change came to; [`Error::Unavailable`] where this node does not lead, or loses its place meanwhile.
    pub async fn propose_leading(&self, change: Change) -> Result<Option<Object>> {
        let id = u128::from_be_bytes(self.world().random()?);
        let replica = &self.inner.replica;
        let proposal = Proposal {
            id,
            since: replica.applied_index(),
            command: Command {
                time: self.inner.now(),
                change,
            },
        };
        match timeout(LIMIT, self.attempt_here(id, proposal.encode()?)).await {
            Ok(Attempt::Done(index, outcome)) => {
                if timeout(CATCH_UP, replica.wait_for(index)).await.is_err() {
                    tracing::debug!(index, "the replica here lags behind what was agreed on");
                }
                outcome
            }
            Ok(Attempt::Refused(error)) => Err(error),
            Ok(Attempt::Elsewhere(_)) => Err(Error::Unavailable(
                "this node does not lead any more".into(),
            )),
            Ok(Attempt::NotSent(why) | Attempt::Lost(why)) => Err(Error::Unavailable(format!(
                "the change may not have been made: {why}"
            ))),
            Err(_) => Err(Error::Unavailable(format!(
                "the change was not agreed on within {LIMIT:?}"
            ))),
        }
    }

    /// As [`Member::propose`], with the entry's index.
    pub(crate) async fn propose_at(&self, change: Change) -> Result<(u64, Option<Object>)> {
        let id = u128::from_be_bytes(self.world().random()?);
        let replica = &self.inner.replica;
        let proposal = Proposal {
            id,
            since: replica.applied_index(),
            command: Command {
                time: self.inner.now(),
                change,
            },
        };
        let (index, outcome) = self.agree(id, proposal.encode()?).await?;
        if timeout(CATCH_UP, replica.wait_for(index)).await.is_err() {
            tracing::debug!(index, "the replica here lags behind what was agreed on");
        }
        outcome.map(|object| (index, object))
    }

    async fn agree(&self, id: u128, body: Bytes) -> Result<(u64, Outcome)> {
        let started = Instant::now();
        let (patience, limit) = (started + PATIENCE, started + LIMIT);
        let mut leader = self.inner.replica.watch_leader();
        let mut hint = None;
        let mut uncertain = false;
        let mut last = None;
        loop {
            if uncertain && let Some(done) = self.inner.machine.outcome_of(id) {
                return Ok(done);
            }
            let known = *leader.borrow_and_update();
            if let Some(target) = hint.take().or(known) {
                let attempt = tokio::select! {
                    attempt = self.attempt(id, target, body.clone()) => attempt,
                    () = another(leader.clone(), target) => Attempt::Lost("the leader changed meanwhile".into()),
                    () = deserted(leader.clone(), patience) => Attempt::Lost("the leader was lost meanwhile".into()),
                    () = sleep_until(limit) => Attempt::Lost(format!("the leader did not answer within {LIMIT:?}")),
                };
                match attempt {
                    Attempt::Done(index, outcome) => return Ok((index, outcome)),
                    Attempt::Refused(error) => return Err(error),
                    Attempt::Elsewhere(other) => hint = other.filter(|other| *other != target),
                    Attempt::NotSent(why) => last = Some(why),
                    Attempt::Lost(why) => {
                        uncertain = true;
                        last = Some(why);
                    }
                }
            }
            if Instant::now() >= patience {
                break;
            }
            if hint.is_none() {
                tokio::select! {
                    _ = leader.changed() => {}
                    () = sleep(PAUSE) => {}
                }
            }
        }
        if uncertain && let Some(done) = self.inner.machine.outcome_of(id) {
            return Ok(done);
        }
        Err(self.gave_up(uncertain, last))
    }

    fn gave_up(&self, uncertain: bool, last: Option<String>) -> Error {
        let status = self.status();
        let mut why = last.unwrap_or_else(|| "no leader of the cluster is known here".into());
        if let Some(failure) = status.failure {
            why = format!("{why}; {failure}");
        }
        Error::Unavailable(if uncertain {
            format!(
                "the change was sent, but its fate is unknown: {why}; it may still take effect once a quorum of the \
                 managers can be reached: look before trying again"
            )
        } else {
            format!(
                "the change was not made: {why}; a leader with a quorum of the managers is needed: see `swarmctl node ls`"
            )
        })
    }

    async fn attempt(&self, id: u128, target: u64, body: Bytes) -> Attempt {
        if target == self.id().0 {
            self.attempt_here(id, body).await
        } else {
            self.attempt_there(NodeId(target), body).await
        }
    }

    async fn attempt_here(&self, id: u128, body: Bytes) -> Attempt {
        let Some(consensus) = self
            .inner
            .consensus
            .as_ref()
            .filter(|c| c.status().is_leader())
        else {
            return Attempt::Elsewhere(None);
        };
        match consensus.propose(body).await {
            Ok(proposed) if proposed.outcome.is_empty() => {
                match self.inner.machine.outcome_of(id) {
                    Some((index, outcome)) => Attempt::Done(index, outcome),
                    None => Attempt::Lost("the answer was empty".into()),
                }
            }
            Ok(proposed) => Attempt::Done(proposed.index, decode_outcome(&proposed.outcome)),
            Err(ConsensusError::NotLeader { leader }) => Attempt::Elsewhere(leader),
            Err(e @ ConsensusError::TooLarge { .. }) => {
                Attempt::Refused(Error::Invalid(e.to_string()))
            }
            Err(e) => Attempt::Lost(e.to_string()),
        }
    }

    async fn attempt_there(&self, target: NodeId, body: Bytes) -> Attempt {
        let channel = match self.inner.links.channel(target, Lane::Control) {
            Ok(channel) => channel,
            Err(e) => return Attempt::NotSent(e.to_string()),
        };
        let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        match client.propose(proto::Command { body }).await {
            Ok(reply) => {
                let reply = reply.into_inner();
                match reply.elsewhere {
                    Some(elsewhere) => Attempt::Elsewhere(wire::hinted(elsewhere)),
                    None => Attempt::Done(reply.index, decode_outcome(&reply.body)),
                }
            }
            Err(status) => {
                let why = wire::from_status(&status);
                if matches!(
                    status.code(),
                    Code::InvalidArgument | Code::PermissionDenied
                ) {
                    Attempt::Refused(why)
                } else if never_sent(&status) {
                    Attempt::NotSent(format!(
                        "the leader, node {target}, cannot be reached: {why}"
                    ))
                } else {
                    Attempt::Lost(format!("the leader, node {target}, did not answer: {why}"))
                }
            }
        }
    }
}

/// Ends when another leader is known than `target`.
async fn another(mut leader: watch::Receiver<Option<u64>>, target: u64) {
    // The sender lives as long as the member. A hint may be ahead of what is known here: wait for a change first.
    let first = *leader.borrow_and_update();
    let _ = leader
        .wait_for(|now| now.is_some_and(|l| l != target) && *now != first)
        .await;
}

/// Ends when, from `patience` on, no leader is known.
async fn deserted(mut leader: watch::Receiver<Option<u64>>, patience: Instant) {
    sleep_until(patience).await;
    let _ = leader.wait_for(Option::is_none).await;
}
