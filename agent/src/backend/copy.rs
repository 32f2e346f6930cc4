//! Files out of and into the container of one task: on the node that has it.

use super::{Cluster, names, nodes::NodeBackend};
use bytes::Bytes;
use swarm_api::backend::FileStat;
use swarm_api::model::{Id, Task, TaskState};
use swarm_api::{BoxStream, Error, Result};

impl Cluster {
    pub(super) async fn stat_path(&self, name: &str, path: String) -> Result<FileStat> {
        let (id, on) = self.container_of(name).await?;
        on.ask(on.backend.stat_path(id.to_string(), path)).await
    }

    pub(super) async fn copy_out(
        &self,
        name: &str,
        path: String,
    ) -> Result<BoxStream<Result<Bytes>>> {
        let (id, on) = self.container_of(name).await?;
        on.open(on.backend.copy_out(id.to_string(), path)).await
    }

    pub(super) async fn copy_in(
        &self,
        name: &str,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        let (id, on) = self.container_of(name).await?;
        on.finish(on.backend.copy_in(id.to_string(), path, archive))
            .await
    }

    /// A task that has a container, and the node that has it.
    async fn container_of(&self, name: &str) -> Result<(Id, NodeBackend)> {
        self.fresh().await?;
        let task = names::task(&self.member.state(), name)?;
        let node = task.node.filter(|_| may_have_one(&task)).ok_or_else(|| {
            Error::Conflict(format!(
                "the task {} has no container: it is {}",
                task.name, task.status.state
            ))
        })?;
        Ok((task.id, self.backend_of(node).await?))
    }
}

fn may_have_one(task: &Task) -> bool {
    match task.status.state {
        TaskState::Running => true,
        state => state.is_final() && task.status.started_at.is_some() && state != TaskState::Lost,
    }
}
