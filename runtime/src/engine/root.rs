//! A container's root directory as its own processes see it, for those who are outside of it: while it runs, and after its end.

use super::container::Container;
use super::recover::Order;
use super::{Engine, cleanup, types::ContainerState};
use crate::container::{BindMount, stopped_root};
use crate::files::Owners;
use crate::shim::files;
use crate::{Error, Result};
use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A root directory, with all that is mounted in it.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) fd: OwnedFd,
    /// Whose the files in it are.
    pub(crate) owners: Owners,
}

impl Engine {
    /// The root of a container that runs or has ended.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it has not been started.
    pub(crate) async fn root(&self, id: &str) -> Result<Root> {
        let container = self.known(id)?;
        if let Some(root) = self.running_root(&container).await? {
            return Ok(root);
        }
        let dir = container.shared.dir.clone();
        cleanup::blocking(move || {
            let spec = spec(&dir)?;
            Ok(Root {
                fd: ended_root(&dir, &spec)?,
                owners: Owners::of(&spec),
            })
        })
        .await
    }

    /// None where it has ended, perhaps just now.
    async fn running_root(&self, container: &Container) -> Result<Option<Root>> {
        let id = container.id();
        let pid = match container.state() {
            ContainerState::Running { pid, .. } => pid,
            ContainerState::Stopped { .. } => return Ok(None),
            ContainerState::Created { .. } => {
                return Err(Error::Conflict(format!(
                    "container {id} has not been started: its files are not in place yet"
                )));
            }
        };
        let dir = container.shared.dir.clone();
        let opened = cleanup::blocking(move || {
            Ok(Root {
                fd: open(Path::new(&format!("/proc/{pid}/root")))?,
                owners: Owners::of(&spec(&dir)?),
            })
        })
        .await;
        // The number was the container's own all the while if its process is there still.
        match self.kill(id, 0).await {
            Ok(()) => opened.map(Some),
            Err(Error::Conflict(_)) => {
                container.shared.stopped().await;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", path.display()), e))
}

fn missing(dir: &Path, name: &str) -> Error {
    let path = dir.join(name);
    Error::NotFound(format!("{} is not there any more", path.display()))
}

fn spec(dir: &Path) -> Result<Spec> {
    files::read(&dir.join(files::SPEC))?.ok_or_else(|| missing(dir, files::SPEC))
}

fn ended_root(dir: &Path, spec: &Spec) -> Result<OwnedFd> {
    let order: Order =
        files::read(&dir.join(files::LAUNCH))?.ok_or_else(|| missing(dir, files::LAUNCH))?;
    let lower = order.launch.lower;
    if lower.is_empty() {
        let root = spec.root().as_ref().map(|r| r.path().clone());
        return open(&root.unwrap_or_else(|| PathBuf::from("rootfs")));
    }
    let root = spec.root().as_ref();
    let read_only = root.and_then(oci_spec::runtime::Root::readonly) == Some(true);
    let binds = spec.mounts().iter().flatten().filter_map(|mount| {
        let options = mount.options().as_deref().unwrap_or_default();
        let is = |name: &str| options.iter().any(|o| o == name);
        let bind = is("bind") || is("rbind");
        Some(BindMount {
            source: mount.source().clone().filter(|_| bind)?,
            target: mount.destination().clone(),
            read_only: is("ro"),
        })
    });
    let (upper, work) = (dir.join(files::UPPER), dir.join(files::WORK));
    stopped_root(lower, upper, work, binds.collect(), read_only)
}
