//! New processes in namespaces and cgroups, children of the caller, with a channel to them. Must not know what they do.

use super::{
    cgroup::Entrance,
    channel::{self, Channel, Word},
    sys::{self, Forked},
    vfork,
};
use crate::{Error, Result};
use nix::{sys::wait::waitpid, unistd::Pid};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

/// A process that has only just begun. Dropped without `keep` it is killed and waited for.
#[derive(Debug)]
pub(super) struct Child {
    pid: i32,
    pidfd: Option<OwnedFd>,
    channel: Option<Channel>,
}

impl Child {
    /// Its number here.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// The way to it.
    pub(super) fn channel(&self) -> Result<&Channel> {
        self.channel
            .as_ref()
            .ok_or_else(|| Error::Internal("the process was given away already".to_owned()))
    }

    /// It is the caller's from now on: number, descriptor, channel.
    /// There is no channel where it runs its program already.
    pub(super) fn keep(mut self) -> Result<(i32, OwnedFd, Option<Channel>)> {
        match self.pidfd.take() {
            Some(pidfd) => Ok((self.pid, pidfd, self.channel.take())),
            None => Err(Error::Internal(
                "the process was given away already".to_owned(),
            )),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
            wait(self.pid);
        }
    }
}

/// Starts a process with new namespaces in a cgroup. It is a copy of the caller, which must be single-threaded, and runs `main`.
pub(super) fn spawn(
    flags: u64,
    entrance: &Entrance,
    main: impl FnOnce(&Channel) -> Error,
) -> Result<Child> {
    let (ours, theirs) = channel::pair()?;
    match fork_into(flags, entrance)? {
        (Forked::Parent { pid, pidfd }, _) => Ok(Child {
            pid,
            pidfd: Some(pidfd),
            channel: Some(ours),
        }),
        (Forked::Child, inside) => {
            drop(ours);
            let error = match enter(entrance, inside) {
                Ok(()) => main(&theirs),
                Err(error) => error,
            };
            fail(&theirs, error)
        }
    }
}

/// The same without a channel, for a process that needs nothing of the caller any more: it uses the caller's memory until it runs its
/// program, and the caller sleeps until then (see `vfork`). `prepare` gets its number here; `run` is its last step and returns only
/// what failed. `None`: this kernel does not have it.
pub(super) fn spawn_at_once(
    flags: u64,
    entrance: &Entrance,
    mut prepare: impl FnMut(i32) -> Result<()>,
    run: impl Fn() -> Error,
) -> Result<Option<Child>> {
    let mut failure = None;
    // Atomic, so that it is written where it stands: `run` does not come back where all is well.
    let prepared = AtomicBool::new(false);
    let inside = entrance.directory.is_some();
    let mut main = |pid| {
        failure = Some(match enter(entrance, inside).and_then(|()| prepare(pid)) {
            Ok(()) => {
                prepared.store(true, Ordering::SeqCst);
                run()
            }
            Err(error) => error,
        });
    };
    let cgroup = entrance.directory.as_ref().map(AsFd::as_fd);
    let (pid, pidfd) = match vfork::vfork(flags, cgroup, &mut main) {
        Ok(child) => child,
        Err(e) if is_old(&e) || e.raw_os_error() == Some(libc::EACCES) => return Ok(None),
        Err(e) => return Err(failed(&e, flags)),
    };
    if failure.is_none() && !prepared.load(Ordering::SeqCst) {
        failure = Some(Error::Internal(
            "the container's process has ended before its work was done".to_owned(),
        ));
    }
    if let Some(error) = failure {
        wait(pid);
        return Err(error);
    }
    Ok(Some(Child {
        pid,
        pidfd: Some(pidfd),
        channel: None,
    }))
}

/// The same through a process in between that first does `between` (joins namespaces that only its children can be in); the new process
/// is the caller's child nevertheless.
pub(super) fn spawn_through(
    between: impl FnOnce() -> Result<()>,
    flags: u64,
    entrance: &Entrance,
    main: impl FnOnce(&Channel) -> Error,
) -> Result<Child> {
    let (ours, theirs) = channel::pair()?;
    let (mut ours, mut theirs) = (Some(ours), Some(theirs));
    let first = spawn(0, entrance, |channel| {
        // In this copy of the process; the caller keeps its own.
        drop(ours.take());
        let forked = between().and_then(|()| fork_sibling(flags));
        match forked {
            Ok(Forked::Parent { pid, .. }) => {
                let _ = channel.send(&Word::Pid(pid));
                sys::exit(0)
            }
            Ok(Forked::Child) => match theirs.take() {
                Some(theirs) => {
                    let error = main(&theirs);
                    fail(&theirs, error)
                }
                None => sys::exit(1),
            },
            Err(error) => error,
        }
    })?;
    drop(theirs);
    let pid = match first.channel()?.recv()? {
        Word::Pid(pid) => pid,
        Word::Failed(error) => return Err(error),
        _ => {
            return Err(Error::Internal(
                "the process between the runtime and the container ended without a word".to_owned(),
            ));
        }
    };
    // It has said all and ends by itself.
    let (first, _, _) = first.keep()?;
    wait(first);
    // A child that nobody has waited for keeps its number.
    let pidfd = rustix::process::Pid::from_raw(pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|e| Error::io(format!("open process {pid}"), e))?;
    Ok(Child {
        pid,
        pidfd: Some(pidfd),
        channel: ours.take(),
    })
}

/// Waits for a child to end.
pub(super) fn wait(pid: i32) {
    while matches!(
        waitpid(Pid::from_raw(pid), None),
        Err(nix::errno::Errno::EINTR)
    ) {}
}

/// Tells what failed, and ends this process.
pub(super) fn fail(channel: &Channel, error: Error) -> ! {
    let _ = channel.send(&Word::Failed(error));
    sys::exit(127)
}

/// Forks; true if the child is in the v2 cgroup from the start.
fn fork_into(flags: u64, entrance: &Entrance) -> Result<(Forked, bool)> {
    if let Some(directory) = &entrance.directory {
        match sys::clone3(flags, false, Some(directory.as_fd())) {
            Ok(forked) => return Ok((forked, true)),
            // No clone3 (ENOSYS), no clone into a cgroup (E2BIG, EINVAL), or not here: the process moves itself.
            Err(e) if is_old(&e) || e.raw_os_error() == Some(libc::EACCES) => {}
            Err(e) => return Err(failed(&e, flags)),
        }
    }
    match sys::clone3(flags, false, None) {
        Ok(forked) => Ok((forked, false)),
        Err(e) if is_old(&e) => sys::clone(flags, false)
            .map(|forked| (forked, false))
            .map_err(|e| failed(&e, flags)),
        Err(e) => Err(failed(&e, flags)),
    }
}

fn fork_sibling(flags: u64) -> Result<Forked> {
    match sys::clone3(flags, true, None) {
        Err(e) if is_old(&e) => sys::clone(flags, true).map_err(|e| failed(&e, flags)),
        other => other.map_err(|e| failed(&e, flags)),
    }
}

fn is_old(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENOSYS | libc::E2BIG | libc::EINVAL)
    )
}

fn failed(e: &io::Error, flags: u64) -> Error {
    let hint = match e.raw_os_error() {
        Some(libc::EAGAIN) => " (the cgroup's or the host's limit of processes is reached)",
        Some(libc::ENOSPC) => " (the host's limit of namespaces is reached: /proc/sys/user)",
        Some(libc::EPERM) => " (the runtime must be root)",
        _ => "",
    };
    Error::io(
        format!("start the container's process with namespaces {flags:#x}{hint}"),
        io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO)),
    )
}

/// Goes into the cgroup.
fn enter(entrance: &Entrance, inside: bool) -> Result<()> {
    let procs = entrance.procs.iter().filter(|_| !inside);
    for file in entrance.tasks.iter().chain(procs) {
        rustix::io::write(file, b"0")
            .map_err(|e| Error::io("go into the container's cgroup", e))?;
    }
    Ok(())
}
