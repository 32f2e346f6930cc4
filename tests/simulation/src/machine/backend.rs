//! The verbs of a simulated host: as many as the cluster asks of one.

use super::{SimRuntime, images};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::time::Duration;
use swarm_agent::runtime::Runtime;
use swarm_api::backend::{
    AttachOptions, Create, ExecSpec, Input, LogOptions, LogRecord, Output, Stats, Update,
};
use swarm_api::model::{
    Answer, Event, ExitStatus, Id, Image, ImageConfig, Info, Kind, Lookup, Object, Query, Read,
    Scope, TaskState,
};
use swarm_api::{Backend, BoxStream, Error, Result};

fn unsupported<T>(what: &str) -> Result<T> {
    Err(Error::Unsupported(format!(
        "a simulated host has no {what}"
    )))
}

#[async_trait]
impl Backend for SimRuntime {
    async fn info(&self) -> Result<Info> {
        Ok(Info {
            scope: Scope::Host,
            version: "sim".into(),
            node: None,
            node_name: self.machine.lock().name.clone(),
            cluster: None,
            leader: None,
            term: 0,
            applied: 0,
            voters: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn list(&self, _query: Query) -> Result<Answer<Vec<Object>>> {
        unsupported("lists")
    }

    async fn get(&self, _kind: Kind, _name: String, _read: Read) -> Result<Answer<Object>> {
        unsupported("objects")
    }

    async fn create(&self, _what: Create) -> Result<Object> {
        unsupported("services")
    }

    async fn update(&self, _what: Update) -> Result<Object> {
        unsupported("services")
    }

    async fn remove(&self, _kind: Kind, _name: String, _force: bool) -> Result<()> {
        unsupported("services")
    }

    async fn stop(&self, name: String, timeout: Option<Duration>) -> Result<()> {
        let timeout = timeout.unwrap_or(Duration::from_secs(10));
        self.stop_task(&Id::from_text(&name), timeout).await
    }

    async fn kill(&self, task: String, signal: i32) -> Result<()> {
        let id = Id::from_text(&task);
        match self.state(&id) {
            Some(TaskState::Running) => {
                self.machine.exit(&id, 128 + signal, self.now());
                Ok(())
            }
            Some(_) => Err(Error::Conflict(format!("task {task} does not run"))),
            None => Err(Error::NotFound(format!("there is no task {task} here"))),
        }
    }

    async fn wait(&self, task: String) -> Result<ExitStatus> {
        let id = Id::from_text(&task);
        self.until(&id, TaskState::is_final).await;
        Ok(ExitStatus::default())
    }

    async fn logs(&self, _name: String, _: LogOptions) -> Result<BoxStream<Result<LogRecord>>> {
        Ok(stream::empty().boxed())
    }

    async fn attach(
        &self,
        _task: String,
        _options: AttachOptions,
        _input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        unsupported("terminals")
    }

    async fn exec(
        &self,
        _task: String,
        _spec: ExecSpec,
        _input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        unsupported("processes")
    }

    async fn stats(
        &self,
        _tasks: Vec<String>,
        _follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        unsupported("figures")
    }

    async fn watch(&self, _since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        unsupported("events")
    }

    async fn lookup(&self, _name: String, _read: Read) -> Result<Answer<Lookup>> {
        unsupported("names")
    }

    async fn import_image(
        &self,
        name: String,
        _config: ImageConfig,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image> {
        let archive: Vec<Bytes> = archive.try_collect().await?;
        let content = String::from_utf8_lossy(&archive.concat()).into_owned();
        let image = images::image(name.parse()?, &content, 2);
        self.machine.lock().layers.extend(image.parts());
        self.put_image(image.clone()).await?;
        Ok(image)
    }

    async fn export_layer(&self, digest: String) -> Result<BoxStream<Result<Bytes>>> {
        if !self.machine.lock().layers.contains(&digest) {
            return Err(Error::NotFound(format!("the layer {digest} is not here")));
        }
        let pieces = images::content(&digest);
        let pieces: Vec<Result<Bytes>> = (pieces.chunks(1000))
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        Ok(stream::iter(pieces).boxed())
    }
}
