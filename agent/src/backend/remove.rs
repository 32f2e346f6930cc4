//! Taking things away. Returns when they are gone, so that their names and addresses can be used again.

use super::reads::sure;
use super::{Cluster, await_state, names};
use futures_util::future::join_all;
use std::time::Duration;
use swarm_api::model::{Id, ImageReference, Kind, NodeId, Task};
use swarm_api::{Error, Result};
use swarm_cluster::{Change, State};

/// How long a removal that is decided is waited for beyond the stop timeouts of what it ends: a node that cannot be
/// reached carries it out later.
const PATIENCE: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

impl Cluster {
    pub(super) async fn remove(&self, kind: Kind, name: &str, force: bool) -> Result<()> {
        let freshness = self.fresh().await?;
        let removed = match kind {
            Kind::Service => self.remove_service(name, force).await,
            Kind::Task => self.remove_task(name, force).await,
            Kind::Image => {
                let reference = name.parse::<ImageReference>()?.to_string();
                self.decide(Change::RemoveImage(reference)).await
            }
            Kind::Network => self.remove_network(name).await,
            Kind::Node => self.remove_node(name, force).await,
        };
        sure(&freshness, removed)
    }

    async fn decide(&self, change: Change) -> Result<()> {
        self.member.propose(change).await.map(drop)
    }

    async fn remove_network(&self, name: &str) -> Result<()> {
        let id = names::network(&self.member.state(), name)?;
        self.decide(Change::RemoveNetwork(id)).await
    }

    async fn remove_node(&self, name: &str, force: bool) -> Result<()> {
        let id = names::node(&self.member.state(), name)?;
        self.decide(Change::RemoveNode { id, force }).await
    }

    async fn remove_service(&self, name: &str, force: bool) -> Result<()> {
        let id = names::service(&self.member.state(), name)?;
        self.decide(Change::RemoveService(id.clone())).await?;
        let live = live_tasks(&self.member.state(), &id);
        let patience = patience(&live);
        if force {
            self.kill_all(&live).await;
        }
        self.wait_gone(patience, |state| !state.services.contains_key(&id))
            .await
    }

    async fn remove_task(&self, name: &str, force: bool) -> Result<()> {
        let task = names::task(&self.member.state(), name)?;
        if !force && !task.status.state.is_final() {
            return Err(Error::Conflict(format!(
                "task {} is {}; end it first with `swarmctl stop {}`, or remove it with --force",
                task.name, task.status.state, task.name
            )));
        }
        self.decide(Change::RemoveTask(task.id.clone())).await?;
        let (id, tasks) = (task.id.clone(), [task]);
        if force {
            self.kill_all(&tasks).await;
        }
        self.wait_gone(patience(&tasks), |state| !state.tasks.contains_key(&id))
            .await
    }

    /// Kills what still runs of `tasks`. Who cannot be reached is left to the node's own reconciler.
    async fn kill_all(&self, tasks: &[Task]) {
        let kill = |node: NodeId, task: Id| async move {
            let on = self.backend_of(node).await?;
            on.ask(on.backend.kill(task.to_string(), SIGKILL)).await
        };
        let running = tasks.iter().filter(|t| !t.status.state.is_final());
        let kills = running.filter_map(|t| t.node.map(|node| kill(node, t.id.clone())));
        for refusal in join_all(kills).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%refusal, "a task was not killed at once; its node stops it");
        }
    }

    /// Waits until `gone`, but not for a node that may never answer: what was decided is carried out anyhow.
    async fn wait_gone(&self, patience: Duration, gone: impl Fn(&State) -> bool) -> Result<()> {
        let gone = await_state::until(&self.member, |state| gone(state).then_some(()));
        match tokio::time::timeout(patience, gone).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(()),
        }
    }
}

fn live_tasks(state: &State, service: &Id) -> Vec<Task> {
    let live = (state.tasks.of_service(service)).filter(|t| !t.status.state.is_final());
    live.cloned().collect()
}

fn patience(tasks: &[Task]) -> Duration {
    let longest = tasks.iter().map(|t| t.spec.stop_timeout()).max();
    longest.unwrap_or_default().saturating_add(PATIENCE)
}
