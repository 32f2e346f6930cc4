//! What clusters leave on the machine: found by the prefix in its name, and swept away.

use crate::{cgroups, netns, processes, wait_until};
use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What every prefix begins with; the owner's process id and two random digits, in hexadecimal, follow.
pub const MARK: &str = "swt";
const PID_DIGITS: usize = 6;

/// A prefix for a cluster of this process.
#[must_use]
pub fn new_prefix() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{MARK}{:06x}{:02x}", std::process::id(), random & 0xff)
}

/// The folder of all the files of the cluster with this prefix.
#[must_use]
pub fn folder(prefix: &str) -> PathBuf {
    // Not $TMPDIR: the path of a Unix socket has at most 107 bytes (unix(7)).
    Path::new("/tmp").join(prefix)
}

/// Everything with this prefix in its name, one line each: processes, mounts, control groups, links, network
/// namespaces, files.
#[must_use]
pub fn leftovers(prefix: &str) -> Vec<String> {
    let mut found: Vec<String> = processes_of(prefix)
        .into_iter()
        .map(|pid| format!("process {pid} {}", processes::command_line(pid)))
        .collect();
    let folder = folder(prefix);
    found.extend(
        mounts_under(&folder)
            .iter()
            .map(|m| format!("mount {}", m.display())),
    );
    found.extend(
        cgroups::with_prefix(prefix)
            .iter()
            .map(|g| format!("cgroup {}", g.display())),
    );
    found.extend(
        namespaces(prefix)
            .iter()
            .map(|n| format!("network namespace {n}")),
    );
    if let Ok(links) = netns::ip(&["-o", "link"]) {
        found.extend(
            links
                .lines()
                .filter(|l| l.contains(prefix))
                .map(|l| format!("link {l}")),
        );
    }
    if folder.exists() {
        found.push(format!("folder {}", folder.display()));
    }
    found
}

/// Removes everything with this prefix in its name.
///
/// # Errors
/// When something stays.
pub fn sweep(prefix: &str) -> Result<()> {
    let inodes: BTreeSet<u64> = namespaces(prefix)
        .iter()
        .filter_map(|n| {
            use std::os::unix::fs::MetadataExt;
            Some(
                std::fs::metadata(Path::new(netns::FOLDER).join(n))
                    .ok()?
                    .ino(),
            )
        })
        .collect();
    wait_until(
        "the hosts' processes are dead",
        Duration::from_secs(30),
        || {
            let mut alive = processes_of(prefix);
            for inode in &inodes {
                alive.extend(processes::of_host(prefix, Some(*inode), &folder(prefix)));
            }
            processes::signal_all(alive.iter().copied(), Signal::KILL)?;
            ensure!(alive.is_empty(), "processes {alive:?} live");
            Ok(())
        },
    )?;
    for mount in mounts_under(&folder(prefix)) {
        unmount(&mount)?;
    }
    for name in namespaces(prefix) {
        netns::ip(&["netns", "del", &name])?;
    }
    for group in cgroups::with_prefix(prefix) {
        remove_group(&group)?;
    }
    match std::fs::remove_dir_all(folder(prefix)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", folder(prefix).display()));
        }
        _ => {}
    }
    let left = leftovers(prefix);
    ensure!(left.is_empty(), "these stay behind: {left:#?}");
    Ok(())
}

/// The prefixes of clusters on this machine whose owners are gone.
#[must_use]
pub fn abandoned() -> BTreeSet<String> {
    let mut names: Vec<String> = namespaces(MARK);
    names.extend(entries("/tmp"));
    let base = |p: PathBuf| Some(p.file_name()?.to_string_lossy().into_owned());
    names.extend(cgroups::with_prefix(MARK).into_iter().filter_map(base));
    names
        .iter()
        .filter_map(|name| prefix_of(name))
        .filter(|(_, owner)| !processes::is_alive(*owner))
        .map(|(prefix, _)| prefix)
        .collect()
}

/// The process that the cluster with this prefix belongs to.
#[must_use]
pub fn owner(prefix: &str) -> Option<i32> {
    prefix_of(prefix).map(|(_, owner)| owner)
}

/// Where something is mounted at or under `folder`, the last mounted first.
#[must_use]
pub fn mounts_under(folder: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|m| m.starts_with(folder))
        .collect();
    found.reverse();
    found
}

/// Unmounts, also what is in use; what is gone already is no error.
///
/// # Errors
/// Where the kernel refuses.
pub fn unmount(mount: &Path) -> Result<()> {
    match umount2(mount, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot unmount {}", mount.display())),
    }
}

/// Removes the control groups named `name`, with all below them.
///
/// # Errors
/// When a process stays in one.
pub fn remove_groups(name: &str) -> Result<()> {
    cgroups::named(name)
        .iter()
        .try_for_each(|g| remove_group(g))
}

fn remove_group(group: &Path) -> Result<()> {
    // The kernel lets go of the last process a little after its death.
    wait_until(
        "the control groups are empty",
        Duration::from_secs(10),
        || cgroups::remove(group),
    )
}

fn processes_of(prefix: &str) -> BTreeSet<i32> {
    let mut found: BTreeSet<i32> = cgroups::with_prefix(prefix)
        .iter()
        .flat_map(|g| cgroups::processes(g))
        .collect();
    let folder = format!("{}/", folder(prefix).display());
    found.extend(processes::matching(|pid| {
        processes::command_line(pid).contains(&folder)
    }));
    found.remove(&(std::process::id() as i32));
    found
}

fn namespaces(prefix: &str) -> Vec<String> {
    let mut names = entries(netns::FOLDER);
    names.retain(|n| n.starts_with(prefix));
    names
}

fn entries(folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// The prefix that `name` begins with, and its owner's process id.
fn prefix_of(name: &str) -> Option<(String, i32)> {
    let digits = name.strip_prefix(MARK)?;
    let owner = i32::from_str_radix(digits.get(..PID_DIGITS)?, 16).ok()?;
    let end = MARK.len() + PID_DIGITS + 2;
    u8::from_str_radix(name.get(end - 2..end)?, 16).ok()?;
    Some((name[..end].to_owned(), owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_tells_its_owner() {
        let prefix = new_prefix();
        let found = prefix_of(&format!("{prefix}-h1")).unwrap();
        assert_eq!(found, (prefix, std::process::id() as i32));
        for other in ["", "swt", "swtnothexno", "swarm", "swt0000"] {
            assert_eq!(prefix_of(other), None, "{other}");
        }
    }
}
