//! What remains of a container: ended by its cgroup where its shim cannot, and removed.

use super::types::ContainerState;
use crate::container::{self, Cgroup};
use crate::shim::files::{self, Ending, Started};
use crate::{Error, Result};
use oci_spec::runtime::Spec;
use std::{io, path::Path};
use swarm_api::model::ExitStatus;

/// How it ended, once its shim has: as that wrote down; or, where it was killed and could not, without a status:
/// then nothing of the container may go on, since nobody owns its streams.
pub(super) async fn after_shim(id: &str, dir: &Path, last: ContainerState) -> Ending {
    if let Ok(Some(ending)) = files::read::<Ending>(&dir.join(files::ENDING)) {
        return ending;
    }
    let started_at = match last {
        ContainerState::Running { started_at, .. } => Some(started_at),
        _ => None,
    };
    let message = "its shim ended unexpectedly, so that what ran in it was killed".to_owned();
    let ending = kill_rest(id, dir, message).await;
    Ending {
        started_at: started_at.or(ending.started_at),
        ..ending
    }
}

/// Kills what is left of a container without a shim, and writes its end down.
pub(super) async fn kill_rest(id: &str, dir: &Path, message: String) -> Ending {
    let (id, dir) = (id.to_owned(), dir.to_owned());
    let in_words = message.clone();
    let ended = tokio::task::spawn_blocking(move || {
        if let Some(Err(error)) = cgroup(&dir).map(|cgroup| cgroup.signal_all(libc::SIGKILL)) {
            tracing::warn!(container = id, %error, "what is left of a container cannot be killed");
        }
        let started: Option<Started> = files::read(&dir.join(files::STARTED)).ok().flatten();
        let ending = unexpected(started, in_words);
        if let Err(error) = files::write(&dir.join(files::ENDING), &ending) {
            tracing::warn!(container = id, %error, "a container's end cannot be written down");
        }
        ending
    });
    ended.await.unwrap_or_else(|_| unexpected(None, message))
}

fn unexpected(started: Option<Started>, message: String) -> Ending {
    Ending {
        exit: ExitStatus {
            code: 128 + libc::SIGKILL,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
        },
        started_at: started.map(|s| s.at),
        finished_at: files::now(),
        message,
    }
}

/// Its cgroup, where its spec can be read and names one.
pub(super) fn cgroup(dir: &Path) -> Option<Cgroup> {
    let spec: Spec = files::read(&dir.join(files::SPEC)).ok().flatten()?;
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    Cgroup::open(path).ok()
}

/// Removes everything of a container whose shim has gone. `removed` is a name beside `dir`: once it is renamed
/// to that, it is no container any more, also if this is interrupted.
pub(super) async fn remove(id: &str, dir: &Path, run: &Path, removed: &Path) -> Result<()> {
    let spec: Option<Spec> = files::read(&dir.join(files::SPEC)).ok().flatten();
    remove_cgroup(dir).await?;
    if let Some(spec) = spec {
        let (dir, id) = (dir.to_owned(), id.to_owned());
        let hooks = move || container::poststop(&spec, &id, &dir);
        // A failing hook is told, and stops nothing (OCI runtime spec, "lifecycle").
        if let Err(error) = blocking(hooks).await {
            tracing::warn!(%error, "a poststop hook failed");
        }
    }
    remove_directories(dir, run, removed).await
}

/// Kills what is left in its cgroup, and removes that.
pub(super) async fn remove_cgroup(dir: &Path) -> Result<()> {
    let dir = dir.to_owned();
    blocking(move || match cgroup(&dir) {
        None => Ok(()),
        Some(cgroup) => {
            cgroup.signal_all(libc::SIGKILL)?;
            cgroup.remove()
        }
    })
    .await
}

/// Removes its directories alone.
pub(super) async fn remove_directories(dir: &Path, run: &Path, removed: &Path) -> Result<()> {
    let (dir, run, removed) = (dir.to_owned(), run.to_owned(), removed.to_owned());
    blocking(move || {
        remove_tree(&removed)?;
        match std::fs::rename(&dir, &removed) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", dir.display()), e));
            }
            _ => {}
        }
        remove_tree(&removed)?;
        remove_tree(&run)
    })
    .await
}

/// Removes a directory and all in it; it need not be there.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Runs what may block on the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(Error::Internal(format!("a task of the engine ended: {e}"))),
    }
}
