//! A further process in a running container: the same namespaces, cgroup, and attributes as the spec gives.

use super::{
    ExecTarget, Executed, Options, Stdio,
    channel::{Channel, Word},
    init, plan, process, scheduling, spawn, sys,
};
use crate::{Error, Result};
use oci_spec::runtime::Process;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd;

/// See `container::exec`.
pub(super) fn exec(
    target: &ExecTarget<'_>,
    process: &Process,
    stdio: &Stdio,
    options: &Options,
) -> Result<Executed> {
    let mut plan = process::Plan::new(process, target.spec)?;
    plan.preserve(options.preserve_fds);
    if plan.has_listener() {
        return Err(Error::Unsupported(
            "a further process of a container whose seccomp filter asks a listener (SCMP_ACT_NOTIFY) is not supported"
                .to_owned(),
        ));
    }
    if process.exec_cpu_affinity().is_none() {
        let first = target.spec.process().as_ref();
        let affinity = first.and_then(|first| first.exec_cpu_affinity().as_ref());
        plan.affinity = scheduling::Affinity::new(affinity)?;
    }
    let kinds = plan::kinds(target.spec);
    let entrance = target
        .cgroup
        .entrance_beside(target.pid)
        .map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::Conflict(
                    "the container does not run any more: its cgroup is gone".to_owned(),
                )
            }
            other => other,
        })?;
    let init = Pid::from_raw(target.pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|_| Error::Conflict("the container does not run any more".to_owned()))?;
    let join = || {
        init::begin()?;
        sys::setns(init.as_fd(), kinds).map_err(|e| match e.raw_os_error() {
            Some(libc::ESRCH) => Error::Conflict("the container does not run any more".to_owned()),
            _ => Error::io("join the container's namespaces", e),
        })
    };
    let child = scheduling::on(plan.affinity.initial.as_deref(), || {
        spawn::spawn_through(join, 0, &entrance, |channel| main(channel, &plan, stdio))
    })?;
    let terminal = child.channel()?.wait()?;
    plan.limit(child.pid())?;
    child.channel()?.send(&Word::Go)?;
    match child.channel()?.recv()? {
        Word::Gone => {}
        Word::Failed(error) => return Err(error),
        _ => {
            return Err(Error::Internal(
                "an unexpected word of the new process".to_owned(),
            ));
        }
    }
    let (pid, pidfd, _) = child.keep()?;
    Ok(Executed {
        pid,
        pidfd,
        terminal,
    })
}

/// Runs as the new process, in the container; returns only what failed.
fn main(channel: &Channel, plan: &process::Plan, stdio: &Stdio) -> Error {
    let made = init::begin()
        .and_then(|()| {
            let last = plan.affinity.last.as_deref();
            last.map_or(Ok(()), scheduling::place)
        })
        .and_then(|()| init::streams(stdio, plan.uid))
        .and_then(|()| init::console(stdio, plan.uid, false))
        .and_then(|master| channel.send(&Word::Done(master)))
        .and_then(|()| channel.wait());
    match made {
        Ok(_) => plan.exec(),
        Err(error) => error,
    }
}
