//! Opens paths within a root file system by descriptor, so that nothing in it leads out of it.

use crate::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A folder of ours.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", path.display()), e))
}

/// Whether something was not there.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Opens `path`, symbolic links included, as a process would whose root directory `root` is.
pub(crate) fn open_in_root(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    open(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens a directory like [`open_in_root`].
pub(crate) fn directory_in_root(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_in_root(root, path, DIRECTORY)
}

/// Opens a directory below `root` whose path has no symbolic link in it.
pub(crate) fn directory_exact(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    open(root, path, DIRECTORY, resolve)
}

/// Opens a regular file below `root` whose path has no symbolic link in it.
pub(crate) fn open_exact(root: impl AsFd, path: &[u8]) -> std::io::Result<OwnedFd> {
    let fd = open(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if kind.is_file() {
        Ok(fd)
    } else {
        Err(std::io::Error::other("it is not a file any more"))
    }
}

fn open(
    root: impl AsFd,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        // EAGAIN: something was renamed meanwhile, and the kernel cannot tell whether it stayed inside.
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}
