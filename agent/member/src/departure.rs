//! Ending: for now (`shutdown`) or for good (`leave`).

use crate::Member;
use crate::links::Lane;
use crate::wire::{from_status, hinted};
use std::collections::BTreeSet;
use std::time::Duration;
use swarm_api::model::{NodeHealth, NodeId, NodeRole};
use swarm_api::{Error, Result};
use swarm_cluster::Change;
use swarm_consensus::{Consensus, Error as ConsensusError};
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_client::AgentClient;
use tokio::time::{Instant, sleep, timeout};

const HAND_OVER: Duration = Duration::from_secs(5);
/// How long a leader is asked to let this node go.
const LEAVE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(200);

impl Member {
    /// Stops: hands the leadership over, closes ports, connections and files. To the others this node looks like one that
    /// was restarted; its place stays.
    pub async fn shutdown(&self) {
        self.stop(true).await;
    }

    /// As [`Member::shutdown`]; without handing over it is what a crash looks like to the others.
    pub(crate) async fn stop(&self, hand_over: bool) {
        let inner = &self.inner;
        let Some(running) = inner.running.lock().await.take() else {
            return;
        };
        if hand_over
            && inner.leads()
            && let Some(consensus) = &inner.consensus
            && !matches!(timeout(HAND_OVER, consensus.hand_over()).await, Ok(Ok(())))
        {
            tracing::warn!("no other voter took the leadership over; the others will elect one");
        }
        inner.stop.cancel();
        if let Err(e) = inner.book.keep(&inner.config.world)
            && Self::is_member(&inner.config.world)
        {
            tracing::warn!("{e}");
        }
        running.listener.close().await;
        for task in running.tasks {
            task.abort();
            let _ = task.await;
        }
        if let Err(e) = running.observer.shutdown().await {
            tracing::warn!("the replica was not written down: {e}");
        }
        if let Some(consensus) = &inner.consensus {
            consensus.shutdown().await;
        }
        inner.membership.shutdown().await;
        inner.links.retain(|_| false);
    }

    /// Leaves the cluster: this node votes no more, its record goes, and gossip is told. Afterwards the member is to be
    /// [shut down](Member::shutdown) and its host to [forget](Member::forget) the cluster. With `force` also where the
    /// cluster cannot be asked, or ends with it.
    ///
    /// # Errors
    /// Without `force`: [`Error::Conflict`] when this is the last node or the only manager, [`Error::Unavailable`] when
    /// the cluster cannot be asked.
    pub async fn leave(&self, force: bool) -> Result<()> {
        match self.take_leave().await {
            Ok(()) => {}
            Err(e) if force => tracing::warn!("leaving without the cluster's consent: {e}"),
            Err(e) => return Err(e),
        }
        self.inner.membership.leave().await;
        tracing::info!(cluster = self.cluster(), "left the cluster");
        Ok(())
    }

    async fn take_leave(&self) -> Result<()> {
        let own = self.id();
        let others = self.state().nodes.keys().filter(|id| **id != own).count();
        if others == 0 {
            return Err(Error::Conflict(
                "this is the cluster's last node: the cluster ends when it leaves; if that is meant, add --force".into(),
            ));
        }
        let until = Instant::now() + LEAVE;
        loop {
            let why = match self.try_to_leave(own).await {
                Ok(()) => return Ok(()),
                Err(e @ Error::Conflict(_)) => return Err(e),
                Err(e) => e,
            };
            if Instant::now() >= until {
                return Err(
                    why.context("cannot leave the cluster (--force leaves without asking it)")
                );
            }
            sleep(PAUSE).await;
        }
    }

    async fn try_to_leave(&self, own: NodeId) -> Result<()> {
        if self.inner.machine.is_revoked(own) {
            return Ok(());
        }
        if self.inner.leads() {
            self.resign(own).await?;
        }
        let leader = self.inner.replica.leader().filter(|l| *l != own.0);
        let Some(mut target) = leader else {
            return Err(Error::Unavailable(
                "no other node leads the cluster yet".into(),
            ));
        };
        // One hint is followed; then it is looked anew.
        for _ in 0..2 {
            let channel = self.inner.links.channel(NodeId(target), Lane::Control)?;
            let asked = timeout(
                LEAVE,
                AgentClient::new(channel).leave(proto::LeaveRequest {}),
            )
            .await;
            let reply = match asked {
                Ok(Ok(reply)) => reply.into_inner(),
                Ok(Err(status)) => return Err(from_status(&status)),
                Err(_) => return Err(Error::Unavailable(format!("no answer within {LEAVE:?}"))),
            };
            match reply.elsewhere {
                None => return Ok(()),
                Some(elsewhere) => match hinted(elsewhere) {
                    Some(other) if other != target && other != own.0 => target = other,
                    _ => break,
                },
            }
        }
        Err(Error::Unavailable("the leader is changing".into()))
    }

    /// Sees to it that another node leads.
    async fn resign(&self, own: NodeId) -> Result<()> {
        let consensus = self.consensus()?;
        if consensus.status().voters.iter().all(|v| *v == own.0) {
            let successor = self.successor(own).ok_or_else(|| {
                Error::Conflict(
                    "this is the only manager that is up: without it the cluster cannot be changed any more; add another \
                     manager first, or add --force to give the cluster up"
                        .into(),
                )
            })?;
            let both = BTreeSet::from([own.0, successor.0]);
            consensus.change_voters(both).await.map_err(unavailable)?;
        }
        consensus.hand_over().await.map_err(unavailable)
    }

    fn successor(&self, own: NodeId) -> Option<NodeId> {
        let state = self.state();
        let fit = |n: &&swarm_api::model::Node| {
            n.id != own && n.role == NodeRole::Manager && n.health == NodeHealth::Ready
        };
        let managers = state.nodes.values().filter(fit);
        managers
            .map(|n| n.id)
            .find(|id| self.inner.book.seems_alive(*id))
    }
}

/// On the leader: takes a node that asks for it out of the cluster and of the voters. It can be repeated.
pub(crate) async fn let_go(member: &Member, node: NodeId) -> Result<()> {
    if member.state().nodes.contains_key(&node) {
        match member
            .propose(Change::RemoveNode {
                id: node,
                force: true,
            })
            .await
        {
            Ok(_) => tracing::info!(%node, "a node left"),
            Err(Error::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
    }
    let consensus = member.consensus()?;
    let until = Instant::now() + LEAVE / 2;
    // From here on nobody gives it a vote that was decided on before it left.
    let Ok(_alone) = tokio::time::timeout_at(until, member.inner.voting.lock()).await else {
        return Err(Error::Unavailable(
            "another change of the voters is under way".into(),
        ));
    };
    loop {
        match no_vote(consensus, node).await {
            Ok(()) if !consensus.status().voters.contains(&node.0) => return Ok(()),
            Ok(()) if Instant::now() < until => sleep(PAUSE).await,
            Ok(()) => return Err(Error::Unavailable("it still has a vote".into())),
            // Another change of the voters may be under way.
            Err(ConsensusError::Membership(_)) if Instant::now() < until => sleep(PAUSE).await,
            Err(e) => return Err(unavailable(e)),
        }
    }
}

async fn no_vote(consensus: &Consensus, node: NodeId) -> std::result::Result<(), ConsensusError> {
    let status = consensus.status();
    let rest: BTreeSet<u64> = status
        .voters
        .iter()
        .copied()
        .filter(|v| *v != node.0)
        .collect();
    if rest.len() < status.voters.len() && !rest.is_empty() {
        return consensus.change_voters(rest).await;
    }
    if status.learners.contains(&node.0) {
        return consensus.remove_learner(node.0).await;
    }
    Ok(())
}

fn unavailable(e: ConsensusError) -> Error {
    Error::Unavailable(e.to_string())
}
