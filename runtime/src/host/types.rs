//! What a host is given: where things are, and what the cluster asks of it. No logic.

use super::gc::GcPolicy;
use crate::registry::RegistryConfig;
use async_trait::async_trait;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use swarm_api::model::{Id, Image, ImageConfig, ImageReference, Task};

/// Where a host keeps things, and who it is.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// What lasts: images, layers, volumes, containers, records.
    pub data_dir: PathBuf,
    /// Sockets; may be on tmpfs.
    pub run_dir: PathBuf,
    /// The cgroup that containers' cgroups are made in, relative to the hierarchy's root.
    pub cgroup_parent: String,
    /// The node's name, for people and in `SWARM_NODE`.
    pub node_name: String,
    /// Program and arguments that a container's shim is started with; `--dir DIR` is appended.
    pub shim: Vec<OsString>,
    /// The version of the program.
    pub version: String,
    /// Images that come with the binary.
    pub builtin: Vec<BuiltinImage>,
    /// Where images are pulled from.
    pub registry: RegistryConfig,
    /// When images go by themselves.
    pub gc: GcPolicy,
}

/// An image that comes with the binary.
#[derive(Debug, Clone)]
pub struct BuiltinImage {
    /// Its name.
    pub reference: ImageReference,
    /// How to run it.
    pub config: ImageConfig,
    /// Path, mode and contents of its files.
    pub files: Vec<(String, u32, &'static [u8])>,
}

/// What a container's `/etc/resolv.conf` says (resolv.conf(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Whom to ask.
    pub nameservers: Vec<IpAddr>,
    /// What to append to short names.
    pub search: Vec<String>,
    /// Options, such as `ndots:0`.
    pub options: Vec<String>,
}

/// One container to make and start.
#[derive(Clone)]
pub struct TaskOrder {
    /// The task.
    pub task: Task,
    /// Its image; the layers are here.
    pub image: Image,
    /// `NAME=value`, after the image's and before the task's own.
    pub env: Vec<String>,
    /// Its name servers.
    pub dns: Dns,
    /// Further lines of `/etc/hosts`.
    pub hosts: Vec<(IpAddr, String)>,
    /// What connects it, where it is in a network of the cluster.
    pub network: Option<Arc<dyn NetworkAttach>>,
}

/// Connects containers to their networks.
#[async_trait]
pub trait NetworkAttach: Send + Sync {
    /// Connects a task's network namespace, before its process runs.
    async fn attach(&self, task: &Task, netns: OwnedFd) -> swarm_api::Result<()>;

    /// Takes back what `attach` did on the host. No error if there is nothing.
    async fn detach(&self, task: &Id);
}
