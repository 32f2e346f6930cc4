//! The container's part: attaches everything in its own mount namespace and leaves the host's file systems behind.

use super::{
    FromHost, Plan, Prepared, Wanted, attach_at, devices, kernel, mask,
    options::{NODEV, NOEXEC, NOSUID, Options, PRIVATE, RDONLY, Recursive, SLAVE},
    prepare,
};
use crate::container::sys::{self, MountAttr};
use crate::{Error, Result};
use rustix::{
    fs::{
        AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, fstatfs, mkdirat, open, openat,
        statx,
    },
    mount::{
        FsPickFlags, MoveMountFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag,
        fsconfig_set_string, fspick, move_mount, unmount,
    },
};
use std::{
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Keeps what happens to mounts here from the host. The first step in a new mount namespace.
pub(crate) fn detach_host() -> Result<()> {
    let slash = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open the root", e))?;
    let slave = MountAttr {
        propagation: SLAVE,
        ..MountAttr::default()
    };
    kernel::set(slash.as_fd(), true, &slave)
}

/// Attaches the root over the host's, and everything in it. The host's file systems are still there.
pub(crate) fn build(root: &OwnedFd, plan: &Plan, prepared: &Prepared, cwd: &Path) -> Result<()> {
    let over = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, "/", over)
        .map_err(|e| Error::io("attach the container's root", e))?;
    let root = root.as_fd();
    let mut readonly_later = Vec::new();
    for (wanted, from_host) in plan.mounts.iter().zip(&prepared.from_host) {
        match from_host {
            None if wanted.options.remount => remount(root, wanted)?,
            Some(FromHost::Bind(mount, kind)) => {
                let proc = is_proc(mount.as_fd())?;
                attach_wanted(root, mount.as_fd(), wanted, *kind, proc)?;
            }
            Some(FromHost::Hierarchies(views)) => {
                readonly_later.push(hierarchies(root, wanted, views)?);
            }
            None => {
                let sys = prepared.sys.as_ref().filter(|_| wanted.kind == "sysfs");
                readonly_later.extend(file_system(root, plan, wanted, sys)?);
            }
        }
    }
    if !plan
        .mounts
        .iter()
        .any(|m| m.options.bind.is_some() && m.destination == Path::new("/dev"))
    {
        devices::make(root, plan, prepared)?;
    }
    let readonly = MountAttr {
        set: RDONLY,
        ..MountAttr::default()
    };
    for mount in readonly_later {
        kernel::set(mount.as_fd(), false, &readonly)?;
    }
    // It is made where it is missing; where it cannot be, changing to it will say so.
    let _ = kernel::make(root, cwd, kernel::Kind::Directory, 0o755);
    mask::protect(root, &plan.readonly)?;
    mask::hide(root, &plan.masked)?;
    if plan.root_readonly {
        kernel::set(root, false, &readonly)?;
    }
    Ok(())
}

/// Makes the container's root the root, and lets go of the host's.
pub(crate) fn finish(root: &OwnedFd, plan: &Plan) -> Result<()> {
    let failed = |what: &str| {
        let attempt = what.to_owned();
        move |e: rustix::io::Errno| Error::io(attempt, e)
    };
    rustix::process::fchdir(root).map_err(failed("change to the container's root"))?;
    sys::pivot_here()
        .map_err(|e| Error::io("make the container's root the root (pivot_root)", e))?;
    // The old root lies on top of the new one now.
    unmount(".", UnmountFlags::DETACH).map_err(failed("take away the host's file systems"))?;
    rustix::process::chdir("/").map_err(failed("change to the new root"))?;
    if let Some((propagation, Recursive(recursive))) = plan.root_propagation {
        let attr = MountAttr {
            propagation,
            ..MountAttr::default()
        };
        kernel::set(root.as_fd(), recursive, &attr)?;
    } else {
        let attr = MountAttr {
            propagation: PRIVATE,
            ..MountAttr::default()
        };
        kernel::set(root.as_fd(), false, &attr)?;
    }
    Ok(())
}

/// Writes files below `/proc` through a procfs of its own that nobody else can reach or cover (CVE-2025-52881). The writer's pid
/// namespace must be the container's.
pub(crate) fn proc_files(files: &[(String, String)]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let proc = kernel::new("proc", Some("proc"), &Options::default())?;
    for (path, value) in files {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&proc, path.as_str(), flags, Mode::empty()).map_err(|e| match e {
            rustix::io::Errno::NOENT => {
                Error::Unsupported(format!("this kernel has no /proc/{path}"))
            }
            e => Error::io(format!("open /proc/{path}"), e),
        })?;
        std::fs::File::from(file)
            .write_all(value.as_bytes())
            .map_err(|e| Error::io(format!("write `{value}` to /proc/{path}"), e))?;
    }
    Ok(())
}

/// Changes what is mounted at a place of the root already.
fn remount(root: BorrowedFd<'_>, wanted: &Wanted) -> Result<()> {
    let destination = wanted.destination.as_path();
    let failed = |e: rustix::io::Errno| {
        Error::io(
            format!("remount {} in the container", destination.display()),
            e,
        )
    };
    let place = kernel::find(root, destination, OFlags::PATH).map_err(failed)?;
    let found = statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(failed)?;
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Error::Invalid(format!(
            "nothing is mounted on {}, so it cannot be remounted",
            destination.display()
        )));
    }
    if !wanted.options.data.is_empty() {
        let context = fspick(
            &place,
            "",
            FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH,
        )
        .map_err(failed)?;
        for (key, value) in &wanted.options.data {
            match value {
                Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
                None => fsconfig_set_flag(&context, key.as_str()),
            }
            .map_err(failed)?;
        }
        fsconfig_reconfigure(&context).map_err(failed)?;
    }
    prepare::attributes(place.as_fd(), wanted)
}

/// A new file system of the spec. Returned where it becomes read-only later, when everything in it is made. `instead`: what is
/// attached where it may not be made.
fn file_system(
    root: BorrowedFd<'_>,
    plan: &Plan,
    wanted: &Wanted,
    instead: Option<&OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let mut options = wanted.options.clone();
    let later = wanted.kind == "tmpfs" && options.attr.set & RDONLY != 0;
    if later {
        options.attr.set &= !RDONLY;
    }
    if plan.nodev && wanted.kind != "devpts" {
        options.attr.set |= NODEV;
    }
    // These two take no `source`, or do without.
    let source = wanted.source.as_deref().and_then(Path::to_str);
    let made = kernel::new(&wanted.kind, source, &options);
    if let (Err(Error::Io { source, .. }), Some(instead)) = (&made, instead)
        && source.raw_os_error() == Some(libc::EPERM)
    {
        let attr = MountAttr {
            propagation: SLAVE,
            ..options.attr
        };
        kernel::set(instead.as_fd(), true, &attr)?;
        attach_wanted(
            root,
            instead.as_fd(),
            wanted,
            kernel::Kind::Directory,
            false,
        )?;
        return Ok(None);
    }
    let mount = made.map_err(|e| match e {
        Error::Io { attempt, source } => Error::io(
            format!("{attempt} ({})", wanted.destination.display()),
            source,
        ),
        other => other,
    })?;
    kernel::set(mount.as_fd(), true, &wanted.options.below)?;
    prepare::propagation(mount.as_fd(), wanted)?;
    let proc = wanted.kind == "proc";
    attach_wanted(root, mount.as_fd(), wanted, kernel::Kind::Directory, proc)?;
    Ok(later.then_some(mount))
}

/// cgroup v1: a small tmpfs with one directory per hierarchy.
fn hierarchies(
    root: BorrowedFd<'_>,
    wanted: &Wanted,
    views: &[(String, OwnedFd)],
) -> Result<OwnedFd> {
    let mut options = Options::with(NOSUID | NODEV | NOEXEC);
    options
        .data
        .push(("mode".to_owned(), Some("755".to_owned())));
    let directory = kernel::new("tmpfs", Some("tmpfs"), &options)?;
    attach_at(
        root,
        directory.as_fd(),
        &wanted.destination,
        kernel::Kind::Directory,
    )?;
    for (name, mount) in views {
        // Nobody else has been in this directory, and names of hierarchies are no paths: no link can be in the way.
        let failed = |e| Error::io(format!("show the cgroups {name} in the container"), e);
        mkdirat(&directory, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(mount, "", &directory, name, from).map_err(failed)?;
        // `cpu,cpuacct` under the single names too.
        for alias in name.split(',').filter(|alias| alias != name) {
            rustix::fs::symlinkat(name.as_str(), &directory, alias).map_err(|e| {
                Error::io(format!("make the link {alias} to the cgroups {name}"), e)
            })?;
        }
    }
    Ok(directory)
}

/// Files of `/proc` that may be replaced, as lxcfs does.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
];

/// Attaches a mount of the spec; `proc`: it is a procfs. Nothing else is mounted over or in `/proc`: what the runtime and the
/// container's programs read and write there must be the kernel's.
fn attach_wanted(
    root: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    wanted: &Wanted,
    kind: kernel::Kind,
    proc: bool,
) -> Result<()> {
    let destination = wanted.destination.as_path();
    let place = kernel::place(root, destination, kind)?;
    let allowed = (proc && destination == Path::new("/proc"))
        || PROC_FILES.iter().any(|file| destination == Path::new(file));
    if !allowed && (destination.starts_with("/proc") || is_proc(place.as_fd())?) {
        return Err(Error::Invalid(format!(
            "the mount on {} would lie in /proc, which is not allowed",
            destination.display()
        )));
    }
    kernel::attach(mount, place.as_fd()).map_err(|e| {
        Error::io(
            format!("mount on {} in the container", destination.display()),
            e,
        )
    })
}

fn is_proc(fd: BorrowedFd<'_>) -> Result<bool> {
    let found = fstatfs(fd).map_err(|e| Error::io("look at a mount", e))?;
    Ok(u64::try_from(found.f_type) == Ok(kernel::PROC_MAGIC))
}

/// Puts the terminal's slave at `/dev/console`. The root is the container's already.
pub(crate) fn console(slave: BorrowedFd<'_>) -> Result<()> {
    let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open the root", e))?;
    let mount = kernel::copy(slave, false)?;
    attach_at(
        root.as_fd(),
        mount.as_fd(),
        Path::new("/dev/console"),
        kernel::Kind::File,
    )
}
