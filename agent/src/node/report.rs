//! Tells the cluster what is observed here: one report under way at a time, with everything that came meanwhile in
//! the next; nothing while nothing differs. What differs is decided in `swarm_cluster::reports`.

use super::backoff::Backoff;
use super::local::Local;
use super::own;
use crate::follow::Follow;
use std::collections::BTreeMap;
use std::time::Duration;
use swarm_api::model::{Id, NodeHealth, TaskStatus};
use swarm_cluster::{Change, reports};
use swarm_member::Member;
use tokio_util::sync::CancellationToken;

/// Reports until `stop`.
pub(super) async fn run(member: Member, local: &Local, stop: CancellationToken) {
    let mut changes = local.changes();
    let node = member.id();
    let mut follow = Follow::new(member.clone(), move |state| own(state, node));
    let mut leader = member.watch_leader();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut idle = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let mut refused = Refused::default();
    loop {
        follow.look();
        leader.borrow_and_update();
        refused.heed(health(&member));
        let statuses = refused.without(differing(&member, local));
        let mut unanswered = false;
        let mut retry = None;
        if !statuses.is_empty() {
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
                    backoff.reset();
                    if !refused.note(&statuses, &differing(&member, local)) {
                        idle.reset();
                    }
                    continue;
                }
                Err(why) => {
                    tracing::debug!(%why, "what was observed is reported later");
                    unanswered = true;
                    retry = Some(backoff.delay());
                }
            }
        } else if !refused.0.is_empty() {
            retry = Some(idle.delay());
        }
        let rest = async {
            match retry {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = rest => if !unanswered {
                refused.0.clear();
            },
            changed = leader.changed() => if changed.is_err() { return },
            // While the cluster does not answer, changes wait for the next attempt.
            changed = follow.changed(), if !unanswered => if changed.is_err() { return },
            () = changes.next(), if !unanswered => {}
        }
    }
}

fn differing(member: &Member, local: &Local) -> Vec<(Id, TaskStatus)> {
    let tasks = local.tasks();
    let state = member.state();
    reports::diff(&state, member.id(), &tasks)
}

fn health(member: &Member) -> Option<NodeHealth> {
    member.state().nodes.get(&member.id()).map(|n| n.health)
}

/// What was reported and changed nothing: the cluster knows better, or this node is fenced. It is not said again before
/// some time has passed, or this node is let in again.
#[derive(Debug, Default)]
struct Refused(BTreeMap<Id, TaskStatus>, Option<NodeHealth>);

impl Refused {
    fn heed(&mut self, health: Option<NodeHealth>) {
        if self.1 != health {
            self.1 = health;
            self.0.clear();
        }
    }

    fn without(&self, mut statuses: Vec<(Id, TaskStatus)>) -> Vec<(Id, TaskStatus)> {
        statuses.retain(|(id, status)| self.0.get(id) != Some(status));
        statuses
    }

    /// Of what was `sent`, that counts as refused which differs as it did before; whether there is such.
    fn note(&mut self, sent: &[(Id, TaskStatus)], differing: &[(Id, TaskStatus)]) -> bool {
        let refused = sent.iter().filter(|one| differing.contains(one));
        let before = self.0.len();
        self.0.extend(refused.cloned());
        self.0.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::TaskState;

    fn status(number: u64, state: TaskState) -> (Id, TaskStatus) {
        let status = TaskStatus {
            state,
            ..TaskStatus::default()
        };
        (Id::from_u64(number), status)
    }

    #[test]
    fn what_was_refused_is_not_said_again_and_what_is_new_is() {
        let mut refused = Refused::default();
        refused.heed(Some(NodeHealth::Down));
        let (old, new) = (status(1, TaskState::Running), status(2, TaskState::Running));
        assert!(refused.note(&[old.clone(), new.clone()], std::slice::from_ref(&old)));
        assert_eq!(refused.without(vec![old.clone(), new.clone()]), [new]);
        let later = status(1, TaskState::Failed);
        assert_eq!(refused.without(vec![later.clone()]), [later]);
        refused.heed(Some(NodeHealth::Ready));
        assert_eq!(refused.without(vec![old.clone()]), [old]);
    }
}
