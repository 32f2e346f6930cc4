//! Unpacks a tar archive into a directory of a root.
//!
//! A symbolic link that is there may lead to another place of the root, never out of it. A directory is never replaced by
//! something else, nor the other way round. Devices are not made: what a container may use is not an archive's to say.

use super::{Owners, lossy};
use crate::image::resolve::{directory_in_root, open_in_root};
use crate::{Error, Result};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Timespec, Timestamps,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tar::{Archive, Entry, EntryType};

/// Unpacks all of `input` into the directory `folder` of `root`.
///
/// # Errors
/// Where the directory is not there, the archive is damaged or would lead out of it, or something cannot be made. What was
/// unpacked before stays.
pub(crate) fn unpack(
    root: &OwnedFd,
    folder: &str,
    owners: &Owners,
    input: impl Read,
) -> Result<()> {
    let place = super::find(root, &format!("{folder}/."))?;
    drop(place);
    let mut unpacker = Unpacker {
        root,
        folder: folder.as_bytes().to_vec(),
        owners,
        parent: None,
        times: Vec::new(),
    };
    let mut archive = Archive::new(input);
    let damaged = |e: io::Error| match e.raw_os_error() {
        Some(_) => Error::io("read the archive", e),
        None => Error::Invalid(format!("the tar archive is damaged: {e}")),
    };
    for entry in archive.entries().map_err(damaged)? {
        unpacker.entry(entry.map_err(damaged)?)?;
    }
    unpacker.finish();
    Ok(())
}

struct Unpacker<'a> {
    root: &'a OwnedFd,
    folder: Vec<u8>,
    owners: &'a Owners,
    /// The directory of the last entry: those of one directory mostly follow one another.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Of directories: set at the end, because making entries in them changes them.
    times: Vec<(Vec<u8>, u64)>,
}

/// What an entry is to have.
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: u64,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<()> {
        let whole = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let parts = clean(&whole)?;
        let Some((name, above)) = parts.split_last() else {
            // The directory itself is as it is.
            return Ok(());
        };
        let attributes = self.attributes(&entry, &whole)?;
        let folder = self.parent(above)?;
        let at = folder.1.as_fd();
        let made = match kind {
            EntryType::Directory => {
                let path = [&folder.0[..], name].join(&b'/');
                self.times.push((path, attributes.mtime));
                make_directory(at, name, &attributes)
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                make_file(at, name, &attributes, &mut entry)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                clear(at, name).and_then(|()| {
                    rustix::fs::symlinkat(&target[..], at, *name)?;
                    Ok(by_name(at, name, &attributes)?)
                })
            }
            EntryType::Fifo => clear(at, name).and_then(|()| {
                let mode = Mode::from_raw_mode(attributes.mode & 0o777);
                rustix::fs::mknodat(at, *name, FileType::Fifo, mode, 0)?;
                Ok(by_name(at, name, &attributes)?)
            }),
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.hard_link(at, name, &target)
            }
            other => Err(io::Error::other(format!(
                "it is of the kind {:?}, such as a device, which is not made in a container",
                char::from(other.as_byte())
            ))),
        };
        self.parent = Some(folder);
        made.map_err(|e| failed(&whole, e))
    }

    fn attributes<R: Read>(&self, entry: &Entry<'_, R>, whole: &[u8]) -> Result<Attributes> {
        let header = entry.header();
        let read = || -> io::Result<(u64, u64, u32, u64)> {
            Ok((
                header.uid()?,
                header.gid()?,
                header.mode()?,
                header.mtime()?,
            ))
        };
        let (uid, gid, mode, mtime) = read().map_err(|e| failed(whole, e))?;
        let id = |id: u64| {
            u32::try_from(id)
                .map_err(|_| Error::Invalid(format!("the owner {id} of {} is none", lossy(whole))))
        };
        let (uid, gid) = self.owners.outside(id(uid)?, id(gid)?)?;
        Ok(Attributes {
            uid,
            gid,
            mode: mode & 0o7777,
            mtime,
        })
    }

    /// The directory below ours that an entry goes into, with its path in the root. It and those above it are made where
    /// the archive has not.
    fn parent(&mut self, above: &[&[u8]]) -> Result<(Vec<u8>, OwnedFd)> {
        let mut path = self.folder.clone();
        for part in above {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if let Some(parent) = self.parent.take_if(|(known, _)| *known == path) {
            return Ok(parent);
        }
        match directory_in_root(self.root, &path) {
            Ok(fd) => return Ok((path, fd)),
            Err(Errno::NOENT) if !above.is_empty() => {}
            Err(e) => return Err(failed(&path, e.into())),
        }
        let (_, fd) = self.parent(&above[..above.len() - 1])?;
        let name = above[above.len() - 1];
        let attributes = Attributes {
            mode: 0o755,
            mtime: 0,
            ..self.root_owned()?
        };
        make_directory(fd.as_fd(), name, &attributes).map_err(|e| failed(&path, e))?;
        let fd = directory_in_root(self.root, &path).map_err(|e| failed(&path, e.into()))?;
        Ok((path, fd))
    }

    fn root_owned(&self) -> Result<Attributes> {
        let (uid, gid) = self.owners.outside(0, 0)?;
        Ok(Attributes {
            uid,
            gid,
            mode: 0,
            mtime: 0,
        })
    }

    fn hard_link(&self, at: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
        let parts = clean(target).map_err(io::Error::other)?;
        let Some((target_name, above)) = parts.split_last() else {
            return Err(io::Error::other("it is a link to a directory"));
        };
        let mut path = self.folder.clone();
        for part in above {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        let folder = open_in_root(self.root, &path, OFlags::PATH | OFlags::DIRECTORY)?;
        let found = rustix::fs::statat(&folder, *target_name, AtFlags::SYMLINK_NOFOLLOW)?;
        let same =
            |there: rustix::fs::Stat| (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino);
        if rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(same) {
            return Ok(());
        }
        clear(at, name)?;
        rustix::fs::linkat(&folder, *target_name, at, name, AtFlags::empty())?;
        Ok(())
    }

    fn finish(self) {
        for (path, mtime) in &self.times {
            // Where it was replaced since, its time is its own.
            if let Ok(fd) = open_in_root(
                self.root,
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
            ) {
                let _ = rustix::fs::futimens(&fd, &times(*mtime));
            }
        }
    }
}

fn make_directory(at: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> io::Result<()> {
    match rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let there = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if !FileType::from_raw_mode(there.st_mode).is_dir() {
                return Err(io::Error::other(
                    "what is there is not a directory, and is not replaced by one",
                ));
            }
        }
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
    set(fd.as_fd(), attributes)
}

fn make_file(
    at: BorrowedFd<'_>,
    name: &[u8],
    attributes: &Attributes,
    contents: &mut impl Read,
) -> io::Result<()> {
    let write = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match clear(at, name) {
        Ok(()) => {
            let flags = write | OFlags::CREATE | OFlags::EXCL;
            rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o600))?
        }
        // A file that something is mounted on, such as /etc/hosts: it stays, with what is in it replaced.
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            let fd = rustix::fs::openat(at, name, write | OFlags::NONBLOCK, Mode::empty())?;
            if !FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode).is_file() {
                return Err(e);
            }
            rustix::fs::ftruncate(&fd, 0)?;
            let mut file = File::from(fd);
            return io::copy(contents, &mut file).map(drop);
        }
        Err(e) => return Err(e),
    };
    let mut file = File::from(fd);
    io::copy(contents, &mut file)?;
    set(file.as_fd(), attributes)?;
    rustix::fs::futimens(&file, &times(attributes.mtime))?;
    Ok(())
}

/// Removes what an entry replaces. A directory is not replaced, nor is what something is mounted on (EBUSY): the kernel
/// refuses that only to those who have the mount in their own namespace, and takes it away for others.
fn clear(at: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    if let Ok(there) = rustix::fs::statx(at, name, flags, StatxFlags::BASIC_STATS)
        && there.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        && !FileType::from_raw_mode(there.stx_mode.into()).is_dir()
    {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(io::Error::other(
            "a directory is there, and is not replaced by something else",
        )),
        Err(e) => Err(e.into()),
    }
}

/// In this order: a change of the owner takes the setuid bit away.
fn set(fd: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))?;
    Ok(())
}

/// Of what cannot be opened.
fn by_name(at: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(at, name, Some(uid), Some(gid), nofollow)?;
    rustix::fs::utimensat(at, name, &times(attributes.mtime), nofollow)
}

fn times(seconds: u64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
            tv_nsec: 0,
        },
    }
}

/// The parts of a path in the archive.
fn clean(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(Error::Invalid(format!(
                    "the archive's entry {:?} leads out of the directory that it is unpacked into",
                    lossy(path)
                )));
            }
            part => parts.push(part),
        }
    }
    Ok(parts)
}

fn failed(path: &[u8], e: io::Error) -> Error {
    match e.raw_os_error() {
        None => Error::Invalid(format!(
            "{} cannot be copied into the container: {e}",
            lossy(path)
        )),
        Some(libc::EROFS) => Error::Conflict(format!(
            "{} cannot be copied into the container: it is read-only there",
            lossy(path)
        )),
        Some(libc::ELOOP | libc::ENOTDIR) => Error::Invalid(format!(
            "{} cannot be copied into the container: a part of its path is not a directory there, or leads in circles",
            lossy(path)
        )),
        Some(_) => Error::io(format!("make {} in the container", lossy(path)), e),
    }
}
