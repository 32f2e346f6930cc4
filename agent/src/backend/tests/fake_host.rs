//! A host whose containers are made up: it says what it was asked.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use swarm_api::backend::{
    AttachOptions, Create, ExecSpec, Input, LogOptions, LogRecord, LogStream, Output, Stats, Update,
};
use swarm_api::model::{
    Answer, Event, ExitStatus, Id, Image, ImageConfig, Info, Kind, Lookup, Object, Query, Read,
    Scope, Timestamp,
};
use swarm_api::{Backend, BoxStream, Error, Result};

/// The host.
#[derive(Default)]
pub(super) struct FakeHost {
    calls: Mutex<Vec<String>>,
    tasks: Mutex<Vec<Id>>,
}

impl FakeHost {
    /// What it was asked: the verb and what it was about. Reading is not kept.
    pub(super) fn calls(&self) -> Vec<String> {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on it says that this task runs.
    pub(super) fn run(&self, task: &Id) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(task.clone());
    }

    fn call(&self, call: String) {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call);
    }
}

fn never<T>() -> Result<T> {
    Err(Error::Internal("the host is not to be asked this".into()))
}

fn output() -> BoxStream<Result<Output>> {
    let exit = Output::Exit(ExitStatus::default());
    stream::iter([Ok(Output::Stdout("hi".into())), Ok(exit)]).boxed()
}

#[async_trait]
impl Backend for FakeHost {
    async fn info(&self) -> Result<Info> {
        Ok(Info {
            scope: Scope::Host,
            version: "0".into(),
            node: None,
            node_name: "host1".into(),
            cluster: None,
            leader: None,
            term: 0,
            applied: 0,
            voters: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn list(&self, _query: Query) -> Result<Answer<Vec<Object>>> {
        never()
    }

    async fn get(&self, _kind: Kind, _name: String, _read: Read) -> Result<Answer<Object>> {
        never()
    }

    async fn create(&self, _what: Create) -> Result<Object> {
        never()
    }

    async fn update(&self, _what: Update) -> Result<Object> {
        never()
    }

    async fn remove(&self, _kind: Kind, _name: String, _force: bool) -> Result<()> {
        never()
    }

    async fn stop(&self, _name: String, _timeout: Option<Duration>) -> Result<()> {
        never()
    }

    async fn kill(&self, task: String, signal: i32) -> Result<()> {
        self.call(format!("kill {task} {signal}"));
        Ok(())
    }

    async fn wait(&self, _task: String) -> Result<ExitStatus> {
        never()
    }

    async fn logs(
        &self,
        name: String,
        _options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        let record = LogRecord {
            task: "web.1".into(),
            time: Timestamp(1),
            stream: LogStream::Stdout,
            data: name.into(),
        };
        Ok(stream::iter([Ok(record)]).boxed())
    }

    async fn attach(
        &self,
        task: String,
        _options: AttachOptions,
        _input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.call(format!("attach {task}"));
        Ok(output())
    }

    async fn exec(
        &self,
        task: String,
        _spec: ExecSpec,
        _input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.call(format!("exec {task}"));
        Ok(output())
    }

    async fn stats(
        &self,
        _tasks: Vec<String>,
        _follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        let row = |id: &Id| Stats {
            task: "web.1".into(),
            task_id: id.clone(),
            ..Stats::default()
        };
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // One of the host's own is among them.
        let own = Id::from_text("own");
        let rows = tasks.iter().chain([&own]).map(row).collect();
        Ok(stream::iter([Ok(rows)]).boxed())
    }

    async fn watch(&self, _since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        never()
    }

    async fn lookup(&self, _name: String, _read: Read) -> Result<Answer<Lookup>> {
        never()
    }

    async fn import_image(
        &self,
        _name: String,
        _config: ImageConfig,
        _archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image> {
        never()
    }

    async fn export_layer(&self, _digest: String) -> Result<BoxStream<Result<Bytes>>> {
        never()
    }
}
