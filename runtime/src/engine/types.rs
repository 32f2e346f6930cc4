//! What the engine is given and what it tells. No logic beyond the names.

use crate::Result;
use crate::container::{Cgroup, CgroupStats, Stall};
use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf};
use swarm_api::backend::{Pressure, Pressures};
use swarm_api::model::{ExitStatus, Timestamp};

/// Where the engine keeps its containers and how it starts their shims.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// One directory per container that lasts: spec, log, upper directory, exit record.
    pub state_dir: PathBuf,
    /// One directory per container for its shim's socket. May be on tmpfs.
    pub run_dir: PathBuf,
    /// Program and arguments, to which `--dir DIR` is appended: `/proc/self/exe shim`.
    pub shim: Vec<OsString>,
}

/// What a container uses, and what it suffers from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// What it uses.
    pub used: CgroupStats,
    /// Processes that the kernel has killed for memory, where it counts them.
    pub oom_kills: u64,
    /// What its processes wait for, where the kernel tells.
    pub pressure: Option<Pressures>,
}

impl Usage {
    pub(super) fn of(cgroup: &Cgroup) -> Result<Self> {
        let pressure = |resource| -> Result<Option<Pressure>> {
            let found = cgroup.pressure(resource)?;
            Ok(found.map(|p| Pressure {
                some: hundredths(p.some),
                full: hundredths(p.full),
            }))
        };
        let pressures = (pressure("cpu")?, pressure("memory")?, pressure("io")?);
        Ok(Self {
            used: cgroup.stats()?,
            oom_kills: cgroup.oom_kills().unwrap_or_default(),
            pressure: match pressures {
                (Some(cpu), Some(memory), Some(io)) => Some(Pressures { cpu, memory, io }),
                _ => None,
            },
        })
    }
}

/// Of the last 10 seconds, in hundredths of a percent.
fn hundredths(stall: Stall) -> u32 {
    let share = (stall.avg10 * 100.0).round().clamp(0.0, 10_000.0);
    // In that range it fits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let share = share as u32;
    share
}

/// A container whose process waits to be started.
#[derive(Debug)]
pub struct CreatedContainer {
    /// The process, in the host's pid namespace.
    pub pid: i32,
    /// Its network namespace.
    pub netns: OwnedFd,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Its process waits to be started.
    Created {
        /// The process, in the host's pid namespace.
        pid: i32,
    },
    /// Its process runs.
    Running {
        /// The process, in the host's pid namespace.
        pid: i32,
        /// Since when.
        started_at: Timestamp,
    },
    /// Nothing of it runs.
    Stopped {
        /// How its first process ended.
        exit: ExitStatus,
        /// When it was started, if it was.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// For people: why, where the exit status alone does not say it; else empty.
        message: String,
    },
}

impl ContainerState {
    /// Whether nothing of it runs any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped { .. })
    }

    /// Its first process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self {
            Self::Created { pid } | Self::Running { pid, .. } => Some(*pid),
            Self::Stopped { .. } => None,
        }
    }
}
