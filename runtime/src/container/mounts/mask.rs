//! Paths that are hidden or made read-only. The null device that hides files is checked by descriptor (CVE-2025-31133).

use super::{
    kernel,
    options::{NODEV, NOEXEC, NOSUID, Options, RDONLY},
};
use crate::container::sys::MountAttr;
use crate::{Error, Result};
use rustix::{fs::OFlags, io::Errno};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Hides paths: files behind the null device, directories behind an empty one.
pub(super) fn hide(root: BorrowedFd<'_>, paths: &[PathBuf]) -> Result<()> {
    let mut null: Option<OwnedFd> = None;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(place) = find(root, path)? else {
            continue;
        };
        let directory = kernel::is_directory(&place)?;
        let source = if directory { &mut empty } else { &mut null };
        let mount = match source {
            // Attached once, it is copied from there.
            Some(attached) => kernel::copy(attached.as_fd(), false)?,
            None if directory => {
                let mut options = Options::with(RDONLY | NOSUID | NODEV | NOEXEC);
                options
                    .data
                    .push(("nr_inodes".to_owned(), Some("1".to_owned())));
                kernel::new("tmpfs", Some("tmpfs"), &options)?
            }
            None => {
                let device = kernel::find(
                    root,
                    Path::new("/dev/null"),
                    OFlags::PATH | OFlags::NOFOLLOW,
                )
                .map_err(|e| Error::io("open the container's /dev/null", e))?;
                if !kernel::is_device(&device, 1, 3) {
                    return Err(Error::Invalid(
                        "the container's /dev/null is not the null device: paths cannot be hidden behind it".to_owned(),
                    ));
                }
                kernel::copy(device.as_fd(), false)?
            }
        };
        kernel::attach(mount.as_fd(), place.as_fd())
            .map_err(|e| Error::io(format!("hide {} in the container", path.display()), e))?;
        *source = Some(mount);
    }
    Ok(())
}

/// Makes paths read-only, with what is mounted below them.
pub(super) fn protect(root: BorrowedFd<'_>, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let Some(place) = find(root, path)? else {
            continue;
        };
        let mount = kernel::copy(place.as_fd(), true)?;
        let attr = MountAttr {
            set: RDONLY,
            ..MountAttr::default()
        };
        kernel::set(mount.as_fd(), true, &attr)?;
        kernel::attach(mount.as_fd(), place.as_fd()).map_err(|e| {
            Error::io(
                format!("make {} read-only in the container", path.display()),
                e,
            )
        })?;
    }
    Ok(())
}

/// A path that is not there needs no protection.
fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match kernel::find(root, path, OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(Error::io(
            format!("open {} in the container", path.display()),
            e,
        )),
    }
}
