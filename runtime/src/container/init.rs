//! The container's first process from its birth to its program. Everything here runs in the new process; what fails goes to the parent.

use super::{
    Stdio,
    channel::{Channel, Word},
    hooks::{self, About, Moment},
    mounts,
    plan::Plan,
    process, spawn, sys, terminal,
};
use crate::{Error, Result};
use oci_spec::runtime::{ContainerState, Hooks};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the parent made ready.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) mounts: &'a mounts::Plan,
    pub(super) prepared: &'a mounts::Prepared,
    /// The root's mount, attached nowhere yet.
    pub(super) root: &'a OwnedFd,
    /// A mount namespace to join.
    pub(super) mount_namespace: Option<&'a OwnedFd>,
    pub(super) stdio: &'a Stdio,
    pub(super) hooks: Option<&'a Hooks>,
    pub(super) about: &'a About,
    /// Where the process waits for its start, if not at the channel to its parent.
    pub(super) gate: Option<&'a OwnedFd>,
    /// The process gets a session keyring of its own.
    pub(super) keyring: bool,
}

/// Whether the parent must run hooks before the root is changed.
pub(super) fn parent_has_hooks(hooks: Option<&Hooks>) -> bool {
    !Moment::Prestart.of(hooks).is_empty() || !Moment::CreateRuntime.of(hooks).is_empty()
}

/// Runs as the new process; returns only what failed.
pub(super) fn main(channel: &Channel, context: &Context<'_>) -> Error {
    if let Err(error) =
        build(Some(channel), context).and_then(|master| channel.send(&Word::Done(master)))
    {
        return error;
    }
    let Some(gate) = context.gate else {
        return match channel.wait() {
            Ok(_) => go(context),
            Err(error) => error,
        };
    };
    // Whoever made the container goes now; somebody else comes to start it.
    loop {
        match Channel::accept(gate) {
            Ok(starter) => {
                if starter.wait().is_ok() {
                    spawn::fail(&starter, go(context))
                }
            }
            Err(error) => return error,
        }
    }
}

/// Whether the process can do all by itself, in the parent's memory: nobody else can be in its pid namespace and look into that, and
/// neither a hook nor a map, a terminal or a network device is to be handled by the parent before the program runs.
pub(super) fn can_go_alone(plan: &Plan, stdio: &Stdio, hooks: Option<&Hooks>) -> bool {
    let moments = [
        Moment::Prestart,
        Moment::CreateRuntime,
        Moment::CreateContainer,
        Moment::StartContainer,
    ];
    plan.new & libc::CLONE_NEWPID as u64 != 0
        && !plan.user
        && plan.time_offsets.is_none()
        && plan.net_devices.is_empty()
        && !plan.process.has_listener()
        && !matches!(stdio, Stdio::Terminal { .. })
        && moments.iter().all(|moment| moment.of(hooks).is_empty())
}

/// The same as `main` for a process that does all by itself, up to `go`. `pid`: its number on the host. `born` is called first.
pub(super) fn prepare_alone(
    pid: i32,
    context: &Context<'_>,
    born: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // The host's files are still here.
    born()?;
    context.plan.process.score(pid)?;
    build(None, context)?;
    context.plan.process.bound(0)
}

/// Runs the program. Returns only what failed.
pub(super) fn go(context: &Context<'_>) -> Error {
    if let Err(error) = hooks::run(
        context.hooks,
        Moment::StartContainer,
        context.about,
        Some(1),
    ) {
        return error;
    }
    context.plan.process.exec()
}

/// Makes everything up to the program; returns the terminal's master side, where there is one. `channel`: to a parent that has a part in it.
fn build(channel: Option<&Channel>, context: &Context<'_>) -> Result<Option<OwnedFd>> {
    let wait = || channel.map_or(Ok(()), |channel| channel.wait().map(drop));
    let plan = context.plan;
    if plan.process.has_listener() {
        // The host's procfs is still here, and tells the number that the host has for this process.
        let pid = std::fs::read_link("/proc/self")
            .ok()
            .and_then(|link| link.to_str()?.parse().ok())
            .unwrap_or(0);
        let state = context.about.state(ContainerState::Creating, Some(pid));
        plan.process
            .tell_listener(&context.about.version, &state, pid);
    }
    begin()?;
    if plan.user {
        if plan.maps.is_some() {
            wait()?;
        }
        become_root()?;
    }
    if plan.new_cgroup {
        sys::unshare(libc::CLONE_NEWCGROUP as u64)
            .map_err(|e| Error::io("make a cgroup namespace", e))?;
    }
    if let Some(namespace) = context.mount_namespace {
        sys::setns(namespace.as_fd(), libc::CLONE_NEWNS as u64)
            .map_err(|e| Error::io("join the mount namespace", e))?;
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|e| Error::io(format!("set the hostname {name}"), e))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|e| Error::io(format!("set the domainname {name}"), e))?;
    }
    streams(context.stdio, plan.process.uid)?;
    mounts::detach_host()?;
    mounts::build(
        context.root,
        context.mounts,
        context.prepared,
        &plan.process.cwd,
    )?;
    if parent_has_hooks(context.hooks) {
        channel.map_or(Ok(()), |channel| channel.send(&Word::Done(None)))?;
        wait()?;
    }
    hooks::run(
        context.hooks,
        Moment::CreateContainer,
        context.about,
        Some(1),
    )?;
    mounts::finish(context.root, context.mounts)?;
    mounts::proc_files(&plan.sysctl)?;
    if context.keyring {
        sys::new_session_keyring(&context.about.id)?;
    }
    let master = console(context.stdio, plan.process.uid, true)?;
    if context.gate.is_some() {
        // Whoever creates a container wants to hear of this now, not at its start.
        plan.process.look_for_program()?;
    }
    Ok(master)
}

/// What every process of a container does first. It is still a copy of the runtime: until it runs its program nobody in the container may look
/// into it or get hold of the runtime's program through it (CVE-2019-5736), so it is not dumpable.
pub(super) fn begin() -> Result<()> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)
        .map_err(|e| Error::io("make the process private", e))?;
    sys::reset_signals();
    // It may lead a session already.
    let _ = rustix::process::setsid();
    sys::umask(0);
    Ok(())
}

/// Root of the user namespace, where it has one.
fn become_root() -> Result<()> {
    let set = sys::set_groups(&[])
        .and_then(|()| sys::set_gid(0))
        .and_then(|()| sys::set_uid(0));
    match set {
        // Root is not mapped: it does what it may as it is.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => Ok(()),
        other => other.map_err(|e| Error::io("become root of the user namespace", e)),
    }
}

/// Puts given streams in place.
pub(super) fn streams(stdio: &Stdio, uid: u32) -> Result<()> {
    let Stdio::Fds {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        if matches!(stdio, Stdio::Inherit) {
            process::own_streams(uid);
        }
        return Ok(());
    };
    // Copies first: one of them may be where another one goes.
    let copies = [stdin, stdout, stderr].map(|fd| {
        rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|e| Error::io("copy a standard stream", e))
    });
    for (at, copy) in (0..).zip(copies) {
        sys::place(copy?.as_fd(), at)
            .map_err(|e| Error::io("put a standard stream in place", e))?;
    }
    process::own_streams(uid);
    Ok(())
}

/// Makes the terminal, where one is asked for; returns the master side.
pub(super) fn console(stdio: &Stdio, uid: u32, first: bool) -> Result<Option<OwnedFd>> {
    let Stdio::Terminal { size } = stdio else {
        return Ok(None);
    };
    let pair = terminal::make(*size)?;
    let slave: BorrowedFd<'_> = pair.slave.as_fd();
    if first {
        mounts::console(slave)?;
    }
    terminal::take(slave)?;
    process::own_streams(uid);
    Ok(Some(pair.master))
}
