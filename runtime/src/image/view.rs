//! An image's files as a container sees them, for a moment and for reading: by a mount that nobody else sees and of
//! which nothing stays. And out of them a folder, copied with all that belongs to its files.

use super::copy;
use super::resolve::{directory_in_root, open_folder};
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, mount_change,
};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Copies what the image has in its folder `path` to `into`, an empty folder, which gets that folder's owner and mode as
/// well. `layers` are topmost first. Whether there was such a folder.
///
/// # Errors
/// Where the layers cannot be put together, or something cannot be copied.
pub(crate) fn copy_folder(layers: &[PathBuf], path: &str, into: &Path) -> Result<bool> {
    let (path, into) = (path.to_owned(), into.to_owned());
    view(layers, move |root| {
        match directory_in_root(root, path.as_bytes()) {
            Ok(folder) => copy::tree(&folder, &open_folder(&into)?)
                .map_err(|e| Error::io(format!("copy {path} of the image"), e))
                .map(|()| true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(Error::io(format!("open {path} of the image"), e)),
        }
    })
}

/// Lets `work` look at the layers put together.
fn view<T: Send>(layers: &[PathBuf], work: impl FnOnce(&OwnedFd) -> Result<T> + Send) -> Result<T> {
    if let [only] = layers {
        return work(&open_folder(only)?);
    }
    let failed = |e: Errno| {
        let attempt = format!("put {} layers together with overlayfs", layers.len());
        Error::io(attempt, e)
    };
    match by_descriptor(layers) {
        Ok(mounted) => work(&mounted),
        // Before Linux 6.7 there was no `lowerdir+`.
        Err(Errno::INVAL | Errno::NOSYS) => std::thread::scope(|scope| {
            let aside = || work(&by_path(layers).map_err(failed)?);
            scope.spawn(aside).join().unwrap_or_else(|_| {
                Err(Error::Internal(
                    "the thread that looks at an image ended".into(),
                ))
            })
        }),
        Err(e) => Err(failed(e)),
    }
}

/// A mount that is attached nowhere.
fn by_descriptor(layers: &[PathBuf]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

/// By mount(2), over the topmost layer in a mount namespace of this thread's own. Options are at most a page: paths are
/// relative to the folder that all layers are in.
fn by_path(layers: &[PathBuf]) -> rustix::io::Result<OwnedFd> {
    let top = layers.first().ok_or(Errno::INVAL)?;
    let common = top.ancestors().nth(2).unwrap_or(Path::new("/"));
    let mut data = b"lowerdir=".to_vec();
    for (number, layer) in layers.iter().enumerate() {
        if number > 0 {
            data.push(b':');
        }
        let short = layer.strip_prefix(common).unwrap_or(layer);
        data.extend_from_slice(short.as_os_str().as_bytes());
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|e| Errno::from_raw_os_error(e as i32))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    rustix::process::chdir(common)?;
    let flags = MountFlags::RDONLY;
    mount("overlay", top, "overlay", flags, data.as_c_str())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(top, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    /// As root only.
    #[test]
    fn layers_are_looked_at_together_on_new_kernels_and_on_old_ones() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str, text: &str| {
            let path = dir.path().join(name).join("fs");
            std::fs::create_dir_all(path.join("d")).unwrap();
            std::fs::write(path.join("d").join(name), text).unwrap();
            std::fs::write(path.join("d/both"), text).unwrap();
            path
        };
        let layers = [layer("top", "t"), layer("low", "l")];
        let read = |root: &OwnedFd| -> Result<_> {
            let fd = directory_in_root(root, b"d").unwrap();
            let read = |name: &str| {
                let fd = rustix::fs::openat(&fd, name, OFlags::RDONLY, Mode::empty()).unwrap();
                std::io::read_to_string(std::fs::File::from(fd)).unwrap()
            };
            Ok((read("low"), read("top"), read("both")))
        };
        let wanted = ("l".to_owned(), "t".to_owned(), "t".to_owned());
        assert_eq!(view(&layers, read).unwrap(), wanted);
        let old =
            std::thread::scope(|s| s.spawn(|| read(&by_path(&layers).unwrap())).join().unwrap());
        assert_eq!(old.unwrap(), wanted);
    }

    #[test]
    fn a_folder_comes_with_its_owner_its_links_and_its_attributes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (layer, into) = (dir.path().join("l"), dir.path().join("into"));
        let data = layer.join("var/data");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::create_dir(&into).unwrap();
        std::os::unix::fs::symlink("/var/data", layer.join("link")).unwrap();
        std::fs::write(data.join("sub/file"), "text").unwrap();
        std::fs::hard_link(data.join("sub/file"), data.join("same")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", data.join("away")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o2750);
        std::fs::set_permissions(&data, mode).unwrap();
        chown(&data, Some(70), Some(71)).unwrap();
        chown(data.join("same"), Some(5), Some(6)).unwrap();
        let mode = std::fs::Permissions::from_mode(0o4711);
        std::fs::set_permissions(data.join("same"), mode).unwrap();
        let no_flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(data.join("same"), "user.a", b"b", no_flags).unwrap();

        assert!(!copy_folder(std::slice::from_ref(&layer), "/none", &into).unwrap());
        assert!(copy_folder(&[layer], "/link", &into).unwrap());
        let root = std::fs::metadata(&into).unwrap();
        assert_eq!(
            (root.mode() & 0o7777, root.uid(), root.gid()),
            (0o2750, 70, 71)
        );
        let (file, same) = (
            std::fs::metadata(into.join("sub/file")).unwrap(),
            std::fs::metadata(into.join("same")).unwrap(),
        );
        assert_eq!(file.ino(), same.ino());
        assert_eq!(
            (file.mode() & 0o7777, file.uid(), file.gid()),
            (0o4711, 5, 6)
        );
        assert_eq!(std::fs::read_to_string(into.join("same")).unwrap(), "text");
        assert_eq!(
            std::fs::read_link(into.join("away")).unwrap(),
            Path::new("/etc/passwd")
        );
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(into.join("same"), "user.a", &mut value).unwrap();
        assert_eq!(&value[..length], b"b");
    }
}
