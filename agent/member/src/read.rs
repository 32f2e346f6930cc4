//! Reading: how fresh the replica here is, confirmed with the leader where that is asked for. Reads that are asked for at
//! the same time share one confirmation.

use crate::Member;
use crate::links::{Lane, root_cause};
use crate::member::Inner;
use crate::wire;
use std::sync::{Arc, Weak};
use std::time::Duration;
use swarm_api::Result;
use swarm_api::model::{Freshness, NodeId, Read};
use swarm_consensus::Error as ConsensusError;
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_client::AgentClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a confirmation is tried for before the answer is given as stale.
const CONFIRM: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// One who waits for a confirmed index.
pub(crate) type Asking = oneshot::Sender<u64>;

impl Member {
    /// Says how fresh the replica here is. A linearizable read waits until the replica contains everything that was
    /// acknowledged before the call; where that cannot be confirmed within two seconds, it is said to be stale.
    ///
    /// # Errors
    /// None at present.
    pub async fn read(&self, read: Read) -> Result<Freshness> {
        let replica = &self.inner.replica;
        let confirmed = match read {
            Read::Stale => false,
            Read::Linearizable => {
                let deadline = Instant::now() + CONFIRM;
                let (answer, answered) = oneshot::channel();
                let waited = async {
                    // The other end is gone when the member has been shut down: then it is stale.
                    self.inner.reads.send(answer).ok()?;
                    let index = answered.await.ok()?;
                    replica.wait_for(index).await;
                    Some(())
                };
                matches!(timeout_at(deadline, waited).await, Ok(Some(())))
            }
        };
        let age = if confirmed { None } else { replica.staleness() };
        Ok(Freshness {
            index: replica.applied_index(),
            stale: !confirmed,
            age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}

/// Confirms an index once for all reads that wait.
pub(crate) async fn confirm(inner: Weak<Inner>, mut waiting: mpsc::UnboundedReceiver<Asking>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, 4096).await > 0 {
        batch.retain(|asking| !asking.is_closed());
        let Some(inner) = inner.upgrade() else { return };
        match timeout(CONFIRM, read_index(&inner)).await {
            Ok(index) => {
                for asking in batch.drain(..) {
                    // Who asked may have given up.
                    let _ = asking.send(index);
                }
            }
            Err(_) => batch.clear(),
        }
    }
}

async fn read_index(inner: &Arc<Inner>) -> u64 {
    let mut leader = inner.replica.watch_leader();
    let mut hint = None;
    loop {
        let known = *leader.borrow_and_update();
        let own = inner.identity.load().node.0;
        match hint.take().or(known) {
            Some(target) if target == own => {
                if let Some(consensus) = &inner.consensus {
                    match consensus.linearizable_read().await {
                        Ok(index) => return index,
                        Err(ConsensusError::NotLeader { leader }) => hint = leader,
                        Err(e) => tracing::debug!("a read cannot be confirmed: {e}"),
                    }
                }
            }
            Some(target) => match ask(inner, NodeId(target)).await {
                Ok(Ok(index)) => return index,
                Ok(Err(other)) => hint = other.filter(|other| *other != target),
                Err(why) => {
                    tracing::debug!(leader = %NodeId(target), "a read cannot be confirmed: {why}");
                }
            },
            None => {}
        }
        if hint.is_none() {
            tokio::select! {
                _ = leader.changed() => {}
                () = sleep(PAUSE) => {}
            }
        }
    }
}

/// The index, or who may lead instead.
async fn ask(
    inner: &Inner,
    target: NodeId,
) -> std::result::Result<std::result::Result<u64, Option<u64>>, String> {
    let channel = inner
        .links
        .channel(target, Lane::Control)
        .map_err(|e| e.to_string())?;
    let reply = AgentClient::new(channel)
        .read_index(proto::ReadIndexRequest {})
        .await;
    let reply = reply.map_err(|status| root_cause(&status))?.into_inner();
    if let Some(elsewhere) = reply.elsewhere {
        return Ok(Err(wire::hinted(elsewhere)));
    }
    inner.heard.group(reply.term, &reply.voters);
    Ok(Ok(reply.index))
}
