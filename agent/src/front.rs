//! What answers on `cluster.sock`: the cluster's verbs where this host is in one, and else what to do about it.
//! It must not know how the cluster answers.

use crate::node::Warnings;
use arc_swap::ArcSwap;
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
    Object, Query, Read, Scope,
};
use swarm_api::{Backend, BoxStream, Error, Result};

/// The cluster's backend, while there is one.
pub struct Front {
    part: ArcSwap<Part>,
    version: String,
    node_name: String,
}

/// This host's part in a cluster, as its users see it.
enum Part {
    None,
    Open(Cluster),
    Ending,
}

/// Who answers, and what is wrong with this node's part.
struct Cluster {
    backend: Arc<dyn Backend>,
    warnings: Warnings,
}

impl Front {
    /// A front without a cluster yet.
    #[must_use]
    pub fn new(version: &str, node_name: &str) -> Self {
        Self {
            part: ArcSwap::from_pointee(Part::None),
            version: version.to_owned(),
            node_name: node_name.to_owned(),
        }
    }

    /// From now on `backend` answers; `warnings` are told with what it says of itself.
    pub fn open(&self, backend: Arc<dyn Backend>, warnings: Warnings) {
        let cluster = Cluster { backend, warnings };
        self.part.store(Arc::new(Part::Open(cluster)));
    }

    /// From now on nobody answers, as this host is in no cluster any more.
    pub fn close(&self) {
        self.part.store(Arc::new(Part::None));
    }

    /// From now on nobody answers, as the agent ends; the host stays in its cluster.
    pub fn end(&self) {
        self.part.store(Arc::new(Part::Ending));
    }

    /// What is said where this host has no part in a cluster, or none any more.
    #[must_use]
    pub fn absence(&self) -> Error {
        match &**self.part.load() {
            Part::Ending => stopping(),
            Part::None | Part::Open(_) => not_in_a_cluster(),
        }
    }

    fn cluster(&self) -> Result<Arc<dyn Backend>> {
        match &**self.part.load() {
            Part::Open(cluster) => Ok(Arc::clone(&cluster.backend)),
            Part::None | Part::Ending => Err(self.absence()),
        }
    }
}

/// What every command says on a host that is in no cluster.
fn not_in_a_cluster() -> Error {
    Error::Conflict(
        "this host is in no cluster: make one with `swarmctl init`, or join one with `swarmctl join`; \
         `swarmctl --host local …` drives this host alone"
            .into(),
    )
}

/// What commands are told that come while the agent ends.
fn stopping() -> Error {
    Error::Unavailable(
        "this host's agent is stopping, and the change was not made: ask again once it has started, or ask another host of \
         the cluster"
            .into(),
    )
}

#[async_trait]
impl Backend for Front {
    async fn info(&self) -> Result<Info> {
        let part = self.part.load_full();
        match &*part {
            Part::Open(cluster) => {
                let mut info = cluster.backend.info().await?;
                info.warnings.extend(cluster.warnings.lines());
                Ok(info)
            }
            Part::Ending => Err(stopping()),
            Part::None => Ok(Info {
                scope: Scope::Host,
                version: self.version.clone(),
                node: None,
                node_name: self.node_name.clone(),
                cluster: None,
                leader: None,
                term: 0,
                applied: 0,
                voters: Vec::new(),
                warnings: vec![not_in_a_cluster().to_string()],
            }),
        }
    }

    async fn list(&self, query: Query) -> Result<Answer<Vec<Object>>> {
        self.cluster()?.list(query).await
    }

    async fn get(&self, kind: Kind, name: String, read: Read) -> Result<Answer<Object>> {
        self.cluster()?.get(kind, name, read).await
    }

    async fn create(&self, what: Create) -> Result<Object> {
        self.cluster()?.create(what).await
    }

    async fn update(&self, what: Update) -> Result<Object> {
        self.cluster()?.update(what).await
    }

    async fn remove(&self, kind: Kind, name: String, force: bool) -> Result<()> {
        self.cluster()?.remove(kind, name, force).await
    }

    async fn stop(&self, name: String, timeout: Option<Duration>) -> Result<()> {
        self.cluster()?.stop(name, timeout).await
    }

    async fn kill(&self, task: String, signal: i32) -> Result<()> {
        self.cluster()?.kill(task, signal).await
    }

    async fn wait(&self, task: String) -> Result<ExitStatus> {
        self.cluster()?.wait(task).await
    }

    async fn logs(
        &self,
        name: String,
        options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        self.cluster()?.logs(name, options).await
    }

    async fn attach(
        &self,
        task: String,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.cluster()?.attach(task, options, input).await
    }

    async fn exec(
        &self,
        task: String,
        spec: ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.cluster()?.exec(task, spec, input).await
    }

    async fn stats(
        &self,
        tasks: Vec<String>,
        follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        self.cluster()?.stats(tasks, follow).await
    }

    async fn watch(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        self.cluster()?.watch(since).await
    }

    async fn lookup(&self, name: String, read: Read) -> Result<Answer<Lookup>> {
        self.cluster()?.lookup(name, read).await
    }

    async fn import_image(
        &self,
        name: String,
        config: ImageConfig,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image> {
        self.cluster()?.import_image(name, config, archive).await
    }

    async fn pull_image(
        &self,
        name: String,
        options: PullOptions,
    ) -> Result<BoxStream<Result<PullEvent>>> {
        self.cluster()?.pull_image(name, options).await
    }

    async fn load_images(
        &self,
        name: Option<String>,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Vec<Image>> {
        self.cluster()?.load_images(name, archive).await
    }

    async fn save_images(&self, names: Vec<String>) -> Result<BoxStream<Result<Bytes>>> {
        self.cluster()?.save_images(names).await
    }

    async fn image_history(&self, name: String) -> Result<Vec<HistoryEntry>> {
        self.cluster()?.image_history(name).await
    }

    async fn push_image(
        &self,
        name: String,
        to: Option<String>,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        self.cluster()?.push_image(name, to).await
    }

    async fn commit(&self, task: String, name: String, options: CommitOptions) -> Result<Image> {
        self.cluster()?.commit(task, name, options).await
    }

    async fn tag_image(&self, name: String, to: String) -> Result<Image> {
        self.cluster()?.tag_image(name, to).await
    }

    async fn disk_usage(&self) -> Result<Vec<DiskUsage>> {
        self.cluster()?.disk_usage().await
    }

    async fn stat_path(&self, task: String, path: String) -> Result<FileStat> {
        self.cluster()?.stat_path(task, path).await
    }

    async fn copy_out(&self, task: String, path: String) -> Result<BoxStream<Result<Bytes>>> {
        self.cluster()?.copy_out(task, path).await
    }

    async fn copy_in(
        &self,
        task: String,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        self.cluster()?.copy_in(task, path, archive).await
    }

    async fn export_layer(&self, digest: String) -> Result<BoxStream<Result<Bytes>>> {
        self.cluster()?.export_layer(digest).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_stops_does_not_say_that_its_host_is_in_no_cluster() {
        let front = Front::new("1", "a");
        let remove = || front.remove(Kind::Service, "web".into(), false);
        let why = remove().await.unwrap_err();
        assert!(
            matches!(&why, Error::Conflict(why) if why.contains("swarmctl init")),
            "{why}"
        );
        front.end();
        for why in [
            remove().await.unwrap_err(),
            front.info().await.unwrap_err(),
            front.absence(),
        ] {
            assert!(
                matches!(&why, Error::Unavailable(why) if why.contains("the change was not made")),
                "{why}"
            );
        }
        front.close();
        assert!(matches!(remove().await, Err(Error::Conflict(_))));
        assert!(front.info().await.is_ok());
    }
}
