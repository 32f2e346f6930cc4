//! A cgroup v2 that was handed to this user, to make others in it (cgroups(7), "Delegation"). Must not know of containers.

use super::{ROOT, files, v2};
use crate::{Error, Result};
use rustix::fs::{Access, access};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where this program itself goes in such a cgroup: one with processes in it cannot hand controllers down.
const OWN: &str = "supervisor";

/// The cgroup below which an ordinary user's containers are made, relative to the hierarchy's root: the one that this process is in,
/// if it is this user's and nobody else's process is in it. This process then moves into one below it.
pub fn delegated() -> Result<Option<PathBuf>> {
    let root = Path::new(ROOT);
    if !v2::is(root) {
        return Ok(None);
    }
    let own = fs::read_to_string("/proc/self/cgroup")
        .map_err(|e| Error::io("read /proc/self/cgroup", e))?;
    let Some(own) = own_path(&own) else {
        return Ok(None);
    };
    let (base, moved) = match own.parent() {
        Some(above) if own.file_name().is_some_and(|name| name == OWN) => (above.to_owned(), true),
        _ => (own, false),
    };
    let directory = root.join(&base);
    let ours = ["", "cgroup.procs", "cgroup.subtree_control"]
        .iter()
        .all(|file| access(directory.join(file), Access::WRITE_OK).is_ok());
    if !ours || base.as_os_str().is_empty() {
        return Ok(None);
    }
    if !moved {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let procs = files::read(&directory.join("cgroup.procs"))?;
        if procs.lines().any(|pid| pid.parse() != Ok(me)) {
            return Ok(None);
        }
        let below = directory.join(OWN);
        fs::create_dir_all(&below)
            .map_err(|e| Error::io(format!("make the cgroup {}", below.display()), e))?;
        files::write(&below.join("cgroup.procs"), "0")?;
    }
    Ok(Some(base))
}

/// The path in the v2 hierarchy, of a text like `/proc/PID/cgroup`.
pub(super) fn own_path(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!path.split('/').any(|part| part == "..")).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_that_of_v2_and_in_sight() {
        let path = |text: &str| own_path(text).map(|path| path.display().to_string());
        assert_eq!(
            path("4:memory:/a\n0::/user.slice/me\n").as_deref(),
            Some("user.slice/me")
        );
        assert_eq!(path("0::/../elsewhere\n"), None);
        assert_eq!(path("4:memory:/a\n"), None);
    }
}
