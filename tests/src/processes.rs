//! Which processes belong to a host: those in its control groups, in its network namespace, or with its folder in
//! their command line.

use crate::cgroups;
use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// All processes of the host whose control group is named `group`, whose network namespace has the number `netns`,
/// and whose files are under `folder`. Never this process.
#[must_use]
pub fn of_host(group: &str, netns: Option<u64>, folder: &Path) -> BTreeSet<i32> {
    let mut found: BTreeSet<i32> = cgroups::named(group)
        .iter()
        .flat_map(|g| cgroups::processes(g))
        .collect();
    let folder = folder.to_string_lossy().into_owned();
    found.extend(matching(|pid| {
        netns.is_some_and(|inode| inode_of_netns(pid) == Some(inode))
            || command_line(pid).contains(&folder)
    }));
    found.remove(&(std::process::id() as i32));
    found
}

/// All processes, zombies left out, for which `wanted` holds.
pub fn matching(wanted: impl Fn(i32) -> bool) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid| is_alive(*pid) && wanted(*pid))
        .collect()
}

/// Whether the process is there and no zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The state follows the name in parentheses, which may have any character (proc_pid_stat(5)).
        Ok(stat) => !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| matches!(rest.trim_start().chars().next(), Some('Z' | 'X'))),
        Err(_) => false,
    }
}

/// Its command line, arguments separated by spaces; empty where it is gone.
#[must_use]
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Sends `signal` to each; those that are gone are no error.
///
/// # Errors
/// Where the kernel refuses.
pub fn signal_all(pids: impl IntoIterator<Item = i32>, signal: Signal) -> Result<()> {
    for pid in pids {
        let Some(pid) = Pid::from_raw(pid) else {
            continue;
        };
        let sent = kill_process(pid, signal);
        ensure!(
            matches!(sent, Ok(()) | Err(rustix::io::Errno::SRCH)),
            "cannot signal process {pid:?}: {sent:?}"
        );
    }
    Ok(())
}

fn inode_of_netns(pid: i32) -> Option<u64> {
    Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}
