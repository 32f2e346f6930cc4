//! Finds what is at a path in a root.

use super::lossy;
use crate::image::resolve::open_in_root;
use crate::{Error, Result};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use swarm_api::backend::{FileKind, FileStat};
use swarm_api::model::Timestamp;

/// The longest path that is looked for (limits.h).
const MAX_PATH: usize = 4096;

/// Something in a root, held by a descriptor with which nothing but its place can be told (`O_PATH`).
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
    /// What its archive's names begin with.
    pub(crate) name: Vec<u8>,
}

/// What is at `path` in `root`, from `/` on. A symbolic link at its end is not followed, unless `/` or `/.` follow.
///
/// # Errors
/// [`Error::NotFound`], or why it cannot be opened.
pub(crate) fn find(root: impl AsFd, path: &str) -> Result<Place> {
    let bytes = path.as_bytes();
    if bytes.contains(&0) || bytes.len() > MAX_PATH {
        return Err(Error::Invalid(format!(
            "{path:?} is not a path: it is longer than {MAX_PATH} bytes, or has a zero byte"
        )));
    }
    let last = bytes.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let whole = matches!(last, b"" | b"." | b"..");
    let flags = if whole {
        OFlags::PATH | OFlags::DIRECTORY
    } else {
        OFlags::PATH | OFlags::NOFOLLOW
    };
    let fd = open_in_root(root, bytes, flags).map_err(|e| failed(path, e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed(path, e))?;
    let mut parts = bytes.split(|b| *b == b'/').filter(|p| !p.is_empty());
    let name = match parts.next_back() {
        None | Some(b"." | b"..") => b".".to_vec(),
        Some(name) => name.to_vec(),
    };
    Ok(Place { fd, stat, name })
}

fn failed(path: &str, e: Errno) -> Error {
    match e {
        Errno::NOENT => Error::NotFound(format!("there is no {path} in the container")),
        Errno::NOTDIR => Error::Invalid(format!(
            "{path} in the container: a part of it is not a directory"
        )),
        Errno::LOOP => Error::Invalid(format!(
            "{path} in the container: its symbolic links lead in circles, or into a process's files"
        )),
        e => Error::io(format!("open {path} in the container"), e),
    }
}

impl Place {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// For whoever asked.
    pub(crate) fn describe(&self) -> FileStat {
        let kind = match self.kind() {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Other,
        };
        let target = match kind {
            FileKind::Symlink => rustix::fs::readlinkat(&self.fd, "", Vec::new())
                .map(|target| lossy(target.as_bytes()))
                .unwrap_or_default(),
            _ => String::new(),
        };
        let milliseconds = self.stat.st_mtime.saturating_mul(1000);
        FileStat {
            name: match &self.name[..] {
                b"." => "/".into(),
                name => lossy(name),
            },
            kind,
            size: u64::try_from(self.stat.st_size).unwrap_or_default(),
            mode: self.stat.st_mode & 0o7777,
            modified_at: Timestamp(u64::try_from(milliseconds).unwrap_or_default()),
            target,
        }
    }
}
