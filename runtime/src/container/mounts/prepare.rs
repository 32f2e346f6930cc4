//! The parent's part: everything of the host that the container shall see, as mounts that are attached nowhere.

use super::{
    FromHost, Plan, Prepared, Wanted, devices, kernel,
    options::{NODEV, NOEXEC, NOSUID, RDONLY, Recursive, SLAVE},
};
use crate::Result;
use crate::container::{cgroup::Cgroup, sys::MountAttr};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Makes ready what the plan wants of the host. Relative sources start at the bundle.
/// `privileged`: the limits of its cgroup are the container's to change. `borrows_network`: the network namespace may be somebody else's.
pub(crate) fn prepare(
    plan: &Plan,
    bundle: &Path,
    cgroup: &Cgroup,
    privileged: bool,
    borrows_network: bool,
) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    if borrows_network && plan.mounts.iter().any(|mount| mount.kind == "sysfs") {
        prepared.sys = Some(kernel::copy_path(Path::new("/sys"), true)?);
    }
    for wanted in &plan.mounts {
        let from_host = match wanted.kind.as_str() {
            _ if wanted.options.remount => None,
            _ if wanted.options.bind.is_some() => Some(bind(plan, wanted, bundle)?),
            "cgroup" | "cgroup2" => Some(hierarchies(wanted, cgroup, privileged)?),
            _ => None,
        };
        prepared.from_host.push(from_host);
    }
    if plan.bind_devices {
        prepared.devices = plan
            .devices
            .iter()
            .map(devices::from_host)
            .collect::<Result<_>>()?;
    }
    Ok(prepared)
}

fn bind(plan: &Plan, wanted: &Wanted, bundle: &Path) -> Result<FromHost> {
    let source = bundle.join(wanted.source.as_deref().unwrap_or(Path::new("")));
    let recursive = wanted.options.bind == Some(Recursive(true));
    let mount = kernel::copy_path(&source, recursive)?;
    let kind = if kernel::is_directory(&mount)? {
        kernel::Kind::Directory
    } else {
        kernel::Kind::File
    };
    // Nothing that the container mounts goes back to the host unless the spec says `shared`.
    let slave = MountAttr {
        propagation: SLAVE,
        ..MountAttr::default()
    };
    kernel::set(mount.as_fd(), true, &slave)?;
    if let Some(maps) = &wanted.maps {
        let below = wanted.options.idmap == Some(Recursive(true));
        kernel::map_owners(mount.as_fd(), below, maps.namespace()?.as_fd(), &source)?;
    }
    attributes(mount.as_fd(), wanted)?;
    if plan.nodev && kind == kernel::Kind::Directory {
        kernel::set(
            mount.as_fd(),
            true,
            &MountAttr {
                set: NODEV,
                ..MountAttr::default()
            },
        )?;
    }
    Ok(FromHost::Bind(mount, kind))
}

/// Attributes and propagation that the options ask for.
pub(super) fn attributes(mount: BorrowedFd<'_>, wanted: &Wanted) -> Result<()> {
    kernel::set(mount, false, &wanted.options.attr)?;
    kernel::set(mount, true, &wanted.options.below)?;
    propagation(mount, wanted)
}

/// Propagation alone.
pub(super) fn propagation(mount: BorrowedFd<'_>, wanted: &Wanted) -> Result<()> {
    for &(propagation, Recursive(recursive)) in &wanted.options.propagation {
        let attr = MountAttr {
            propagation,
            ..MountAttr::default()
        };
        kernel::set(mount, recursive, &attr)?;
    }
    Ok(())
}

/// The container's own cgroups, whatever namespace it looks from.
fn hierarchies(wanted: &Wanted, cgroup: &Cgroup, privileged: bool) -> Result<FromHost> {
    let mut named = Vec::new();
    for view in cgroup.views() {
        let mut set = NOSUID | NODEV | NOEXEC | (wanted.options.attr.set & RDONLY);
        if !view.own && !privileged {
            // What the runtime has limited the container must not change.
            set |= RDONLY;
        }
        let mount = kernel::copy_path(&view.path, false)?;
        let attr = MountAttr {
            set,
            ..MountAttr::default()
        };
        kernel::set(mount.as_fd(), false, &attr)?;
        match view.name {
            None => return Ok(FromHost::Bind(mount, kernel::Kind::Directory)),
            Some(name) => named.push((name, mount)),
        }
    }
    Ok(FromHost::Hierarchies(named))
}

/// A file of the host through a read-only mount of its own.
pub(crate) fn readonly_file(path: &Path) -> Result<OwnedFd> {
    let mount = kernel::copy_path(path, false)?;
    let attr = MountAttr {
        set: RDONLY,
        ..MountAttr::default()
    };
    kernel::set(mount.as_fd(), false, &attr)?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    // The mount is a file: it has no path below itself, but a way through its descriptor.
    let way = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mount));
    rustix::fs::open(way, flags, rustix::fs::Mode::empty())
        .map_err(|e| crate::Error::io(format!("open {} read-only", path.display()), e))
}
