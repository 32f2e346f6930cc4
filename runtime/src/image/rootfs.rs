//! Reads a file of an image through its layers, without mounting them.

use super::resolve::{directory_in_root, open_folder, open_in_root};
use crate::container::rootless;
use rustix::fs::{AtFlags, FileType, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// The contents of `path` (relative, in `folder/name` form) as a container over `layers`, topmost first, would see
/// them: at most `limit` bytes. None if it is not there, is no regular file, or is larger. Symbolic links that lead from one layer
/// to another are not followed.
#[must_use]
pub fn read_file(layers: &[PathBuf], folder: &str, name: &str, limit: u64) -> Option<Vec<u8>> {
    for layer in layers {
        let Ok(root) = open_folder(layer) else {
            continue;
        };
        let Ok(parent) = directory_in_root(&root, folder.as_bytes()) else {
            continue;
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => {
                let kind = FileType::from_raw_mode(there.st_mode);
                if !(kind.is_file() || kind.is_symlink()) {
                    return None;
                }
                let path = format!("{folder}/{name}");
                let fd = open_in_root(&root, path.as_bytes(), flags).ok()?;
                let stat = rustix::fs::fstat(&fd).ok()?;
                if !FileType::from_raw_mode(stat.st_mode).is_file() {
                    return None;
                }
                let mut text = Vec::new();
                File::from(fd).take(limit + 1).read_to_end(&mut text).ok()?;
                return (text.len() as u64 <= limit).then_some(text);
            }
            Err(_) if is_opaque(parent.as_fd()) => return None,
            Err(_) => {}
        }
    }
    None
}

fn is_opaque(folder: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut value = [0u8; 1];
    matches!(
        rustix::fs::fgetxattr(folder, rootless::opaque_attribute(), &mut value),
        Ok(1)
    ) && value == *b"y"
}
