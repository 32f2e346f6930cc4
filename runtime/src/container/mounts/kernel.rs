//! The steps of mounting, by descriptor: new and cloned mounts that are attached nowhere, their attributes, their place in a root.
//! Needs Linux 5.12. Must not know of specs.

use super::options::{IDMAP, Options};
use crate::container::sys::{self, MountAttr};
use crate::{Error, Result};
use rustix::{
    fs::{
        AtFlags, CWD, Mode, OFlags, RawMode, ResolveFlags, Stat, fstat, mkdirat, openat, openat2,
        statat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};
use std::{
    ffi::OsStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

pub(super) const PROC_MAGIC: u64 = 0x9fa0;

/// A new file system, attached nowhere.
pub(super) fn new(kind: &str, source: Option<&str>, options: &Options) -> Result<OwnedFd> {
    let failed = |e| Error::io(format!("make a {kind} file system for the container"), e);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
        Errno::NODEV => Error::Unsupported(format!("this kernel has no file system `{kind}`")),
        e => failed(e),
    })?;
    let option = |key: &str, value: &str, e: Errno| {
        Error::io(
            format!(
                "give {kind} the option `{key}{}{value}`",
                if value.is_empty() { "" } else { "=" }
            ),
            e,
        )
    };
    if let Some(source) = source {
        fsconfig_set_string(&context, "source", source).map_err(|e| option("source", source, e))?;
    }
    for (key, value) in &options.data {
        match value {
            // A new instance is all that today's devpts knows.
            None if kind == "devpts" && key == "newinstance" => {}
            None => fsconfig_set_flag(&context, key.as_str()).map_err(|e| option(key, "", e))?,
            Some(value) => {
                fsconfig_set_string(&context, key.as_str(), value.as_str())
                    .map_err(|e| option(key, value, e))?;
            }
        }
    }
    fsconfig_create(&context).map_err(failed)?;
    let flags = MountAttrFlags::from_bits_retain(u32::try_from(options.attr.set).unwrap_or(0));
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(failed)
}

/// A copy of the mount at a place, attached nowhere.
pub(super) fn copy(place: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    clone_tree(place, "", recursive, OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(|e| Error::io("copy a mount", e))
}

/// The same of a path of the host. Its last part may be a symbolic link: the host is trusted.
pub(super) fn copy_path(path: &Path, recursive: bool) -> Result<OwnedFd> {
    clone_tree(CWD, path, recursive, OpenTreeFlags::empty()).map_err(|e| match e {
        Errno::NOENT => {
            Error::NotFound(format!("cannot mount {}: it is not there", path.display()))
        }
        e => Error::io(format!("open {} for a mount", path.display()), e),
    })
}

fn clone_tree(
    directory: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    recursive: bool,
    more: OpenTreeFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | more;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags)
}

/// Changes a mount's attributes.
pub(super) fn set(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    if *attr == MountAttr::default() {
        return Ok(());
    }
    sys::mount_setattr(mount, recursive, attr)
        .map_err(|e| Error::io(format!("set a mount's attributes ({attr:x?})"), e))
}

/// Maps the owners of a mount that was never attached, by a user namespace.
pub(super) fn map_owners(
    mount: BorrowedFd<'_>,
    recursive: bool,
    namespace: BorrowedFd<'_>,
    source: &Path,
) -> Result<()> {
    let attr = MountAttr {
        set: IDMAP,
        user_namespace: u64::try_from(namespace.as_raw_fd()).unwrap_or(u64::MAX),
        ..MountAttr::default()
    };
    sys::mount_setattr(mount, recursive, &attr).map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => Error::Unsupported(format!(
            "owners of {} cannot be mapped: its file system, or this kernel, does not have ID-mapped mounts",
            source.display()
        )),
        _ => Error::io(format!("map the owners of {}", source.display()), e),
    })
}

/// Attaches a mount at a place.
pub(super) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}

/// What shall be at a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The mount point in a root, made where it is missing. No path leads out of the root, and below `/dev`, `/proc` and `/sys` no symbolic
/// link is followed: an image must not send a mount elsewhere.
pub(super) fn place(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd> {
    let failed = |e: Errno| match e {
        Errno::LOOP => Error::Invalid(format!(
            "cannot mount on {}: the image has a symbolic link there that must not be followed",
            path.display()
        )),
        Errno::NOTDIR => Error::Invalid(format!(
            "cannot mount on {}: a part of it is no directory",
            path.display()
        )),
        e => Error::io(
            format!("open the mount point {} in the container", path.display()),
            e,
        ),
    };
    match find(root, path, OFlags::PATH) {
        Ok(found) => return Ok(found),
        Err(Errno::NOENT) => {}
        Err(e) => return Err(failed(e)),
    }
    make(root, path, kind, 0o755).map_err(failed)
}

/// Makes a path in a root, with the directories above it, and opens it.
pub(super) fn make(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: Kind,
    mode: RawMode,
) -> rustix::io::Result<OwnedFd> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return find(root, path, OFlags::PATH);
    };
    let above = match find(root, above, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => make(root, above, Kind::Directory, mode)?,
        other => other?,
    };
    let made = match kind {
        Kind::Directory => mkdirat(&above, name, Mode::from_raw_mode(mode)),
        Kind::File => {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&above, name, flags, Mode::from_raw_mode(mode & 0o666)).map(drop)
        }
    };
    match made {
        // EEXIST: it is there, or a symbolic link that leads nowhere: the next look says so.
        Ok(()) | Err(Errno::EXIST) => find(root, path, OFlags::PATH),
        Err(e) => Err(e),
    }
}

/// Opens a path in a root.
pub(super) fn find(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let first = normal(path)?.first().copied();
    if first.is_some_and(|first| ["dev", "proc", "sys"].iter().any(|name| first == *name)) {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere at the same moment.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn normal(path: &Path) -> rustix::io::Result<Vec<&OsStr>> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Ok(name)),
            Component::ParentDir => Some(Err(Errno::INVAL)),
            _ => None,
        })
        .collect()
}

/// Whether a descriptor stands for this character device.
pub(crate) fn is_device(fd: impl AsFd, major: u32, minor: u32) -> bool {
    fstat(fd)
        .is_ok_and(|stat| is_character(&stat) && stat.st_rdev == rustix::fs::makedev(major, minor))
}

fn is_character(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
}

/// Whether a path of the host is a directory.
pub(super) fn is_directory(fd: impl AsFd) -> Result<bool> {
    let stat = statat(fd, "", AtFlags::EMPTY_PATH)
        .map_err(|e| Error::io("look at a mount's source", e))?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}
