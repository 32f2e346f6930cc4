//! What fuzzers call here; see `crate::fuzz`.
#![allow(clippy::unwrap_used)]

use super::{Plan, kernel};
use crate::fuzz::{Bytes, Sandbox};
use rustix::{
    fs::{CWD, Mode, OFlags, openat, symlinkat},
    io::Errno,
};
use std::{
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

/// What the spec says is a path in the container, and stays one.
pub(crate) fn plan(plan: &Plan) {
    let good = |path: &Path| {
        path.is_absolute() && path.components().all(|part| part != Component::ParentDir)
    };
    let paths = plan.masked.iter().chain(&plan.readonly);
    let destinations = plan.mounts.iter().map(|mount| &mount.destination);
    let devices = plan.devices.iter().map(|device| &device.path);
    for path in paths.chain(destinations).chain(devices) {
        assert!(good(path), "{}", path.display());
    }
    for mount in &plan.mounts {
        assert!(mount.options.bind.is_none() || mount.source.is_some());
        // But for the access times, which are several bits, nothing is asked for and refused.
        let both = mount.options.attr.set & mount.options.attr.clear;
        assert_eq!(both & !0x70, 0);
    }
    assert!(!plan.nodev || plan.bind_devices);
}

const NAMES: &[&str] = &["a", "b", "c", "dev", "proc", "sys", "etc", "null", "self"];
const TARGETS: &[&str] = &[
    "a",
    "b/c",
    "..",
    "../..",
    "../../outside",
    "../../../../../../../../dev/shm",
    "/",
    "/a",
    "/dev",
    "/proc/self/root",
    "/proc/self/cwd",
    "/proc/self/fd/0",
    "../a/../..",
    "/tmp",
    ".",
    "/escaped",
    "escaped",
];

/// An image full of symbolic links, and the mount points that are looked for and made in it: none leads out of the root, and none is
/// reached through a link below `/dev`, `/proc` and `/sys`.
pub fn paths(data: &[u8]) {
    let mut bytes = Bytes(data);
    let sandbox = Sandbox::new();
    let folder = sandbox.root();
    let root = openat(CWD, &folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for _ in 0..64 {
        if bytes.is_empty() {
            break;
        }
        let step = bytes.byte() % 5;
        let path = path(&mut bytes);
        match step {
            0 => {
                let _ = kernel::make(root.as_fd(), &path, kernel::Kind::Directory, 0o755)
                    .map(|fd| inside(&folder, &path, fd.as_fd()));
            }
            1 | 2 => {
                let target = if bytes.byte().is_multiple_of(4) {
                    self::path(&mut bytes)
                } else {
                    PathBuf::from(*bytes.one(TARGETS))
                };
                let _ = link(root.as_fd(), &path, &target);
            }
            3 => found(
                &folder,
                &path,
                kernel::place(root.as_fd(), &path, kernel::Kind::File).ok(),
            ),
            _ => found(
                &folder,
                &path,
                kernel::place(root.as_fd(), &path, kernel::Kind::Directory).ok(),
            ),
        }
        let seen = kernel::find(root.as_fd(), &path, OFlags::PATH).ok();
        found(&folder, &path, seen);
    }
    sandbox.check();
}

fn path(bytes: &mut Bytes<'_>) -> PathBuf {
    let mut path = PathBuf::from("/");
    for _ in 0..=bytes.byte() % 4 {
        path.push(bytes.one(NAMES));
    }
    path
}

fn link(root: BorrowedFd<'_>, path: &Path, target: &Path) -> rustix::io::Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL);
    };
    let above = kernel::find(root, above, OFlags::PATH | OFlags::DIRECTORY)?;
    symlinkat(target, &above, name)
}

fn found(folder: &Path, path: &Path, fd: Option<OwnedFd>) {
    if let Some(fd) = fd {
        inside(folder, path, fd.as_fd());
    }
}

fn inside(folder: &Path, path: &Path, fd: BorrowedFd<'_>) {
    let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert!(
        real.starts_with(folder),
        "{} led to {}",
        path.display(),
        real.display()
    );
    let first = path.components().nth(1).map(Component::as_os_str);
    if first.is_some_and(|first| [&b"dev"[..], b"proc", b"sys"].contains(&first.as_bytes())) {
        let plain = folder.join(path.strip_prefix("/").unwrap());
        assert_eq!(
            real,
            plain,
            "a link was followed on the way to {}",
            path.display()
        );
    }
}
