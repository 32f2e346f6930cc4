//! Ending: for now (`shutdown`) or for good (`leave`).

use crate::Member;
use crate::links::Lane;
use crate::wire::{from_status, hinted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_api::model::NodeId;
use swarm_api::{Error, Result};
use swarm_cluster::Change;
use swarm_cluster::departure::{self, Group, Leave, Leaver, Release};
use swarm_cluster::voters;
use swarm_consensus::{Consensus, Error as ConsensusError};
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_client::AgentClient;
use tokio::time::{Instant, sleep, timeout, timeout_at};

const HAND_OVER: Duration = Duration::from_secs(5);
/// How long the cluster is asked to let this node go.
const LEAVE: Duration = Duration::from_secs(20);
/// How long one node may take to answer; what it has done by then it need not do again.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a leader tries before it answers.
const LET_GO: Duration = Duration::from_secs(8);
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
        let _declines = self.inner.consensus.as_ref().map(Declines::begin);
        let until = Instant::now() + LEAVE;
        loop {
            let why = match timeout_at(until, self.try_to_leave()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(e @ Error::Conflict(_))) => return Err(e),
                Ok(Err(e)) => e,
                Err(_) => Error::Unavailable(format!("no answer within {LEAVE:?}")),
            };
            if Instant::now() + PAUSE >= until {
                return Err(
                    why.context("cannot leave the cluster (--force leaves without asking it)")
                );
            }
            tracing::debug!(%why, "cannot leave yet");
            sleep(PAUSE).await;
        }
    }

    /// One step; `Ok` once the leader has said that this node is needed no more. That its record is gone, as this node may
    /// see for itself, does not say that: its vote may still count.
    async fn try_to_leave(&self) -> Result<()> {
        let it = self.as_leaver();
        match departure::leave(&it) {
            Leave::Last => Err(Error::Conflict(
                "this is the cluster's last node: the cluster ends when it leaves; if that is meant, add --force".into(),
            )),
            Leave::OnlyManager => Err(Error::Conflict(
                "this is the only manager that is up: without it the cluster cannot be changed any more; add another \
                 manager first, or add --force to give the cluster up"
                    .into(),
            )),
            Leave::Wait if it.leads => Err(Error::Unavailable(
                "this node leads the cluster, and all other managers are leaving as well".into(),
            )),
            Leave::Wait => Err(Error::Unavailable(
                "no other manager of the cluster is known to be up".into(),
            )),
            Leave::Promote(successor) => {
                // Until the other leads: it has its vote for that only, and nobody is to take it for one too many.
                let _alone = self.inner.voting.lock().await;
                // It may have left while another change was waited for.
                if departure::leave(&self.as_leaver()) != Leave::Promote(successor) {
                    return Err(Error::Unavailable("others have left meanwhile".into()));
                }
                let both = BTreeSet::from([it.me.0, successor.0]);
                let consensus = self.consensus()?;
                consensus.change_voters(both).await.map_err(unavailable)?;
                consensus.hand_over().await.map_err(unavailable)?;
                self.ask(departure::leave(&self.as_leaver())).await
            }
            Leave::Resign => {
                self.consensus()?.hand_over().await.map_err(unavailable)?;
                self.ask(departure::leave(&self.as_leaver())).await
            }
            ask @ Leave::Ask(_) => self.ask(ask).await,
        }
    }

    fn as_leaver(&self) -> Leaver {
        let inner = &self.inner;
        let me = self.id();
        let group = inner.consensus.as_ref().and_then(|c| c.group().ok());
        let mut it = Leaver {
            me,
            leads: inner.leads() && group.is_some(),
            leader: inner.replica.leader().map(NodeId),
            voters: group
                .map(|g| g.voters.into_iter().map(NodeId).collect())
                .unwrap_or_default(),
            leaving: inner.departing.get(),
            ..Leaver::default()
        };
        let state = self.state();
        it.others = state.nodes.keys().any(|id| *id != me);
        let managers = voters::managers(&state);
        drop(state);
        it.managers = (managers.into_iter())
            .filter(|(id, alive)| *alive && *id != me && inner.book.seems_alive(*id))
            .map(|(id, _)| id)
            .collect();
        it
    }

    /// Asks those that may know the leader to be let go; a hint is followed at once.
    async fn ask(&self, step: Leave) -> Result<()> {
        let own = self.id();
        let Leave::Ask(targets) = step else {
            return Err(Error::Unavailable("the leader is changing".into()));
        };
        let mut targets = VecDeque::from(targets);
        let mut asked = BTreeSet::from([own]);
        let mut last = Error::Unavailable("no other node leads the cluster yet".into());
        while let Some(target) = targets.pop_front() {
            if !asked.insert(target) {
                continue;
            }
            match self.ask_one(target).await {
                Ok(None) => return Ok(()),
                Ok(Some(elsewhere)) => targets.extend(hinted(elsewhere).map(NodeId)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    async fn ask_one(&self, target: NodeId) -> Result<Option<proto::Elsewhere>> {
        let channel = self.inner.links.channel(target, Lane::Control)?;
        let mut client = AgentClient::new(channel);
        match timeout(ANSWER, client.leave(proto::LeaveRequest {})).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().elsewhere),
            Ok(Err(status)) => Err(from_status(&status)),
            Err(_) => Err(Error::Unavailable(format!("no answer within {ANSWER:?}"))),
        }
    }
}

/// While it lives, this node takes the leadership over from nobody.
struct Declines(Consensus);

impl Declines {
    fn begin(consensus: &Consensus) -> Self {
        consensus.decline_leadership(true);
        Self(consensus.clone())
    }
}

impl Drop for Declines {
    fn drop(&mut self) {
        self.0.decline_leadership(false);
    }
}

/// Who asks to be let go at the moment, and how many times over.
#[derive(Default)]
pub(crate) struct Departing(Arc<Mutex<BTreeMap<NodeId, usize>>>);

impl Departing {
    pub(crate) fn get(&self) -> BTreeSet<NodeId> {
        lock(&self.0).keys().copied().collect()
    }

    fn enter(&self, node: NodeId) -> Asking {
        *lock(&self.0).entry(node).or_default() += 1;
        Asking(Arc::clone(&self.0), node)
    }
}

/// One question that is not answered yet.
struct Asking(Arc<Mutex<BTreeMap<NodeId, usize>>>, NodeId);

impl Drop for Asking {
    fn drop(&mut self) {
        let mut all = lock(&self.0);
        let left = all.get(&self.1).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            all.remove(&self.1);
        } else {
            all.insert(self.1, left);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On the leader: takes a node that asks for it out of the voters and of the cluster, and returns once it is needed no more.
/// It can be repeated, also by the next leader.
pub(crate) async fn let_go(member: &Member, node: NodeId) -> Result<()> {
    let until = Instant::now() + LET_GO;
    let _known = member.inner.departing.enter(node);
    // From here on nobody gives it a vote that was decided on before it left, and one node after the other goes.
    let Ok(_alone) = timeout_at(until, member.inner.voting.lock()).await else {
        return Err(Error::Unavailable(
            "another change of the voters is under way".into(),
        ));
    };
    loop {
        let why = match timeout_at(until, try_to_let_go(member, node)).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => continue,
            Ok(Err(why)) => why,
            Err(_) => Error::Unavailable(format!("not done within {LET_GO:?}")),
        };
        if !member.inner.leads() || Instant::now() + PAUSE >= until {
            return Err(why);
        }
        sleep(PAUSE).await;
    }
}

/// One step; whether it was the last.
async fn try_to_let_go(member: &Member, node: NodeId) -> Result<bool> {
    let consensus = member.consensus()?;
    let group = consensus.group().map_err(unavailable)?;
    let nodes = |ids: BTreeSet<u64>| ids.into_iter().map(NodeId).collect();
    let group = Group {
        voters: nodes(group.voters),
        members: nodes(group.members),
        settled: group.settled,
    };
    let (managers, recorded) = {
        let state = member.state();
        (voters::managers(&state), state.nodes.contains_key(&node))
    };
    let leaving = member.departing();
    match departure::release(node, member.id(), recorded, &managers, &leaving, &group) {
        Release::Voters(wanted) => {
            tracing::info!(%node, voters = ?wanted, "a node leaves; these vote from now on");
            let wanted = wanted.into_iter().map(|id| id.0).collect();
            consensus.change_voters(wanted).await.map_err(unavailable)?;
        }
        Release::Record => {
            let removal = Change::RemoveNode {
                id: node,
                force: true,
            };
            // As the leader that took its vote, or not at all: the next one may have given it back.
            match member.propose_leading(removal).await {
                Ok(_) => tracing::info!(%node, "a node left"),
                Err(Error::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Release::Wait => {
            return Err(Error::Unavailable(
                "an earlier change of the voters is not agreed on yet".into(),
            ));
        }
        Release::Keep => {
            return Err(Error::Unavailable(
                "without this node no majority of the managers is up; it can go once they are back"
                    .into(),
            ));
        }
        Release::Done => return Ok(true),
    }
    Ok(false)
}

fn unavailable(e: ConsensusError) -> Error {
    Error::Unavailable(e.to_string())
}
