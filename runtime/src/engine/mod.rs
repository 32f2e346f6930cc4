//! The agent's side of the shims: creates, finds again, drives and removes containers. Must not know of tasks.

mod types;

use crate::container::CgroupStats;
use crate::shim::launch::Launch;
use crate::{Error, Result};
use bytes::Bytes;
use oci_spec::runtime::{Process, Spec};
use std::sync::Arc;
use swarm_api::BoxStream;
use swarm_api::backend::{AttachOptions, Input, LogOptions, LogStream, Output, WindowSize};
use swarm_api::model::Timestamp;
use tokio::sync::broadcast;

pub use types::{ContainerState, CreatedContainer, EngineConfig};

/// All containers of one host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    events: broadcast::Sender<(String, ContainerState)>,
}

fn pending<T>() -> Result<T> {
    Err(Error::Internal("the engine is being built".to_owned()))
}

impl Engine {
    /// Finds the containers of an earlier life again.
    pub async fn open(_config: EngineConfig) -> Result<Self> {
        pending()
    }
    /// Makes a container; its process waits.
    pub async fn create(&self, _id: &str, _spec: &Spec, _launch: Launch) -> Result<CreatedContainer> {
        pending()
    }
    /// Lets a created container's process run.
    pub async fn start(&self, _id: &str) -> Result<()> {
        pending()
    }
    /// What is known of a container.
    #[must_use]
    pub fn state(&self, _id: &str) -> Option<ContainerState> {
        None
    }
    /// All containers.
    #[must_use]
    pub fn list(&self) -> Vec<(String, ContainerState)> {
        Vec::new()
    }
    /// Changes of state from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(String, ContainerState)> {
        self.inner.events.subscribe()
    }
    /// Sends a signal to a container's first process.
    pub async fn kill(&self, _id: &str, _signal: i32) -> Result<()> {
        pending()
    }
    /// Removes a container and everything of it.
    pub async fn delete(&self, _id: &str, _force: bool) -> Result<()> {
        pending()
    }
    /// Joins a container's streams.
    pub async fn attach(
        &self,
        _id: &str,
        _options: AttachOptions,
        _input: BoxStream<Input>,
    ) -> Result<BoxStream<swarm_api::Result<Output>>> {
        pending()
    }
    /// Runs a further process in a container.
    pub async fn exec(
        &self,
        _id: &str,
        _process: &Process,
        _stdin: bool,
        _size: Option<WindowSize>,
        _input: BoxStream<Input>,
    ) -> Result<BoxStream<swarm_api::Result<Output>>> {
        pending()
    }
    /// A container's log.
    pub async fn logs(
        &self,
        _id: &str,
        _options: LogOptions,
    ) -> Result<BoxStream<swarm_api::Result<(Timestamp, LogStream, Bytes)>>> {
        pending()
    }
    /// What a container uses now.
    pub async fn stats(&self, _id: &str) -> Result<CgroupStats> {
        pending()
    }
}
