//! The cluster as one backend: the verbs, answered by any node for all of them.
//!
//! What is wanted is proposed, what is known is read from the replica, and what only the node that runs a task can do
//! (its streams, signals, statistics) is asked of that node's own backend. It must not know how the log, the
//! decisions or a container work, and it keeps no state of its own.

mod attach;
mod await_state;
mod changes;
mod copy;
mod events;
mod images;
mod logs;
mod made;
mod merge;
mod names;
mod nodes;
mod reads;
mod remove;
mod stats;
mod stop;
#[cfg(test)]
mod tests;
mod usage;

pub use images::announce_images;

use crate::runtime::Runtime;
use crate::share::Fetcher;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::backend::{
    AttachOptions, CommitOptions, Create, ExecSpec, FileStat, Input, LogOptions, LogRecord, Output,
    PullEvent, PullOptions, PushEvent, Stats, Update,
};
use swarm_api::model::{
    Answer, DiskUsage, Event, ExitStatus, HistoryEntry, Image, ImageConfig, Info, Kind, Lookup,
    Object, Query, Read,
};
use swarm_api::{Backend, BoxStream, Result};
use swarm_member::Member;

/// The verbs for the whole cluster, as this member answers them.
#[derive(Clone)]
pub struct ClusterBackend {
    cluster: Cluster,
    host: Arc<dyn Runtime>,
    fetcher: Arc<Fetcher>,
}

impl ClusterBackend {
    /// A backend that knows what `member` knows, and drives `host` for the tasks of this node. Images come here by `fetcher`.
    #[must_use]
    pub fn new(member: Member, host: Arc<dyn Runtime>, fetcher: Arc<Fetcher>) -> Self {
        let local: Arc<dyn Backend> = Arc::clone(&host) as Arc<dyn Backend>;
        Self {
            cluster: Cluster { member, local },
            host,
            fetcher,
        }
    }
}

/// What the verbs need, whatever the local backend is. Cheap to clone.
#[derive(Clone)]
struct Cluster {
    member: Member,
    local: Arc<dyn Backend>,
}

#[async_trait]
impl Backend for ClusterBackend {
    async fn info(&self) -> Result<Info> {
        self.cluster.info().await
    }

    async fn list(&self, query: Query) -> Result<Answer<Vec<Object>>> {
        self.cluster.list(query).await
    }

    async fn get(&self, kind: Kind, name: String, read: Read) -> Result<Answer<Object>> {
        self.cluster.get(kind, &name, read).await
    }

    async fn create(&self, what: Create) -> Result<Object> {
        self.cluster.create(what).await
    }

    async fn update(&self, what: Update) -> Result<Object> {
        self.cluster.update(what).await
    }

    async fn remove(&self, kind: Kind, name: String, force: bool) -> Result<()> {
        self.cluster.remove(kind, &name, force).await
    }

    async fn stop(&self, name: String, timeout: Option<Duration>) -> Result<()> {
        self.cluster.stop(&name, timeout).await
    }

    async fn kill(&self, task: String, signal: i32) -> Result<()> {
        self.cluster.kill(&task, signal).await
    }

    async fn wait(&self, task: String) -> Result<ExitStatus> {
        self.cluster.wait(&task).await
    }

    async fn logs(
        &self,
        name: String,
        options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        self.cluster.logs(&name, options).await
    }

    async fn attach(
        &self,
        task: String,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.cluster.attach(&task, options, input).await
    }

    async fn exec(
        &self,
        task: String,
        spec: ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.cluster.exec(&task, spec, input).await
    }

    async fn stats(
        &self,
        tasks: Vec<String>,
        follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        self.cluster.stats(tasks, follow).await
    }

    async fn watch(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        self.cluster.watch(since)
    }

    async fn lookup(&self, name: String, read: Read) -> Result<Answer<Lookup>> {
        self.cluster.lookup(&name, read).await
    }

    async fn import_image(
        &self,
        name: String,
        config: ImageConfig,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image> {
        images::import(
            &self.cluster.member,
            self.host.as_ref(),
            name,
            config,
            archive,
        )
        .await
    }

    async fn pull_image(
        &self,
        name: String,
        options: PullOptions,
    ) -> Result<BoxStream<Result<PullEvent>>> {
        images::pull(&self.cluster.member, self.host.as_ref(), &name, options).await
    }

    async fn load_images(
        &self,
        name: Option<String>,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Vec<Image>> {
        images::load(&self.cluster.member, self.host.as_ref(), name, archive).await
    }

    async fn save_images(&self, names: Vec<String>) -> Result<BoxStream<Result<Bytes>>> {
        images::save(
            &self.cluster.member,
            self.host.as_ref(),
            &self.fetcher,
            names,
        )
        .await
    }

    async fn image_history(&self, name: String) -> Result<Vec<HistoryEntry>> {
        self.cluster.image_history(&name).await
    }

    async fn push_image(
        &self,
        name: String,
        to: Option<String>,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        let host = self.host.as_ref();
        self.cluster
            .push_image(host, &self.fetcher, &name, to)
            .await
    }

    async fn commit(&self, task: String, name: String, options: CommitOptions) -> Result<Image> {
        self.cluster.commit(&task, &name, options).await
    }

    async fn tag_image(&self, name: String, to: String) -> Result<Image> {
        self.cluster.tag_image(&name, &to).await
    }

    async fn disk_usage(&self) -> Result<Vec<DiskUsage>> {
        self.cluster.disk_usage().await
    }

    async fn stat_path(&self, task: String, path: String) -> Result<FileStat> {
        self.cluster.stat_path(&task, path).await
    }

    async fn copy_out(&self, task: String, path: String) -> Result<BoxStream<Result<Bytes>>> {
        self.cluster.copy_out(&task, path).await
    }

    async fn copy_in(
        &self,
        task: String,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        self.cluster.copy_in(&task, path, archive).await
    }

    async fn export_layer(&self, digest: String) -> Result<BoxStream<Result<Bytes>>> {
        self.cluster.local.export_layer(digest).await
    }
}
