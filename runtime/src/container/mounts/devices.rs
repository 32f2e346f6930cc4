//! Device nodes and the links beside them (OCI config-linux, "Default Devices" and "Dev symbolic links").

use super::{Device, Plan, Prepared, attach_at, kernel};
use crate::container::sys;
use crate::{Error, Result};
use rustix::{
    fs::{AtFlags, Mode, OFlags, chmodat, chownat, fstat, symlinkat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CString, OsStr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// What every container has.
pub(super) fn usual() -> Vec<Device> {
    [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ]
    .into_iter()
    .map(|(name, major, minor)| Device {
        path: Path::new("/dev").join(name),
        mode: libc::S_IFCHR | 0o666,
        major,
        minor,
        owner: (0, 0),
    })
    .collect()
}

/// The host's node of a device, as a mount, checked to be that device.
pub(super) fn from_host(device: &Device) -> Result<OwnedFd> {
    let mount = kernel::copy_path(&device.path, false)?;
    if is(&mount, device)? {
        Ok(mount)
    } else {
        Err(Error::Unsupported(format!(
            "{} of the host is not the device {}:{} that the container wants there; without a device cgroup, or in a user \
             namespace, devices come from the host",
            device.path.display(),
            device.major,
            device.minor
        )))
    }
}

fn is(fd: impl AsFd, device: &Device) -> Result<bool> {
    let stat = fstat(fd).map_err(|e| Error::io(format!("look at {}", device.path.display()), e))?;
    Ok(stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT
        && (device.mode & libc::S_IFMT == libc::S_IFIFO
            || stat.st_rdev == rustix::fs::makedev(device.major, device.minor)))
}

/// Makes or attaches the nodes, and the links.
pub(super) fn make(root: BorrowedFd<'_>, plan: &Plan, prepared: &Prepared) -> Result<()> {
    if plan.bind_devices {
        for (device, mount) in plan.devices.iter().zip(&prepared.devices) {
            attach_at(root, mount.as_fd(), &device.path, kernel::Kind::File)?;
        }
    } else {
        let mut last: Option<(&Path, OwnedFd)> = None;
        for device in &plan.devices {
            let (Some(above), Some(name)) = (device.path.parent(), device.path.file_name()) else {
                return Err(Error::Invalid("a device cannot be the root".to_owned()));
            };
            // Most are in one directory. It is opened once, and nothing else goes on in the container yet.
            let directory = match last.take() {
                Some((path, directory)) if path == above => directory,
                _ => kernel::place(root, above, kernel::Kind::Directory)?,
            };
            node(directory.as_fd(), name, device)?;
            last = Some((above, directory));
        }
    }
    links(root)
}

fn node(directory: BorrowedFd<'_>, name: &OsStr, device: &Device) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::io(
            format!("make the device {} in the container", device.path.display()),
            e,
        )
    };
    let c_name = CString::new(name.as_bytes()).map_err(|e| failed(e.into()))?;
    let number = rustix::fs::makedev(device.major, device.minor);
    match sys::mknod(directory, &c_name, device.mode, number) {
        Ok(()) => {
            if device.owner != (0, 0) {
                let (uid, gid) = device.owner;
                let (uid, gid) = (
                    rustix::fs::Uid::from_raw(uid),
                    rustix::fs::Gid::from_raw(gid),
                );
                chownat(
                    directory,
                    name,
                    Some(uid),
                    Some(gid),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(|e| failed(e.into()))?;
                chmodat(
                    directory,
                    name,
                    Mode::from_raw_mode(device.mode & 0o7777),
                    AtFlags::empty(),
                )
                .map_err(|e| failed(e.into()))?;
            }
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let there = rustix::fs::openat(
                directory,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| failed(e.into()))?;
            if is(&there, device)? {
                Ok(())
            } else {
                Err(Error::Invalid(format!(
                    "the image has something else at {} than that device",
                    device.path.display()
                )))
            }
        }
        Err(e) => Err(failed(e)),
    }
}

fn links(root: BorrowedFd<'_>) -> Result<()> {
    let dev = kernel::place(root, Path::new("/dev"), kernel::Kind::Directory)?;
    let pairs = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in pairs {
        let failed = |e| Error::io(format!("make the link /dev/{name} in the container"), e);
        match symlinkat(target, &dev, name) {
            Ok(()) => {}
            // An image's own; what it leads to is the image's business, but for the terminals' maker.
            Err(Errno::EXIST) if name == "ptmx" => {
                unlinkat(&dev, name, AtFlags::empty())
                    .and_then(|()| symlinkat(target, &dev, name))
                    .map_err(failed)?;
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}
