//! Starts a shim: its container's directories and files, its sockets, its process.

use super::connection::{self, Reader, Writer, socket_path};
use super::quota;
use super::types::EngineConfig;
use super::{cleanup, recover::Order};
use crate::container;
use crate::shim::files;
use crate::shim::launch::Launch;
use crate::shim::protocol::{Opened, Phase};
use crate::{Error, Result};
use oci_spec::runtime::Spec;
use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::fs::DirBuilderExt,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::{Child, Command};

/// The running program's own file, also when that was replaced.
const OWN: &str = "/proc/self/exe";

/// A shim that has made its container.
pub(super) struct Spawned {
    pub(super) opened: Opened,
    pub(super) pid: i32,
    pub(super) netns: OwnedFd,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) child: Child,
}

/// The agent's own file, read-only for whoever gets hold of it through the shim that runs from it
/// (CVE-2019-5736), where shims are started from that. An older kernel goes without.
pub(super) fn seal(config: &EngineConfig) -> Option<OwnedFd> {
    if config.shim.first().is_none_or(|program| program != OWN) {
        return None;
    }
    container::readonly_self()
        .inspect_err(
            |error| tracing::warn!(%error, "shims run from a file that could be written to"),
        )
        .ok()
}

/// What to start: program and arguments.
pub(super) fn program(config: &EngineConfig, sealed: Option<&OwnedFd>) -> Vec<OsString> {
    let mut program = config.shim.clone();
    if let (Some(sealed), Some(first)) = (sealed, program.first_mut()) {
        *first = format!("/proc/self/fd/{}", sealed.as_raw_fd()).into();
    }
    program
}

/// Starts a shim and waits until its container is made. Whatever fails, the directories are the caller's to
/// remove.
pub(super) async fn spawn(
    program: Vec<OsString>,
    dir: &Path,
    run: &Path,
    spec: &Spec,
    launch: Launch,
    boot: String,
) -> Result<Spawned> {
    let spec = serde_json::to_vec(spec).map_err(|e| {
        Error::Invalid(format!("the container's spec cannot be put into JSON: {e}"))
    })?;
    let directory = dir.to_owned();
    let run = run.to_owned();
    let (ours, mut child) = cleanup::blocking(move || {
        let order = Order {
            launch,
            boot: Some(boot),
        };
        write_files(&directory, &spec, &order)?;
        start(&program, &directory, &run)
    })
    .await?;
    let stream =
        tokio::net::UnixStream::from_std(ours).map_err(|e| Error::io("listen to a new shim", e))?;
    let (mut reader, writer) = connection::split(stream);
    let Some(opened) = reader.opened().await? else {
        return Err(silent_end(dir, &mut child).await);
    };
    let Phase::Created { pid } = opened.phase else {
        return Err(Error::Internal(
            "a new container was not in the state created".to_owned(),
        ));
    };
    let netns = File::open(format!("/proc/{pid}/ns/net"))
        .map_err(|e| Error::io(format!("open the network namespace of process {pid}"), e))?;
    Ok(Spawned {
        opened,
        pid,
        netns: netns.into(),
        reader,
        writer,
        child,
    })
}

fn write_files(dir: &Path, spec: &[u8], order: &Order) -> Result<()> {
    for path in [
        dir.to_owned(),
        dir.join(files::UPPER),
        dir.join(files::WORK),
    ] {
        make_dir(&path, if path == dir { 0o711 } else { 0o755 })?;
    }
    if let (Some(bytes), Some(others)) = (order.launch.storage, dir.parent()) {
        let dirs = [dir.join(files::UPPER), dir.join(files::WORK)];
        quota::limit(&[&dirs[0], &dirs[1]], bytes, others, files::UPPER)?;
    }
    let path = dir.join(files::SPEC);
    fs::write(&path, spec).map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    files::write(&dir.join(files::LAUNCH), order)
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(|e| Error::io(format!("make the directory {}", path.display()), e))
}

fn start(program: &[OsString], dir: &Path, run: &Path) -> Result<(UnixStream, Child)> {
    match make_dir(run, 0o700) {
        // What a container of that name left behind when the agent was killed: no shim is behind it, or the
        // container would be known.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            cleanup::remove_tree(run)?;
            make_dir(run, 0o700)?;
        }
        made => made?,
    }
    let listening = || -> io::Result<(UnixListener, UnixStream, UnixStream, File)> {
        let (_dir, path) = socket_path(run)?;
        let listener = UnixListener::bind(path)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let complaints = File::create(dir.join(files::COMPLAINTS))?;
        Ok((listener, ours, theirs, complaints))
    };
    let (listener, ours, theirs, complaints) = listening()
        .map_err(|e| Error::io(format!("make a shim's sockets in {}", run.display()), e))?;
    let (program, arguments) = program
        .split_first()
        .ok_or_else(|| Error::Internal("the engine was not told how to start a shim".to_owned()))?;
    let child = Command::new(program)
        .arg0("swarmd-shim")
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(OwnedFd::from(listener)))
        .stderr(Stdio::from(complaints))
        .spawn()
        .map_err(|e| {
            Error::io(
                format!("start the shim {}", PathBuf::from(program).display()),
                e,
            )
        })?;
    Ok((ours, child))
}

/// What a shim that ended without a word may have written.
async fn silent_end(dir: &Path, child: &mut Child) -> Error {
    let status = match child.wait().await {
        Ok(status) => status.to_string(),
        Err(e) => format!("its status is not known: {e}"),
    };
    // It may have come as far as that.
    if let Err(error) = cleanup::remove_cgroup(dir).await {
        tracing::warn!(%error, "the cgroup of a container that was not made is left");
    }
    let said = fs::read_to_string(dir.join(files::COMPLAINTS)).unwrap_or_default();
    let said = match said.trim() {
        "" => "it said nothing".to_owned(),
        said => format!("it said: {said}"),
    };
    Error::Internal(format!(
        "the shim ended before the container was made ({status}); {said}"
    ))
}
