//! What the leading node does for all: fences dead nodes, turns services into placed tasks, and chooses the voters.
//!
//! Thin loops around the pure cores of `swarm_cluster`: each looks at the state and at what is seen, proposes what its
//! core decides, and waits for something to change. They run only while this node leads, and keep nothing that the
//! next leader would need.

mod liveness;
mod pace;
mod planning;
mod sightings;
#[cfg(test)]
pub(crate) mod solo;
#[cfg(test)]
mod tests;
mod voting;

pub use voting::has_its_vote;

use std::time::Duration;
use swarm_api::Result;
use swarm_api::model::Read;
use swarm_cluster::Change;
use swarm_member::Member;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How often each loop looks again though nothing seems to have changed.
const SAFETY: Duration = Duration::from_secs(15);

/// Leads whenever this node is the leader, until `shutdown`, or until the member ends.
pub async fn run(member: Member, shutdown: CancellationToken) {
    let me = member.id().0;
    let mut leader = member.watch_leader();
    loop {
        let leads = *leader.borrow_and_update() == Some(me);
        if leads {
            info!("this node leads the cluster");
            tokio::select! {
                () = lead(&member) => {}
                () = until_lost(&mut leader, me) => info!("this node no longer leads the cluster"),
                () = shutdown.cancelled() => return,
            }
        } else {
            tokio::select! {
                changed = leader.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
        if leader.has_changed().is_err() {
            return;
        }
    }
}

/// Never returns: it is dropped when leadership is lost.
async fn lead(member: &Member) {
    caught_up(member).await;
    tokio::join!(
        liveness::run(member),
        planning::run(member),
        voting::run(member),
    );
}

/// Waits until the replica has all that earlier leaders had acknowledged: nothing is to be decided on less.
async fn caught_up(member: &Member) {
    let mut backoff = pace::Backoff::default();
    loop {
        match member.read(Read::Linearizable).await {
            Ok(freshness) if !freshness.stale => return,
            Ok(_) => {}
            Err(why) => tracing::warn!(%why, "cannot catch up with the log before leading"),
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Proposes as the leader that decided it, or not at all.
async fn propose(member: &Member, change: Change) -> Result<()> {
    member.propose_leading(change).await.map(drop)
}

async fn until_lost(leader: &mut watch::Receiver<Option<u64>>, me: u64) {
    // An error means that the member ends, and leadership with it.
    let _ = leader.wait_for(|now| *now != Some(me)).await;
}
