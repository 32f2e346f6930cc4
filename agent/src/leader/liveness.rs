//! Gossip's verdicts made facts of the log: a dead node is fenced, one that is back is let in again.

use super::pace::{Backoff, Repeats};
use super::sightings::Sightings;
use super::{SAFETY, propose};
use swarm_cluster::{Change, liveness};
use swarm_member::Member;
use tokio::time::Instant;

/// Never returns while the member lives.
pub(super) async fn run(member: &Member, sightings: &mut Sightings) {
    let mut members = member.membership().watch();
    let mut applied = member.watch_applied();
    let mut repeats: Repeats<Vec<Change>> = Repeats::default();
    let mut backoff = Backoff::default();
    loop {
        let seen = members.borrow_and_update().clone();
        applied.borrow_and_update();
        let now = Instant::now();
        let (changes, due) = {
            let state = member.state();
            let nodes = state.nodes.keys().copied().collect();
            let seen = sightings.judge(&nodes, &seen, member.id(), now);
            (liveness::changes(&state, &seen.alive), seen.due)
        };
        if changes.is_empty() {
            repeats.settle();
            let due = due.map_or(now + SAFETY, |due| due.min(now + SAFETY));
            tokio::select! {
                changed = members.changed() => if changed.is_err() { return },
                changed = applied.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due) => {}
            }
            continue;
        }
        if let Some(delay) = repeats.delay(changes.clone()) {
            tokio::time::sleep(delay).await;
        }
        for change in changes {
            if let Err(why) = propose(member, change.clone()).await {
                tracing::warn!(%why, ?change, "cannot record what gossip says of a node; trying again");
                tokio::time::sleep(backoff.next()).await;
                break;
            }
            tracing::info!(?change, "recorded what gossip says of a node");
            backoff.reset();
        }
    }
}
