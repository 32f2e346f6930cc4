//! The spec's hooks (OCI config, "POSIX-platform Hooks"): programs of the host that are told the container's state on standard input.

use crate::{Error, Result};
use oci_spec::runtime::{ContainerState, Hook, Hooks, Spec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{PidfdFlags, pidfd_open},
};
use std::{
    fs::File,
    io::{Seek, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What hooks are told of a container.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) version: String,
    pub(super) annotations: std::collections::HashMap<String, String>,
}

impl About {
    pub(super) fn new(id: &str, bundle: &Path, spec: &Spec) -> Self {
        Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            version: spec.version().clone(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        }
    }

    pub(super) fn state(&self, status: ContainerState, pid: Option<i32>) -> String {
        serde_json::json!({
            "ociVersion": self.version,
            "id": self.id,
            "status": status.to_string(),
            "pid": pid.unwrap_or(0),
            "bundle": self.bundle,
            "annotations": self.annotations,
        })
        .to_string()
    }
}

/// A moment at which hooks run, in the order of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Moment {
    /// This moment's hooks.
    pub(super) fn of(self, hooks: Option<&Hooks>) -> &[Hook] {
        // `prestart` is deprecated, but still in use.
        #[allow(deprecated)]
        let list = hooks.and_then(|hooks| match self {
            Self::Prestart => hooks.prestart().as_deref(),
            Self::CreateRuntime => hooks.create_runtime().as_deref(),
            Self::CreateContainer => hooks.create_container().as_deref(),
            Self::StartContainer => hooks.start_container().as_deref(),
            Self::Poststart => hooks.poststart().as_deref(),
            Self::Poststop => hooks.poststop().as_deref(),
        });
        list.unwrap_or_default()
    }

    fn status(self) -> ContainerState {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => {
                ContainerState::Creating
            }
            Self::StartContainer => ContainerState::Created,
            Self::Poststart => ContainerState::Running,
            Self::Poststop => ContainerState::Stopped,
        }
    }
}

/// Runs a moment's hooks, one after the other. Before the program runs the first failure ends it; afterwards all are run, and the first
/// failure is told.
pub(super) fn run(
    hooks: Option<&Hooks>,
    moment: Moment,
    about: &About,
    pid: Option<i32>,
) -> Result<()> {
    let list = moment.of(hooks);
    if list.is_empty() {
        return Ok(());
    }
    let state = about.state(moment.status(), pid);
    let all = matches!(moment, Moment::Poststart | Moment::Poststop);
    let mut first = Ok(());
    for hook in list {
        let result = run_one(hook, &state);
        if result.is_err() && !all {
            return result;
        }
        first = first.and(result);
    }
    first
}

fn run_one(hook: &Hook, state: &str) -> Result<()> {
    let name = hook.path().display().to_string();
    let failed = |e: std::io::Error| Error::io(format!("run the hook {name}"), e);
    if !hook.path().is_absolute() {
        return Err(Error::Invalid(format!(
            "the path of the hook {name} must be absolute"
        )));
    }
    // A file and not a pipe: the hook need not read it.
    let mut input =
        File::from(memfd_create("state", MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?);
    input
        .write_all(state.as_bytes())
        .and_then(|()| input.rewind())
        .map_err(failed)?;
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = hook.args().as_deref().unwrap_or_default().split_first() {
        command.arg0(first).args(rest);
    }
    let env = hook.env().as_deref().unwrap_or_default();
    let mut child = command
        .env_clear()
        .envs(env.iter().filter_map(|line| line.split_once('=')))
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(seconds) = hook.timeout() {
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if !ended_within(child.id(), limit).map_err(failed)? {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Conflict(format!(
                "the hook {name} was ended: it took longer than {seconds} s"
            )));
        }
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Conflict(format!("the hook {name} failed: {status}")))
    }
}

fn ended_within(pid: u32, limit: Duration) -> std::io::Result<bool> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or(rustix::io::Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let end = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
