//! One container, from an OCI runtime spec to a process. Runs in the shim, synchronous; must not know of tasks or images.
//!
//! `create` makes everything up to the program itself and leaves the process waiting; `Created::start` lets it go;
//! `exec` runs a further process inside. One module per section of the specification.

mod caps;
mod cgroup;
mod channel;
mod create;
mod exec;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hooks;
mod idmap;
mod init;
mod mounts;
mod netdevices;
mod plan;
mod process;
pub mod rootless;
mod scheduling;
mod seccomp;
mod spawn;
mod sys;
mod terminal;
mod vfork;

use crate::{Error, Result};
use channel::{Channel, Word};
use hooks::{About, Moment};
use oci_spec::runtime::{Process, Spec};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

pub use cgroup::{
    Amount, Cgroup, CgroupStats, CpuFigures, Figures, IoFigures, Manager, MemoryFigures, OomEvents,
    Pressure, Stall, Unit, delegated,
};
pub(crate) use mounts::{BindMount, stopped_root};
pub use seccomp::{default_seccomp, default_seccomp_for};
pub use swarm_api::backend::WindowSize;

/// Where the container's root file system comes from.
#[derive(Debug, Clone)]
pub enum Rootfs {
    /// A directory of the host (the spec's `root.path`, resolved), used as it is.
    Path(PathBuf),
    /// Layers. What the container writes is not forced to the disk (overlayfs' `volatile`, also against its own fsync): it
    /// ends with the container, and a power cut ends that too. What must last belongs into a bind mount.
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

/// What more `create_with` and `exec_with` are asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// A socket made by `gate`: the container's process waits there for `start_at`, so that whoever created it may end before.
    pub gate: Option<OwnedFd>,
    /// How many descriptors after the standard streams the program gets as they are. They must be open already.
    pub preserve_fds: u32,
    /// The container gets a session keyring of its own.
    pub session_keyring: bool,
    /// The program runs as soon as it can, where nothing is to be done before by the caller; `Created::start` is to be called nevertheless.
    /// `born` is called in the container's process then.
    pub at_once: bool,
    /// The cgroup is that of this unit, which systemd is asked to make, and not the one that the spec names.
    pub unit: Option<Unit>,
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
    channel: Option<Channel>,
    /// Its program runs already (`Options::at_once`), but for the `poststart` hooks nothing is left to do.
    started: bool,
    hooks: Option<oci_spec::runtime::Hooks>,
    about: About,
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

/// Makes the container: namespaces, mounts, cgroup; its process waits before the program is run. If this fails nothing is left.
///
/// The caller must be single-threaded: the process starts as a copy of it.
pub fn create(setup: Setup) -> Result<Created> {
    create::create(&setup, &Options::default(), |_, _| Ok(()))
}

/// The same, with more asked for. With a gate `Created::start` is not to be used. `born` is called with the number of the container's process
/// and its cgroup while that process is still at work; where it fails, all fails.
pub fn create_with(
    setup: &Setup,
    options: &Options,
    born: impl FnOnce(i32, &Cgroup) -> Result<()>,
) -> Result<Created> {
    create::create(setup, options, born)
}

/// A socket at a new path (at most some 100 bytes long) for `Options::gate`.
pub fn gate(path: &Path) -> Result<OwnedFd> {
    channel::gate(path)
}

/// Starts the container whose process waits at the gate with this path, and runs the `poststart` hooks. See `Created::start`.
pub fn start_at(gate: &Path, spec: &Spec, id: &str, bundle: &Path, pid: i32) -> Result<()> {
    let channel = Channel::connect(gate)?.ok_or_else(|| {
        Error::Conflict(format!(
            "the container {id} cannot be started: its process has ended"
        ))
    })?;
    let about = About::new(id, bundle, spec);
    start(&channel, spec.hooks().as_ref(), &about, pid)
}

impl Created {
    /// The process, in the host's pid namespace. It is a child of the caller, who must wait for it, also where `start` failed.
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
        create::namespace(self.pid, "net")
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Runs the program. Where it cannot be run the error names it, and the process ends. A failing `poststart` hook is an error too,
    /// with the program running on.
    pub fn start(&mut self) -> Result<()> {
        if std::mem::take(&mut self.started) {
            return poststart(self.hooks.as_ref(), &self.about, self.pid);
        }
        let channel = self.channel.take().ok_or_else(|| {
            Error::Conflict(format!(
                "the container {} was started already",
                self.about.id
            ))
        })?;
        start(&channel, self.hooks.as_ref(), &self.about, self.pid)
    }
}

fn start(
    channel: &Channel,
    hooks: Option<&oci_spec::runtime::Hooks>,
    about: &About,
    pid: i32,
) -> Result<()> {
    // Whoever has gone left its last word.
    let sent = channel.send(&Word::Go);
    match channel.recv()? {
        Word::Gone => sent?,
        Word::Failed(error) => return Err(error),
        _ => {
            return Err(Error::Internal(
                "an unexpected word of the container's process".to_owned(),
            ));
        }
    }
    poststart(hooks, about, pid)
}

fn poststart(hooks: Option<&oci_spec::runtime::Hooks>, about: &About, pid: i32) -> Result<()> {
    hooks::run(hooks, Moment::Poststart, about, Some(pid))
}

/// Runs a further process in a running container. Returns once the program runs; where it cannot be run the error names it.
///
/// The caller must be single-threaded: the process starts as a copy of it.
pub fn exec(target: &ExecTarget<'_>, process: &Process, stdio: Stdio) -> Result<Executed> {
    exec::exec(target, process, &stdio, &Options::default())
}

/// The same, with more asked for (a gate is not).
pub fn exec_with(
    target: &ExecTarget<'_>,
    process: &Process,
    stdio: &Stdio,
    options: &Options,
) -> Result<Executed> {
    exec::exec(target, process, stdio, options)
}

/// Runs the spec's `poststop` hooks, once everything of the container has gone. A failing hook does not keep
/// the others from running; the first failure is returned.
pub fn poststop(spec: &Spec, id: &str, bundle: &Path) -> Result<()> {
    hooks::run(
        spec.hooks().as_ref(),
        Moment::Poststop,
        &About::new(id, bundle, spec),
        None,
    )
}

/// A descriptor of the calling program's own file through a read-only mount of its own: a shim that is executed from
/// `/proc/self/fd/N` of it cannot be written to through its `/proc/PID/exe`, whoever gets hold of that (CVE-2019-5736).
///
/// The container's processes are copies of the shim until they run their program. In that time they are not dumpable, so that processes
/// of the container that have no CAP_SYS_PTRACE over them cannot reach `/proc/PID/exe`; a container that names its `/proc/self/exe` as
/// program, or as a script's interpreter, is refused. This is the last line: the file itself cannot be written.
pub fn readonly_self() -> Result<OwnedFd> {
    mounts::readonly_file(Path::new("/proc/self/exe"))
}
