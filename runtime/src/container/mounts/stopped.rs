//! The root of a container that has ended, put together again for whoever wants its files: as a mount that is attached
//! nowhere, and of which nothing stays. It is not for containers to run in.

use super::kernel;
use super::options::RDONLY;
use super::overlay::{layers, private};
use crate::container::sys::{MountAttr, unshare};
use crate::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, move_mount};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Something of the host that was mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BindMount {
    pub(crate) source: PathBuf,
    /// In the container.
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// The root of a container over the layers `lower`, topmost first, with what it has written, and with what of the host was
/// mounted in it, as far as that is there still. Owners are as they are on the disk.
///
/// # Errors
/// Where the kernel does not put it together.
pub(crate) fn stopped_root(
    lower: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
    binds: Vec<BindMount>,
    read_only: bool,
) -> Result<OwnedFd> {
    // A thread of its own, with a mount namespace that ends with it: mounts are made at paths.
    let make = move || {
        unshare(libc::CLONE_NEWNS as u64).map_err(|e| Error::io("make a mount namespace", e))?;
        private()?;
        put_together(&lower, &upper, &work, &binds, read_only)
    };
    let thread = std::thread::Builder::new().name("root".into()).spawn(make);
    let thread = thread.map_err(|e| Error::io("start a thread for mounts", e))?;
    thread.join().unwrap_or_else(|_| {
        let why = "the thread for the mounts of a container ended";
        Err(Error::Internal(why.into()))
    })
}

fn put_together(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    binds: &[BindMount],
    read_only: bool,
) -> Result<OwnedFd> {
    let root = layers(lower, upper, work)?;
    kernel::set(root.as_fd(), false, &only(read_only))?;
    let over = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, upper, over)
        .map_err(|e| Error::io(format!("mount on {}", upper.display()), e))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", upper.display()), e))?;
    for bind in binds {
        let mount = match kernel::copy_path(&bind.source, true) {
            Err(Error::NotFound(_)) => continue,
            other => other?,
        };
        kernel::set(mount.as_fd(), true, &only(bind.read_only))?;
        // What the container has put in the mount point's place is what is seen there.
        let Ok(place) = kernel::find(root.as_fd(), &bind.target, OFlags::PATH) else {
            continue;
        };
        match kernel::attach(mount.as_fd(), place.as_fd()) {
            Ok(()) | Err(rustix::io::Errno::NOTDIR) => {}
            Err(e) => {
                let target = bind.target.display();
                return Err(Error::io(format!("mount {target} of the container"), e));
            }
        }
    }
    kernel::copy_path(upper, true)
}

fn only(read_only: bool) -> MountAttr {
    MountAttr {
        set: if read_only { RDONLY } else { 0 },
        ..MountAttr::default()
    }
}
