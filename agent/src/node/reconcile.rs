//! Makes this node's containers be as the replica wants them. What is to be done is decided in
//! `swarm_cluster::reconciler`; here it is carried out: each task's work one after the other, different tasks' side
//! by side. A replica that does not change asks for nothing, and one that may be old is not acted on (`footing`), so a
//! node that is cut off leaves all as it is.

use super::backoff::Backoff;
use super::dns::task::resolver_of;
use super::footing::{Footing, may_act};
use super::images::Images;
use super::lanes::{Lane, Lanes, Work};
use super::local::Local;
use super::networks::Networks;
use super::{Part, own};
use crate::follow::Follow;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::{DesiredState, Id, NetworkMode, Task, TaskState, Timestamp};
use swarm_api::{Error, Result};
use swarm_cluster::reconciler::{self, Action};
use swarm_member::Member;
use swarm_runtime::host::{NetworkAttach, TaskOrder};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How many containers are made at a time.
const STARTS: usize = 16;
/// How many are stopped or removed at a time: mostly waiting.
const ENDS: usize = 64;
/// How long work that is under way may take when the agent ends.
const GRACE: Duration = Duration::from_secs(10);

/// What the work on tasks needs.
pub(super) struct Reconciler {
    pub(super) member: Member,
    pub(super) local: Arc<Local>,
    pub(super) images: Arc<Images>,
    pub(super) networks: Arc<Networks>,
    footing: watch::Receiver<Footing>,
    starts: Semaphore,
    ends: Semaphore,
}

impl Reconciler {
    pub(super) fn new(
        member: Member,
        local: Arc<Local>,
        images: Arc<Images>,
        networks: Arc<Networks>,
        footing: watch::Receiver<Footing>,
    ) -> Self {
        Self {
            member,
            local,
            images,
            networks,
            footing,
            starts: Semaphore::new(STARTS),
            ends: Semaphore::new(ENDS),
        }
    }

    /// Works until `stop`, and then until no work is under way.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let lanes = Lanes::default();
        let mut works = JoinSet::new();
        let node = self.member.id();
        let mut follow = Follow::new(self.member.clone(), move |state| own(state, node));
        let mut changes = self.local.changes();
        let mut footing = self.footing.clone();
        let mut known = true;
        loop {
            follow.look();
            footing.borrow_and_update();
            let (actions, next) = self.decide();
            for action in actions {
                let (id, work) = match &action {
                    Action::Run(task) => (&task.id, Work::Run),
                    Action::Stop { id, .. } => (id, Work::Stop),
                    Action::Remove(id) => (id, Work::Remove),
                };
                if let Some(lane) = lanes.enter(id, work) {
                    works.spawn(Arc::clone(&self).carry_out(action, lane));
                }
            }
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep(next.since(self.member.world().now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = follow.changed() => if changed.is_err() { break },
                // Its sender goes when nothing more is to be told.
                changed = footing.changed(), if known => known = changed.is_ok(),
                () = changes.next() => {}
                () = lanes.freed() => {}
                () = due => {}
            }
            while works.try_join_next().is_some() {}
        }
        lanes.cancel_all();
        let end = async { while works.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, end).await;
        works.shutdown().await;
    }

    /// What is to be done, and when the next task that waits is due.
    fn decide(&self) -> (Vec<Action>, Option<Timestamp>) {
        let (node, local, now) = (
            self.member.id(),
            self.local.tasks(),
            self.member.world().now(),
        );
        let footing = *self.footing.borrow();
        let state = self.member.state();
        let part = super::part(&state, node);
        if !may_act(footing, part) {
            return (Vec::new(), None);
        }
        if part == Part::Out || footing == Footing::TakenOut {
            return (farewell(&local), None);
        }
        let actions = reconciler::actions(&state, node, &local, now);
        (actions, reconciler::next(&state, node, now))
    }

    async fn carry_out(self: Arc<Self>, action: Action, lane: Lane) {
        match action {
            Action::Run(task) => self.start(task, &lane.overtaken).await,
            Action::Stop { id, timeout } => {
                self.end(&lane.overtaken, "stop", &id, || self.stop(&id, timeout))
                    .await;
            }
            Action::Remove(id) => {
                self.end(&lane.overtaken, "remove", &id, || self.remove(&id))
                    .await;
            }
        }
        drop(lane);
    }

    async fn start(&self, task: Task, overtaken: &CancellationToken) {
        let order = tokio::select! {
            () = overtaken.cancelled() => return,
            order = self.order(&task) => order,
        };
        // What makes the container is not cut short: the host would have to find out how far it got.
        let outcome = match order {
            Ok(order) => {
                let Ok(_permit) = self.starts.acquire().await else {
                    return;
                };
                if overtaken.is_cancelled() || !self.is_wanted(&task.id) {
                    return;
                }
                self.local.host.run_task(order).await
            }
            Err(why) => Err(why),
        };
        match outcome {
            Ok(()) => self.local.forget(&task.id),
            Err(why) => {
                tracing::warn!(task = task.name, id = %task.id, %why, "a task could not be started");
                self.local.set(
                    &task,
                    TaskState::Rejected,
                    why.to_string(),
                    self.member.world().now(),
                );
            }
        }
    }

    /// Everything the host needs to make the task's container.
    async fn order(&self, task: &Task) -> Result<TaskOrder> {
        let mut task = task.clone();
        task.node_name = self.member.name();
        let network = match &task.spec.network {
            NetworkMode::Cluster(name) => Some(self.networks.wait_for(name).await?),
            NetworkMode::None | NetworkMode::Host => None,
        };
        let waiting = |why: String| {
            self.local
                .set(&task, TaskState::Preparing, why, self.member.world().now());
        };
        let image = self.images.ready(&task, waiting).await?;
        let attach = network
            .is_some()
            .then(|| Arc::clone(&self.networks) as Arc<dyn NetworkAttach>);
        Ok(TaskOrder {
            dns: resolver_of(&task, network.as_ref(), &self.networks.host_resolver()),
            hosts: Vec::new(),
            env: vec![format!("SWARM_NODE={}", task.node_name)],
            network: attach,
            image,
            task,
        })
    }

    fn is_wanted(&self, id: &Id) -> bool {
        let state = self.member.state();
        state.tasks.get(id).is_some_and(|t| {
            t.node == Some(self.member.id())
                && t.desired == DesiredState::Running
                && !t.status.state.is_final()
        })
    }

    /// Tries until it works or something later in the task's life overtakes it.
    async fn end<F: Future<Output = Result<()>>>(
        &self,
        overtaken: &CancellationToken,
        what: &str,
        id: &Id,
        work: impl Fn() -> F,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let trying = async {
            loop {
                let Ok(permit) = self.ends.acquire().await else {
                    return;
                };
                let Err(why) = work().await else {
                    return;
                };
                drop(permit);
                tracing::warn!(%id, %why, "cannot {what} a task; it is tried again");
                tokio::time::sleep(backoff.delay()).await;
            }
        };
        tokio::select! {
            () = overtaken.cancelled() => {}
            () = trying => {}
        }
    }

    async fn stop(&self, id: &Id, timeout: Duration) -> Result<()> {
        if self.local.host_has(id) {
            match self.local.host.stop_task(id, timeout).await {
                // It is gone meanwhile.
                Err(Error::NotFound(_)) => {}
                outcome => return outcome,
            }
        }
        let here = self.local.tasks().into_iter().find(|t| t.id == *id);
        let task = here.or_else(|| self.member.state().tasks.get(id).cloned());
        if let Some(task) = task.filter(|t| !t.status.state.is_final()) {
            let message = "stopped before it was started".to_owned();
            self.local.set(
                &task,
                TaskState::Shutdown,
                message,
                self.member.world().now(),
            );
        }
        Ok(())
    }

    async fn remove(&self, id: &Id) -> Result<()> {
        remove_task(&self.local, &self.networks, id).await
    }
}

/// What a host does that has left the cluster or was taken out of it: its tasks run elsewhere from now on.
fn farewell(local: &[Task]) -> Vec<Action> {
    let end = |task: &Task| {
        if task.status.state.is_final() {
            Action::Remove(task.id.clone())
        } else {
            Action::Stop {
                id: task.id.clone(),
                timeout: task.spec.stop_timeout().min(super::LAST_STOP),
            }
        }
    };
    local.iter().map(end).collect()
}

/// Removes everything of a task from this host.
pub(super) async fn remove_task(local: &Local, networks: &Networks, id: &Id) -> Result<()> {
    local.host.remove_task(id).await?;
    // The host does not know of the interface of a task that an earlier life of the agent started.
    networks.detach(id).await;
    local.forget(id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::*;

    #[test]
    fn a_host_that_is_out_stops_what_runs_and_removes_what_has_ended() {
        let (mut running, mut ended) = (task(1), task(2));
        running.status.state = TaskState::Running;
        running.spec.stop_timeout_ms = Some(60_000);
        ended.status.state = TaskState::Failed;
        let actions = farewell(&[running.clone(), ended.clone()]);
        let [Action::Stop { id, timeout }, Action::Remove(removed)] = &actions[..] else {
            panic!("not a stop and a removal");
        };
        assert_eq!((id, removed), (&running.id, &ended.id));
        assert_eq!(*timeout, super::super::LAST_STOP);
    }
}
