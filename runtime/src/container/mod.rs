//! One container, from an OCI runtime spec to a process. Runs in the shim, synchronous; must not know of tasks or images.
//!
//! `create` makes everything up to the program itself and leaves the process waiting; `Created::start` lets it go;
//! `exec` runs a further process inside. One module per section of the specification.

mod cgroup;
mod seccomp;

use crate::Result;
use oci_spec::runtime::{Process, Spec};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

pub use cgroup::{Cgroup, CgroupStats};
pub use seccomp::{default_seccomp, default_seccomp_for};
pub use swarm_api::backend::WindowSize;

/// Where the container's root file system comes from.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// A directory of the host (the spec's `root.path`, resolved), used as it is.
    Path(PathBuf),
    /// Layers.
    Overlay {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// What the container writes.
        upper: PathBuf,
        /// Overlayfs' own, on the file system of `upper`, empty.
        work: PathBuf,
    },
}

/// A process's standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// Those of the caller.
    Inherit,
    /// These.
    Fds {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A new terminal of the container.
    Terminal {
        /// Its first size.
        size: Option<WindowSize>,
    },
}

/// What `create` needs.
#[derive(Debug)]
pub struct Setup {
    /// The container's name: for hooks, messages, and the cgroup where the spec names none.
    pub id: String,
    /// The OCI runtime spec.
    pub spec: Spec,
    /// The directory the spec belongs to: hooks get it; relative sources of bind mounts start there.
    pub bundle: PathBuf,
    /// The root file system.
    pub rootfs: Rootfs,
    /// The first process's streams.
    pub stdio: Stdio,
}

/// A container whose process waits for `start`, or was started.
#[derive(Debug)]
pub struct Created {
    pid: i32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    cgroup: Cgroup,
}

/// A running container, for `exec`.
#[derive(Debug, Clone, Copy)]
pub struct ExecTarget<'a> {
    /// Its first process, in the host's pid namespace.
    pub pid: i32,
    /// Its spec.
    pub spec: &'a Spec,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
}

/// A further process of a container. It is a child of the caller, who must wait for it.
#[derive(Debug)]
pub struct Executed {
    /// In the host's pid namespace.
    pub pid: i32,
    /// The same, safe against reuse of the number.
    pub pidfd: OwnedFd,
    /// The terminal's master side, where one was asked for.
    pub terminal: Option<OwnedFd>,
}

/// Makes the container: namespaces, mounts, cgroup; its process waits before the program is run.
pub fn create(_setup: Setup) -> Result<Created> {
    Err(crate::Error::Internal("being built".to_owned()))
}

impl Created {
    /// The process, in the host's pid namespace. It is a child of the caller, who must wait for it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The same, safe against reuse of the number.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The terminal's master side, once, where the process has one.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The process's network namespace.
    pub fn netns(&self) -> Result<OwnedFd> {
        Err(crate::Error::Internal("being built".to_owned()))
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Runs the program. Where it cannot be run the error names it.
    pub fn start(&mut self) -> Result<()> {
        Err(crate::Error::Internal("being built".to_owned()))
    }
}

/// Runs a further process in a running container. Returns once the program runs.
pub fn exec(_target: &ExecTarget<'_>, _process: &Process, _stdio: Stdio) -> Result<Executed> {
    Err(crate::Error::Internal("being built".to_owned()))
}

/// Runs the spec's `poststop` hooks, once everything of the container has gone. A failing hook does not keep
/// the others from running; the first failure is returned.
pub fn poststop(_spec: &Spec, _id: &str, _bundle: &std::path::Path) -> Result<()> {
    Err(crate::Error::Internal("being built".to_owned()))
}

/// A descriptor of the calling program's own file through a read-only mount of its own: a shim that is executed
/// from `/proc/self/fd/N` of it cannot be written to through its `/proc/PID/exe`, whoever gets hold of that (CVE-2019-5736).
pub fn readonly_self() -> Result<OwnedFd> {
    Err(crate::Error::Internal("being built".to_owned()))
}
