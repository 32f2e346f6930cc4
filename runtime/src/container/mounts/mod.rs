//! The container's file systems (OCI config, "Root" and "Mounts"; config-linux, "Devices", "Masked Paths", "Readonly Paths").
//!
//! What comes from the host is made ready by the parent as mounts that are attached nowhere (`prepare`); the container's process attaches
//! them in its own mount namespace (`build`). So nothing is ever mounted on the host, and the process in the container opens no path
//! of the host. Must not know of processes.

mod build;
mod devices;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod kernel;
mod mask;
mod options;
mod overlay;
mod prepare;
mod stopped;

use super::{idmap::Maps, rootless};
use crate::{Error, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

pub(super) use build::{build, console, detach_host, finish, proc_files};
pub(super) use kernel::is_device;
pub(super) use overlay::root;
pub(super) use prepare::{prepare, readonly_file};
pub(crate) use stopped::{BindMount, stopped_root};

/// What the spec says of file systems, checked.
#[derive(Debug)]
pub(super) struct Plan {
    mounts: Vec<Wanted>,
    devices: Vec<Device>,
    /// Device nodes come from the host by bind mount, because the container must not make them, or could make any.
    bind_devices: bool,
    /// No device works but those.
    nodev: bool,
    masked: Vec<PathBuf>,
    readonly: Vec<PathBuf>,
    root_readonly: bool,
    root_propagation: Option<(u64, options::Recursive)>,
}

#[derive(Debug)]
struct Wanted {
    destination: PathBuf,
    kind: String,
    source: Option<PathBuf>,
    options: options::Options,
    /// Users and groups of the source are these in the container.
    maps: Option<Maps>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    path: PathBuf,
    /// Type and permissions, as mknod takes them.
    mode: u32,
    major: u32,
    minor: u32,
    owner: (u32, u32),
}

/// Mounts made ready by the parent.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// One for each mount of the spec that shows something of the host.
    from_host: Vec<Option<FromHost>>,
    /// One for each device, where they are bind mounts.
    devices: Vec<OwnedFd>,
    /// The host's `/sys`, for who may not mount a sysfs.
    sys: Option<OwnedFd>,
}

#[derive(Debug)]
enum FromHost {
    Bind(OwnedFd, kernel::Kind),
    /// cgroup v1: a directory of hierarchies.
    Hierarchies(Vec<(String, OwnedFd)>),
}

impl Plan {
    /// Checks what the spec says. `own_devices`: the container's process may make device nodes. `limited`: the cgroup keeps it from
    /// using others. `maps`: those of the container's user namespace, if that is new.
    pub(super) fn new(
        spec: &Spec,
        own_devices: bool,
        limited: bool,
        maps: Option<&Maps>,
    ) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let mounts = spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| wanted(mount, maps))
            .collect::<Result<Vec<_>>>()?;
        let mounts = with_own_groups(mounts, maps);
        let all = linux
            .and_then(|linux| linux.resources().as_ref())
            .and_then(|resources| resources.devices().as_ref()?.last())
            .is_some_and(|rule| rule.allow() && rule.major().is_none() && rule.minor().is_none());
        let nodev = !limited && !all;
        let mut devices = devices::usual();
        for device in linux
            .and_then(|linux| linux.devices().as_ref())
            .into_iter()
            .flatten()
        {
            let device = one_device(device)?;
            devices.retain(|other| other.path != device.path);
            devices.push(device);
        }
        let paths = |paths: Option<&Vec<String>>| {
            paths
                .into_iter()
                .flatten()
                .map(|path| absolute(Path::new(path)))
                .collect::<Result<Vec<_>>>()
        };
        let root_propagation = match linux.and_then(|linux| linux.rootfs_propagation().as_deref()) {
            None | Some("") => None,
            Some(name) => Some(options::propagation(name).ok_or_else(|| {
                Error::Invalid(format!("rootfsPropagation `{name}` is not known"))
            })?),
        };
        Ok(Self {
            mounts,
            devices,
            bind_devices: !own_devices || nodev,
            nodev,
            masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref()))?,
            readonly: paths(linux.and_then(|linux| linux.readonly_paths().as_ref()))?,
            root_readonly: spec
                .root()
                .as_ref()
                .and_then(oci_spec::runtime::Root::readonly)
                .unwrap_or(false),
            root_propagation,
        })
    }
}

impl Plan {
    /// Whether devices work only where they were given.
    pub(super) fn nodev(&self) -> bool {
        self.nodev
    }
}

/// Whether the container may make cgroups of its own: they are mounted for writing.
pub(super) fn parts_cgroups(spec: &Spec) -> bool {
    let read_only = |mount: &oci_spec::runtime::Mount| {
        let mut options = mount.options().iter().flatten();
        options.any(|option| option == "ro" || option == "rro")
    };
    spec.mounts().iter().flatten().any(|mount| {
        let kind = mount.typ().as_deref();
        (kind == Some("cgroup") || kind == Some("cgroup2")) && !read_only(mount)
    })
}

/// Attaches a mount at a path of a root, which is made where it is missing.
fn attach_at(
    root: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    path: &Path,
    kind: kernel::Kind,
) -> Result<()> {
    let place = kernel::place(root, path, kind)?;
    kernel::attach(mount, std::os::fd::AsFd::as_fd(&place))
        .map_err(|e| Error::io(format!("mount on {} in the container", path.display()), e))
}

/// Terminals belong to a group that there is: `gid` of a devpts is left out where the user namespace does not have it.
fn with_own_groups(mut mounts: Vec<Wanted>, maps: Option<&Maps>) -> Vec<Wanted> {
    let there = |gid: &str| match (gid.parse(), maps) {
        (Err(_), _) => true,
        (Ok(gid), Some(maps)) => rootless::has_id(&maps.gids, gid),
        (Ok(gid), None) if rootless::in_user_namespace() => rootless::has_group(gid),
        (Ok(_), None) => true,
    };
    for mount in mounts.iter_mut().filter(|mount| mount.kind == "devpts") {
        mount
            .options
            .data
            .retain(|(key, value)| key != "gid" || value.as_deref().is_none_or(&there));
    }
    mounts
}

fn wanted(mount: &oci_spec::runtime::Mount, container: Option<&Maps>) -> Result<Wanted> {
    let destination = absolute(mount.destination())?;
    let of = |what: &str| format!("the mount on {}: {what}", destination.display());
    let mut options = options::parse(mount.options().as_deref().unwrap_or_default())
        .map_err(|e| Error::Invalid(of(&e.to_string())))?;
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    let maps = match (uids.is_empty(), gids.is_empty()) {
        (false, false) => Some(Maps::new(uids, gids)),
        (true, true) if options.idmap.is_none() => None,
        (true, true) => Some(container.cloned().ok_or_else(|| {
            Error::Invalid(of(
                "`idmap` without uidMappings and gidMappings takes those of a new user namespace, which the container does not have",
            ))
        })?),
        _ => return Err(Error::Invalid(of("uidMappings and gidMappings go together"))),
    };
    let kind = mount.typ().clone().unwrap_or_default();
    if options.remount {
        // It changes what is mounted there already.
        options.bind = None;
        if maps.is_some() {
            return Err(Error::Invalid(of("a remount cannot map users")));
        }
        return Ok(Wanted {
            destination,
            kind,
            source: None,
            options,
            maps: None,
        });
    }
    if (kind == "bind" || kind == "none" || kind.is_empty()) && options.bind.is_none() {
        options.bind = Some(options::Recursive(false));
    }
    if options.bind.is_some() {
        if mount.source().is_none() {
            return Err(Error::Invalid(of("a bind mount needs a source")));
        }
        if let Some((key, _)) = options.data.first() {
            return Err(Error::Invalid(of(&format!(
                "a bind mount has no option `{key}`"
            ))));
        }
    }
    if maps.is_some() && options.bind.is_none() {
        return Err(Error::Invalid(of("only bind mounts can be ID-mapped")));
    }
    Ok(Wanted {
        destination,
        kind,
        source: mount.source().clone(),
        options,
        maps,
    })
}

fn one_device(device: &LinuxDevice) -> Result<Device> {
    let number = |n: i64| {
        u32::try_from(n).map_err(|_| {
            Error::Invalid(format!(
                "device {} has the number {n}",
                device.path().display()
            ))
        })
    };
    let fifo = device.typ() == LinuxDeviceType::P;
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(Error::Invalid(format!(
                "device {} must be of type b, c, u or p",
                device.path().display()
            )));
        }
    };
    Ok(Device {
        path: absolute(device.path())?,
        mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
        major: if fifo { 0 } else { number(device.major())? },
        minor: if fifo { 0 } else { number(device.minor())? },
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
    })
}

/// A path in the container: absolute (a relative one of old specs starts at the root), without `..`.
fn absolute(path: &Path) -> Result<PathBuf> {
    let path = Path::new("/").join(path);
    if path
        .components()
        .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(Error::Invalid(format!(
            "the path {} in the container must not contain `..`",
            path.display()
        )));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests;
