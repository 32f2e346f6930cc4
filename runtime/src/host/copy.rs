//! Files out of and into a task's container.

use super::Inner;
use super::streams::{Hold, held};
use crate::engine::Root;
use crate::files;
use crate::image::stream::{read_in_thread, write_in_thread};
use bytes::Bytes;
use std::sync::Arc;
use swarm_api::backend::FileStat;
use swarm_api::model::{Task, TaskState};
use swarm_api::{BoxStream, Error, Result};

impl Inner {
    pub(super) async fn stat_path(self: &Arc<Self>, name: &str, path: String) -> Result<FileStat> {
        let (task, root, _hold) = self.root_of(name).await?;
        super::blocking(move || Ok(files::find(&root.fd, &path)?.describe()))
            .await
            .map_err(|e| about(&task, e))
    }

    pub(super) async fn copy_out(
        self: &Arc<Self>,
        name: &str,
        path: String,
    ) -> Result<BoxStream<Result<Bytes>>> {
        let (task, root, hold) = self.root_of(name).await?;
        // Found before the archive begins, so that what is not there is an answer and no broken archive.
        let found = super::blocking(move || Ok((files::find(&root.fd, &path)?, root.owners)));
        let (place, owners) = found.await.map_err(|e| about(&task, e))?;
        let archive = write_in_thread(move |sink| files::pack(&place, &owners, sink));
        Ok(held(archive, hold))
    }

    pub(super) async fn copy_in(
        self: &Arc<Self>,
        name: &str,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        let (task, root, _hold) = self.root_of(name).await?;
        read_in_thread(archive, move |reader| {
            files::unpack(&root.fd, &path, &root.owners, reader)
        })
        .await
        .map_err(|e| e.context(format!("cannot copy into the task {}", task.name)))
    }

    async fn root_of(self: &Arc<Self>, name: &str) -> Result<(Task, Root, Hold)> {
        let task = self.lock().find_task(name)?.clone();
        let hold = Hold::new(self, &task.id);
        let state = task.status.state;
        if state != TaskState::Running && !state.is_final() {
            return Err(Error::Conflict(format!(
                "the task {} is {state}: its files are not in place yet",
                task.name
            )));
        }
        match self.engine.root(task.id.as_str()).await {
            Ok(root) => Ok((task, root, hold)),
            Err(crate::Error::NotFound(_)) => Err(Error::Conflict(format!(
                "the task {} is {state} and has no container",
                task.name
            ))),
            Err(e) => Err(about(&task, e)),
        }
    }
}

fn about(task: &Task, e: crate::Error) -> Error {
    Error::from(e).context(format!("the files of the task {}", task.name))
}
