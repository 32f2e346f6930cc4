//! Tells the cluster what is observed here: one report under way at a time, with everything that came meanwhile in
//! the next; nothing while nothing differs. What differs is decided in `swarm_cluster::reports`.

use super::clock::Backoff;
use super::local::Local;
use std::time::Duration;
use swarm_api::model::{Id, TaskStatus};
use swarm_cluster::{Change, reports};
use swarm_member::Member;
use tokio_util::sync::CancellationToken;

/// Reports until `stop`.
pub(super) async fn run(member: Member, local: &Local, stop: CancellationToken) {
    let mut changes = local.changes();
    let mut applied = member.watch_applied();
    let mut leader = member.watch_leader();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut sent: Vec<(Id, TaskStatus)> = Vec::new();
    loop {
        applied.borrow_and_update();
        leader.borrow_and_update();
        let statuses = differing(&member, local);
        let mut retry = None;
        if statuses.is_empty() {
            backoff.reset();
            sent.clear();
        } else if statuses == sent {
            // It was accepted and changed nothing: the cluster knows better, or this node is fenced.
            retry = Some(backoff.delay());
            sent.clear();
        } else {
            let change = Change::Report {
                node: member.id(),
                statuses: statuses.clone(),
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = member.propose(change) => outcome,
            };
            match outcome {
                Ok(_) => {
                    sent = statuses;
                    continue;
                }
                Err(why) => {
                    tracing::debug!(%why, "what was observed is reported later");
                    retry = Some(backoff.delay());
                }
            }
        }
        let waiting = retry.is_some();
        let rest = async {
            match retry {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = rest => {}
            changed = leader.changed() => if changed.is_err() { return },
            // While the cluster does not answer, changes wait for the next attempt.
            changed = applied.changed(), if !waiting => if changed.is_err() { return },
            () = changes.next(), if !waiting => {}
        }
    }
}

fn differing(member: &Member, local: &Local) -> Vec<(Id, TaskStatus)> {
    let tasks = local.tasks();
    let state = member.state();
    reports::diff(&state, member.id(), &tasks)
}
