//! One container's keeper: a small process that owns its streams and exit status. Must not know of the agent that started it.
//!
//! The agent starts it with a connection as standard input and a listening socket as standard output. It makes
//! the container, tells so over the connection, and then serves whoever connects, until the container has ended,
//! its end is written down, and everybody was told. It has one thread and no runtime: it waits in `poll`.

mod client;
mod execs;
pub(crate) mod files;
mod keeper;
mod kernel;
pub mod launch;
pub(crate) mod log;
pub(crate) mod protocol;
mod signals;
mod streams;

use crate::container::{self, Rootfs, Setup};
use crate::{Error, Result};
use client::{Client, Role};
use keeper::Keeper;
use launch::Launch;
use log::LogWriter;
use protocol::{Failure, FromShim};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitCode,
};
use streams::Streams;

/// `swarmd shim --dir DIR`: keeps one container until it has ended. Call it before any thread is started.
pub fn shim_main(dir: &Path) -> ExitCode {
    match run(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is a file in the container's directory.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> Result<()> {
    kernel::close_inherited();
    let (control, listener) = take_descriptors()?;
    detach()?;
    let wake = signals::install()?;
    let mut control = Client::new(0, Role::Control, control);
    let keeper = make(dir).and_then(|made| Keeper::new(dir, made, wake, listener));
    match keeper {
        Ok(mut keeper) => {
            kernel::trim_memory();
            control.say(&FromShim::Opened(keeper.opened(None)));
            keeper.keep(control)
        }
        Err(error) => {
            control.say(&FromShim::Failed(Failure::from(&error)));
            Ok(())
        }
    }
}

/// What there is once the container is made.
struct Made {
    container: container::Created,
    streams: Streams,
    log: LogWriter,
}

fn make(dir: &Path) -> Result<Made> {
    let spec = read_spec(dir)?;
    let launch: Launch = files::read(&dir.join(files::LAUNCH))?
        .ok_or_else(|| Error::NotFound(format!("{} has no {}", dir.display(), files::LAUNCH)))?;
    let id = dir
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            Error::Invalid(format!(
                "{} does not end in a container's id",
                dir.display()
            ))
        })?
        .to_owned();
    let terminal = spec
        .process()
        .as_ref()
        .and_then(oci_spec::runtime::Process::terminal)
        == Some(true);
    let rootfs = if launch.lower.is_empty() {
        let root = spec.root().as_ref().map(|root| root.path().clone());
        let root = root.ok_or_else(|| {
            Error::Invalid(format!(
                "container {id} has neither layers nor a root.path in its spec"
            ))
        })?;
        Rootfs::Path(dir.join(root))
    } else {
        Rootfs::Overlay {
            lower: launch.lower,
            upper: dir.join(files::UPPER),
            work: dir.join(files::WORK),
        }
    };
    let log = LogWriter::new(dir, launch.log_max_bytes)?;
    let (stdio, mut streams) = Streams::new(terminal, launch.stdin, launch.size)?;
    let mut container = container::create(Setup {
        id,
        spec,
        bundle: dir.to_owned(),
        rootfs,
        stdio,
    })?;
    streams.adopt_console(container.take_terminal())?;
    Ok(Made {
        container,
        streams,
        log,
    })
}

fn read_spec(dir: &Path) -> Result<oci_spec::runtime::Spec> {
    let path: PathBuf = dir.join(files::SPEC);
    files::read(&path)?.ok_or_else(|| Error::NotFound(format!("there is no {}", path.display())))
}

/// The connection to the agent and the listening socket, out of the way of the standard streams.
fn take_descriptors() -> Result<(OwnedFd, OwnedFd)> {
    let take = |fd| -> Result<OwnedFd> {
        let taken = rustix::io::fcntl_dupfd_cloexec(fd, 3)
            .map_err(|e| Error::io("take over the agent's socket", e))?;
        rustix::net::sockopt::socket_type(&taken).map_err(|e| {
            Error::io(
                "use standard input and output as sockets (only an agent starts a shim)",
                e,
            )
        })?;
        rustix::io::ioctl_fionbio(&taken, true)
            .map_err(|e| Error::io("make the agent's socket non-blocking", e))?;
        Ok(taken)
    };
    let control = take(rustix::stdio::stdin())?;
    let listener = take(rustix::stdio::stdout())?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| Error::io("open /dev/null", e))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .map_err(|e| Error::io("put /dev/null in place of the standard streams", e))?;
    Ok((control, listener))
}

/// Out of the agent's session, so that what is meant for the agent's does not come here; parent to all that the
/// container leaves behind.
fn detach() -> Result<()> {
    rustix::process::setsid().map_err(|e| Error::io("begin a session of the shim's own", e))?;
    rustix::process::chdir("/").map_err(|e| Error::io("leave the agent's directory", e))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Error::io("become the parent of what the container leaves behind", e))?;
    rustix::thread::set_name(c"swarmd-shim").map_err(|e| Error::io("name the shim's process", e))
}
