//! The root: a directory of the host, or layers under overlayfs, as a mount that is attached nowhere. Knows no spec.

use super::{
    kernel,
    options::{NODEV, Options},
};
use crate::container::{
    Rootfs,
    idmap::Maps,
    rootless,
    sys::{MountAttr, clone, exit},
};
use crate::{Error, Result};
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};
use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Makes the root's mount. In a user namespace (`mapped`) a directory must have the owners that the namespace maps to; layers are put
/// together with their owners mapped by `maps`, what the container writes has its owners as the host sees them. (Mounted inside
/// the namespace overlayfs would not read the layers' `trusted.overlay` attributes.) That needs Linux 5.19.
pub(crate) fn root(
    rootfs: &Rootfs,
    nodev: bool,
    mapped: bool,
    maps: Option<&Maps>,
) -> Result<OwnedFd> {
    let attr = MountAttr {
        set: if nodev { NODEV } else { 0 },
        ..MountAttr::default()
    };
    match rootfs {
        Rootfs::Path(path) => {
            let mount = kernel::copy_path(path, true)?;
            let attr = MountAttr {
                propagation: super::options::SLAVE,
                ..attr
            };
            kernel::set(mount.as_fd(), true, &attr)?;
            Ok(mount)
        }
        Rootfs::Overlay { lower, upper, work } => {
            if lower.is_empty() {
                return Err(Error::Invalid(
                    "an overlay root needs at least one layer".to_owned(),
                ));
            }
            if let Some(maps) = maps {
                if rootless::in_user_namespace() {
                    return Err(Error::Unsupported(
                        "layers cannot be given to a further user namespace within one: an ordinary user's container is in its \
                         user's namespace already; leave --user-namespace out"
                            .to_owned(),
                    ));
                }
                return in_namespace(lower, upper, work, &attr, maps);
            }
            if mapped {
                return Err(Error::Unsupported(
                    "layers in a user namespace of another container are not supported; give the container one of its own, or \
                     a directory with fitting owners as root"
                        .to_owned(),
                ));
            }
            match overlay(lower, upper, work, &attr) {
                // Before Linux 6.7 there was no `lowerdir+`, and a value was at most 255 bytes long.
                Err(Errno::INVAL) => aside(|| mount_on_upper(lower, upper, work, &attr)),
                other => other.map_err(|e| failed(lower, upper, e)),
            }
        }
    }
}

/// Layers put together without mapping anybody, in a mount namespace of the caller's own.
pub(super) fn layers(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd> {
    let attr = MountAttr::default();
    match overlay(lower, upper, work, &attr) {
        Err(Errno::INVAL) => mount_on_upper(lower, upper, work, &attr),
        other => other.map_err(|e| failed(lower, upper, e)),
    }
}

fn failed(lower: &[PathBuf], upper: &Path, e: impl Into<std::io::Error>) -> Error {
    Error::io(
        format!(
            "put {} layers and {} together with overlayfs",
            lower.len(),
            upper.display()
        ),
        e,
    )
}

fn overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    attr: &MountAttr,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    fsconfig_set_string(&context, "upperdir", upper)?;
    fsconfig_set_string(&context, "workdir", work)?;
    // What a container writes ends with it: waiting for the disk when it is unmounted (milliseconds to seconds) is for nothing.
    // The kernel marks such a directory, so that it is not trusted after a crash; this runtime does not use one again then.
    fsconfig_set_flag(&context, "volatile")?;
    if rootless::in_user_namespace() {
        // Its `trusted` attributes are for the host's root alone. (Linux 5.11)
        fsconfig_set_flag(&context, "userxattr")?;
    }
    let _ = std::fs::remove_dir_all(work.join("work/incompat"));
    create(&context, attr)
}

fn create(context: &OwnedFd, attr: &MountAttr) -> rustix::io::Result<OwnedFd> {
    fsconfig_create(context)?;
    let flags = MountAttrFlags::from_bits_retain(u32::try_from(attr.set).unwrap_or(0));
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Layers whose owners are mapped: each is covered by a mapped mount of itself, in a mount namespace of which nothing stays.
fn in_namespace(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    attr: &MountAttr,
    maps: &Maps,
) -> Result<OwnedFd> {
    let namespace = maps.namespace()?;
    let mut layers = Vec::new();
    for layer in lower {
        let mount = kernel::copy_path(layer, false)?;
        kernel::map_owners(mount.as_fd(), false, namespace.as_fd(), layer)?;
        layers.push(mount);
    }
    // The root directory is the upper layer's; all else that is copied up keeps its owner.
    if let Some((uid, gid)) = maps.root() {
        std::os::unix::fs::chown(upper, Some(uid), Some(gid))
            .map_err(|e| Error::io(format!("give {} to user {uid}", upper.display()), e))?;
    }
    aside(|| {
        for (path, mount) in lower.iter().zip(&layers) {
            let over = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(mount, "", CWD, path, over).map_err(|e| failed(lower, upper, e))?;
        }
        match overlay(lower, upper, work, attr) {
            Err(Errno::INVAL) => mount_on_upper(lower, upper, work, attr),
            other => other.map_err(|e| failed(lower, upper, e)),
        }
    })
}

/// Makes a mount in a short-lived process with a mount namespace of its own, of which nothing stays but the descriptor.
fn aside(make: impl FnOnce() -> Result<OwnedFd>) -> Result<OwnedFd> {
    let (ours, theirs) = crate::container::channel::pair()?;
    let forked = clone(libc::CLONE_NEWNS as u64, false)
        .map_err(|e| Error::io("start a process for a mount", e))?;
    let crate::container::sys::Forked::Parent { pid, .. } = forked else {
        drop(ours);
        let word = match private().and_then(|()| make()) {
            Ok(mount) => crate::container::channel::Word::Done(Some(mount)),
            Err(error) => crate::container::channel::Word::Failed(error),
        };
        let _ = theirs.send(&word);
        exit(0)
    };
    drop(theirs);
    let mount = ours.wait();
    crate::container::spawn::wait(pid);
    mount?.ok_or_else(|| Error::Internal("the process for the mount gave no mount".to_owned()))
}

/// Nothing that is mounted here is seen elsewhere.
pub(super) fn private() -> Result<()> {
    let slash = rustix::fs::open(
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|e| Error::io("open the root", e))?;
    let private = MountAttr {
        propagation: super::options::PRIVATE,
        ..MountAttr::default()
    };
    kernel::set(slash.as_fd(), true, &private)
}

/// The same as `overlay` by mount(2), whose options are at most a page. It can only mount on a path, so this belongs into `aside`.
fn mount_on_upper(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    attr: &MountAttr,
) -> Result<OwnedFd> {
    let mut data = mount_data(lower, upper, work);
    if rootless::in_user_namespace() {
        data.extend(b",userxattr");
    }
    let data = CString::new(data)
        .map_err(|_| Error::Invalid("a layer's path has a zero byte".to_owned()))?;
    rustix::mount::mount(
        "overlay",
        upper,
        "overlay",
        rustix::mount::MountFlags::empty(),
        data.as_c_str(),
    )
    .map_err(|e| failed(lower, upper, e))?;
    let mount = kernel::copy_path(upper, false)?;
    kernel::set(mount.as_fd(), false, attr)?;
    Ok(mount)
}

/// The options of mount(2), in which `:` parts layers and `,` parts options.
fn mount_data(lower: &[PathBuf], upper: &Path, work: &Path) -> Vec<u8> {
    let escaped = |path: &Path, special: &[u8]| {
        let mut out = Vec::new();
        for &byte in path.as_os_str().as_bytes() {
            if special.contains(&byte) {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out
    };
    let layers: Vec<Vec<u8>> = lower.iter().map(|layer| escaped(layer, b"\\:,")).collect();
    let mut data = b"lowerdir=".to_vec();
    data.extend(layers.join(&b':'));
    data.extend(b",upperdir=");
    data.extend(escaped(upper, b"\\,"));
    data.extend(b",workdir=");
    data.extend(escaped(work, b"\\,"));
    data
}

/// No options.
impl Options {
    pub(super) fn with(set: u64) -> Self {
        Self {
            attr: MountAttr {
                set,
                ..MountAttr::default()
            },
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_of_layer_paths_are_escaped_for_mount() {
        let data = mount_data(
            &["/a:b".into(), "/c,d".into()],
            Path::new("/u:p"),
            Path::new("/w"),
        );
        assert_eq!(
            String::from_utf8(data).unwrap(),
            "lowerdir=/a\\:b:/c\\,d,upperdir=/u:p,workdir=/w"
        );
    }

    /// Old kernels' way, which new ones still have. As root only.
    #[test]
    fn layers_are_put_together_by_mount_where_fsconfig_cannot() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b", "upper", "work"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("a/one"), "from a").unwrap();
        std::fs::write(path("b/one"), "from b").unwrap();
        std::fs::write(path("b/two"), "from b").unwrap();
        let layers = [path("a"), path("b")];
        for make in [
            |l: &[PathBuf], u: &Path, w: &Path, a: &MountAttr| aside(|| mount_on_upper(l, u, w, a)),
            |l: &[PathBuf], u: &Path, w: &Path, a: &MountAttr| {
                overlay(l, u, w, a).map_err(|e| failed(l, u, e))
            },
        ] {
            let mount = make(
                &layers,
                &path("upper"),
                &path("work"),
                &MountAttr::default(),
            )
            .unwrap();
            let read = |name: &str| {
                use std::io::Read;
                let fd = kernel::find(mount.as_fd(), Path::new(name), rustix::fs::OFlags::RDONLY)
                    .unwrap();
                let mut text = String::new();
                std::fs::File::from(fd).read_to_string(&mut text).unwrap();
                text
            };
            assert_eq!(
                (read("one"), read("two")),
                ("from a".to_owned(), "from b".to_owned())
            );
        }
    }
}
