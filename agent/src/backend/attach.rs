//! What is done in or to one running task: on the node that runs it.

use super::reads::sure;
use super::{Cluster, await_state, names, nodes::NodeBackend, stop};
use futures_util::{StreamExt, stream};
use swarm_api::backend::{AttachOptions, ExecSpec, Input, Output};
use swarm_api::model::{DesiredState, Id, Task, TaskState};
use swarm_api::{BoxStream, Error, Result};
use swarm_cluster::State;

impl Cluster {
    /// Waits for a task that is about to be made or to start.
    pub(super) async fn attach(
        &self,
        name: &str,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.fresh().await?;
        let mut id: Option<Id> = None;
        let task = await_state::until(&self.member, |state| {
            started(state, name, &mut id).transpose()
        })
        .await??;
        let opened = match self.node_of(&task).await {
            Ok(on) => {
                let stream = on.backend.attach(task.id.to_string(), options, input);
                on.open(stream).await
            }
            Err(why) => Err(why),
        };
        match opened {
            Err(why) => self.exit_only(&task).ok_or(why),
            opened => opened,
        }
    }

    pub(super) async fn exec(
        &self,
        name: &str,
        spec: ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        let freshness = self.fresh().await?;
        let task = sure(&freshness, self.running_task(name))?;
        let on = self.node_of(&task).await?;
        on.open(on.backend.exec(task.id.to_string(), spec, input))
            .await
    }

    pub(super) async fn kill(&self, name: &str, signal: i32) -> Result<()> {
        let freshness = self.fresh().await?;
        let task = sure(&freshness, self.running_task(name))?;
        let on = self.node_of(&task).await?;
        on.ask(on.backend.kill(task.id.to_string(), signal)).await
    }

    fn running_task(&self, name: &str) -> Result<Task> {
        let task = names::task(&self.member.state(), name)?;
        if task.status.state == TaskState::Running {
            return Ok(task);
        }
        Err(not_running(&task))
    }

    async fn node_of(&self, task: &Task) -> Result<NodeBackend> {
        match task.node {
            Some(node) => self.backend_of(node).await,
            None => Err(not_running(task)),
        }
    }

    /// All that can be said of a task whose container is gone already: how it ended.
    fn exit_only(&self, task: &Task) -> Option<BoxStream<Result<Output>>> {
        let state = self.member.state();
        let now = match state.tasks.get(&task.id) {
            Some(now) if !now.status.state.is_final() => return None,
            Some(now) => now,
            None => task,
        };
        let exit = stop::ended(&state, now).ok()?;
        Some(stream::iter([Ok(Output::Exit(exit))]).boxed())
    }
}

pub(super) fn not_running(task: &Task) -> Error {
    let (name, state, why) = (&task.name, task.status.state, &task.status.message);
    let why = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    Error::Conflict(format!("task {name} is not running, it is {state}{why}"))
}

/// The task that `name` names once its process has been started; nothing yet if that is still to come. The id is
/// remembered, so that a task that follows in the same slot is not taken for it.
fn started(state: &State, name: &str, id: &mut Option<Id>) -> Result<Option<Task>> {
    let task = match id {
        Some(known) => Some(state.tasks.get(known).cloned().ok_or_else(|| {
            Error::NotFound(format!("task {name} was removed before it had started"))
        })?),
        None => names::expected_task(state, name)?,
    };
    let Some(task) = task else {
        return Ok(None);
    };
    *id = Some(task.id.clone());
    match task.status.state {
        TaskState::Rejected | TaskState::Lost => stop::ended(state, &task).map(|_| Some(task)),
        TaskState::Running => Ok(Some(task)),
        ended if ended.is_final() => Ok(Some(task)),
        _ if task.desired != DesiredState::Running => Err(not_running(&task)),
        _ => Ok(None),
    }
}
