//! Control groups.
use crate::{Error, Result};
use std::path::Path;

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CgroupStats {
    /// CPU time used since its creation, nanoseconds.
    pub cpu_ns: u64,
    /// Memory in use without page cache that can be dropped, bytes.
    pub memory: u64,
    /// The memory limit, bytes; none if unlimited.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
}

/// One container's control group, in all hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {}

impl Cgroup {
    /// That of a container made earlier. `path` is the spec's `cgroupsPath`, relative to the hierarchy's root.
    pub fn open(_path: &Path) -> Result<Self> {
        Err(Error::Internal("being built".to_owned()))
    }
    /// What it uses now.
    pub fn stats(&self) -> Result<CgroupStats> {
        Err(Error::Internal("being built".to_owned()))
    }
    /// How many of its processes were killed for lack of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        Ok(0)
    }
    /// Sends a signal to all its processes.
    pub fn signal_all(&self, _signal: i32) -> Result<()> {
        Ok(())
    }
    /// Stops all its processes from running.
    pub fn freeze(&self) -> Result<()> {
        Ok(())
    }
    /// Lets them run again.
    pub fn thaw(&self) -> Result<()> {
        Ok(())
    }
    /// Removes it; no error if it is not there. Its processes must have been killed.
    pub fn remove(&self) -> Result<()> {
        Ok(())
    }
}
