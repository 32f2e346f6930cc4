//! A task: one container that is to run, on one node, for one slot of a service.

use super::{
    Constraint, Cpus, Health, HealthCheck, HealthState, Id, ImageReference, NodeId, Timestamp,
};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Limits of one container. What is `None` is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processor time.
    pub cpus: Option<Cpus>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Bytes that it writes into its root file system.
    pub storage: Option<u64>,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A path of the host.
    Bind(String),
    /// A named directory that the node keeps for the cluster's tasks.
    Volume(String),
    /// Memory, lost with the container.
    Tmpfs,
}

/// A mount in a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mount {
    /// Where it comes from.
    pub source: MountSource,
    /// An absolute path in the container.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
}

impl std::str::FromStr for Mount {
    type Err = Error;

    /// Reads `/host/path:/path[:ro]` and `volume:/path[:ro]`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::Invalid(format!(
                "\"{text}\" is not a volume: {why}; write SOURCE:TARGET[:ro], where SOURCE is an absolute path or a volume's name"
            ))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, read_only) = match parts[..] {
            [source, target] | [source, target, "rw"] => (source, target, false),
            [source, target, "ro"] => (source, target, true),
            _ => {
                return Err(bad(
                    "it does not have two parts, or its third is neither ro nor rw",
                ));
            }
        };
        if !target.starts_with('/') || target == "/" {
            return Err(bad("its target is not an absolute path below /"));
        }
        let source = if source.starts_with('/') {
            MountSource::Bind(source.into())
        } else {
            super::validate_name("volume", source)?;
            MountSource::Volume(source.into())
        };
        Ok(Self {
            source,
            target: target.into(),
            read_only,
        })
    }
}

/// What network a container is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A network of the cluster, by name.
    Cluster(String),
    /// Its own, with loopback only.
    None,
    /// The host's.
    Host,
}

impl Default for NetworkMode {
    fn default() -> Self {
        Self::Cluster("default".into())
    }
}

/// How one container runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct TaskSpec {
    /// The image, `name:tag`.
    pub image: String,
    /// In place of the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// In place of the image's command.
    pub args: Vec<String>,
    /// `NAME=value`, after the image's.
    pub env: Vec<String>,
    /// In place of the image's user.
    pub user: Option<String>,
    /// In place of the image's working directory.
    pub working_dir: Option<String>,
    /// The host name; the task's name with `-` for `.` if none.
    pub hostname: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub stdin: bool,
    /// Whether its root file system cannot be written.
    pub read_only: bool,
    /// Whether it runs in a user namespace of its own.
    pub user_namespace: bool,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Limits; the scheduler reserves them.
    pub resources: Resources,
    /// What its node must meet.
    pub constraints: Vec<Constraint>,
    /// Its network.
    pub network: NetworkMode,
    /// In place of the image's stop signal (`SIGTERM`, `15`).
    pub stop_signal: Option<String>,
    /// Milliseconds between the stop signal and SIGKILL; 10,000 if none.
    pub stop_timeout_ms: Option<u64>,
    /// How it is checked: what is given here replaces what its image says. See [`HealthCheck::resolve`].
    pub health: Option<HealthCheck>,
}

impl TaskSpec {
    /// Milliseconds between the stop signal and SIGKILL.
    #[must_use]
    pub fn stop_timeout(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.stop_timeout_ms.unwrap_or(10_000))
    }

    /// Checks everything that can be checked without a host.
    ///
    /// # Errors
    /// [`Error::Invalid`], which says what is wrong and what would be right.
    pub fn validate(&self) -> Result<()> {
        const LEAST_MEMORY: u64 = 4 << 20;
        const LEAST_STORAGE: u64 = 1 << 20;
        self.image.parse::<ImageReference>()?;
        if let Some(bad) = self
            .env
            .iter()
            .find(|e| e.split_once('=').is_none_or(|(name, _)| name.is_empty()) || e.contains('\0'))
        {
            return Err(Error::Invalid(format!(
                "\"{bad}\" is not an environment variable: write NAME=value"
            )));
        }
        if let Some(memory) = self.resources.memory
            && memory < LEAST_MEMORY
        {
            return Err(Error::Invalid(format!(
                "a memory limit of {} is too small to start a container; give at least 4m",
                super::format_bytes(memory)
            )));
        }
        if let Some(storage) = self.resources.storage
            && storage < LEAST_STORAGE
        {
            return Err(Error::Invalid(format!(
                "a limit of {} for what a container writes is too small to start one; give at least 1m",
                super::format_bytes(storage)
            )));
        }
        if self.resources.pids == Some(0) {
            return Err(Error::Invalid(
                "a limit of 0 pids leaves no room for the container's own process; give at least 1"
                    .into(),
            ));
        }
        if let Some(check) = &self.health {
            check.validate()?;
        }
        let mut targets = std::collections::BTreeSet::new();
        if let Some(twice) = self.mounts.iter().find(|m| !targets.insert(&m.target)) {
            return Err(Error::Invalid(format!(
                "two volumes have the target {}; give each target once",
                twice.target
            )));
        }
        Ok(())
    }
}

/// What the cluster wants of a task. It only ever moves down this list.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// It is to run.
    #[default]
    Running,
    /// It is to stop, and its record is kept.
    Shutdown,
    /// It is to stop, and its container and record are to go.
    Removed,
}

/// What was last observed of a task. It only ever moves down this list, up to the first final state.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Waits for a node; the message says why none fits.
    #[default]
    Pending,
    /// Has a node.
    Assigned,
    /// Its image is being got ready.
    Preparing,
    /// Its container is being made.
    Starting,
    /// Its process runs.
    Running,
    /// Its process ended with exit code 0.
    Complete,
    /// It was stopped because it was asked to.
    Shutdown,
    /// Its process ended otherwise.
    Failed,
    /// Its container could not be made or started.
    Rejected,
    /// Its node was declared dead.
    Lost,
}

impl TaskState {
    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        self >= Self::Complete
    }

    /// Whether its end counts as a failure for the restart policy.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self >= Self::Failed
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Lost => "lost",
        })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct ExitStatus {
    /// The exit code; 128 + signal where a signal ended it, as a shell has it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
}

/// What was last observed of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct TaskStatus {
    /// Its state.
    pub state: TaskState,
    /// For people: why it is so.
    pub message: String,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// The process on its host.
    pub pid: Option<i32>,
    /// When the process started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When this status was observed.
    pub observed_at: Timestamp,
    /// Its health, where it is checked.
    pub health: Option<Health>,
    /// How many of its processes the kernel has killed for want of memory, as far as its host was told; whether the first one is
    /// among them says `exit`.
    #[serde(default)]
    pub oom_kills: u32,
}

impl TaskStatus {
    /// Whether it does its work, so that others may be sent to it: it runs, and is healthy where that is checked.
    #[must_use]
    pub fn serves(&self) -> bool {
        let healthy = |h: &Health| h.state == HealthState::Healthy;
        self.state == TaskState::Running && self.health.as_ref().is_none_or(healthy)
    }
}

/// One container, wanted or observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Unique id.
    pub id: Id,
    /// `service.slot`, such as `web.2`. Tasks that follow one another in a slot share it.
    pub name: String,
    /// Its service's name.
    pub service: String,
    /// Its service's id.
    pub service_id: Id,
    /// From 1 to the number of replicas.
    pub slot: u32,
    /// How it runs.
    pub spec: TaskSpec,
    /// Where it runs.
    pub node: Option<NodeId>,
    /// Its node's name. Filled in when answered.
    pub node_name: String,
    /// Its addresses in its network.
    pub addresses: Vec<IpAddr>,
    /// What the cluster wants of it.
    pub desired: DesiredState,
    /// What was last observed of it.
    pub status: TaskStatus,
    /// Its number in a row of restarts; 0 is the first.
    pub attempt: u32,
    /// Not to be started before this (back-off).
    pub not_before: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_read_as_docker_reads_it() {
        let mount: Mount = "/srv/data:/data:ro".parse().unwrap();
        assert_eq!(
            mount,
            Mount {
                source: MountSource::Bind("/srv/data".into()),
                target: "/data".into(),
                read_only: true
            }
        );
        assert_eq!(
            "db:/var/lib".parse::<Mount>().unwrap().source,
            MountSource::Volume("db".into())
        );
        for bad in ["", "/a", "/a:b", "/a:/b:x", "a:/", "A:/b"] {
            assert!(bad.parse::<Mount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_running_tasks_that_are_not_known_to_be_ill_serve() {
        let status = |state, health: Option<HealthState>| TaskStatus {
            state,
            health: health.map(|state| Health {
                state,
                ..Health::default()
            }),
            ..TaskStatus::default()
        };
        assert!(status(TaskState::Running, None).serves());
        assert!(status(TaskState::Running, Some(HealthState::Healthy)).serves());
        assert!(!status(TaskState::Running, Some(HealthState::Starting)).serves());
        assert!(!status(TaskState::Running, Some(HealthState::Unhealthy)).serves());
        assert!(!status(TaskState::Starting, Some(HealthState::Healthy)).serves());
    }

    #[test]
    fn only_ended_tasks_are_final() {
        assert!(!TaskState::Running.is_final());
        assert!(TaskState::Complete.is_final() && !TaskState::Complete.is_failure());
        assert!(!TaskState::Shutdown.is_failure() && TaskState::Lost.is_failure());
    }
}
