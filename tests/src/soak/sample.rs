//! What one host holds at one moment.

use crate::{Host, cgroups, clean, processes};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What one host holds. Sizes are in KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// The agent's process id: another one is another life.
    pub agent: i32,
    /// Its resident memory, without what it maps of files: pages of its program come in as they are needed, and may go.
    pub agent_memory: u64,
    /// Its descriptors.
    pub agent_files: u64,
    /// Its threads.
    pub agent_threads: u64,
    /// Shims.
    pub shims: usize,
    /// That of all of them together.
    pub shim_memory: u64,
    /// Their descriptors together.
    pub shim_files: u64,
    /// All other processes of the host.
    pub containers: usize,
    /// Processes that have ended and whose parents have not asked how.
    pub zombies: usize,
    /// Namespaces that its processes are in.
    pub namespaces: usize,
    /// Mounts below its folder.
    pub mounts: usize,
    /// Links in its network namespace.
    pub links: usize,
    /// Packet filter rules, the faults' own left out.
    pub rules: usize,
    /// Its control groups, in all hierarchies.
    pub groups: usize,
    /// What its data takes.
    pub disk: u64,
    /// Files and folders among its data.
    pub files: u64,
}

impl Sample {
    /// Measures a host.
    ///
    /// # Errors
    /// Where its agent does not run, or it cannot be looked at.
    pub fn of(host: &Host) -> Result<Self> {
        let agent = host.agent_pid().context("the agent does not run")?;
        let all = host.processes();
        let is_shim = |pid: &i32| {
            let line = processes::command_line(*pid);
            *pid != agent && line.contains("swarmd") && line.contains(" shim ")
        };
        let shims: Vec<i32> = all.iter().copied().filter(is_shim).collect();
        let namespaces: BTreeSet<String> = all.iter().flat_map(|pid| namespaces(*pid)).collect();
        let groups = cgroups::named(host.group());
        let mut sample = Self {
            agent,
            agent_memory: status(agent, "RssAnon:"),
            agent_files: files(agent),
            agent_threads: status(agent, "Threads:"),
            shims: shims.len(),
            shim_memory: shims.iter().map(|pid| status(*pid, "RssAnon:")).sum(),
            shim_files: shims.iter().map(|pid| files(*pid)).sum(),
            containers: all
                .iter()
                .filter(|p| **p != agent && !shims.contains(p))
                .count(),
            zombies: zombies(&all),
            namespaces: namespaces.len(),
            mounts: clean::mounts_under(host.folder()).len(),
            links: host.netns.ip(&["-o", "link"])?.lines().count(),
            rules: rules(host)?,
            groups: groups.iter().map(|g| cgroups::subtree(g).len()).sum(),
            disk: 0,
            files: 0,
        };
        measure(&host.data_dir(), &mut sample);
        measure(&host.run_dir(), &mut sample);
        Ok(sample)
    }

    /// What there is more of than in `first`, of what is to be the same to the last one.
    #[must_use]
    pub fn more_than(&self, first: &Self) -> Vec<String> {
        self.counts()
            .into_iter()
            .zip(first.counts())
            .filter(|((_, now), (_, then))| now > then)
            .map(|((what, now), (_, then))| format!("{now} {what}, at first {then}"))
            .collect()
    }

    fn counts(&self) -> [(&'static str, usize); 8] {
        [
            ("shims", self.shims),
            ("containers' processes", self.containers),
            ("zombies", self.zombies),
            ("namespaces", self.namespaces),
            ("mounts", self.mounts),
            ("links", self.links),
            ("rules", self.rules),
            ("control groups", self.groups),
        ]
    }
}

fn status(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

fn files(pid: i32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |d| d.count() as u64)
}

fn namespaces(pid: i32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/ns")) else {
        return Vec::new();
    };
    let own = |e: std::fs::DirEntry| std::fs::read_link(e.path()).ok();
    let names = entries.filter_map(|e| own(e.ok()?));
    names.map(|n| n.to_string_lossy().into_owned()).collect()
}

/// Children of these processes that are dead and not waited for.
fn zombies(parents: &BTreeSet<i32>) -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let is = |entry: std::fs::DirEntry| -> Option<bool> {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name in parentheses: state, parent (proc_pid_stat(5)).
        let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, parent) = (rest.next()?, rest.next()?.parse::<i32>().ok()?);
        Some(state == "Z" && parents.contains(&parent))
    };
    entries
        .filter_map(Result::ok)
        .filter_map(is)
        .filter(|z| *z)
        .count()
}

fn rules(host: &Host) -> Result<usize> {
    let mut nft = Command::new("nft");
    let list = host.run(nft.args(["-a", "list", "ruleset"]), Duration::from_secs(20))?;
    let text = list.ok()?.stdout;
    let mut faults = false;
    let mut count = 0;
    for line in text.lines() {
        if line.starts_with("table ") {
            faults = line.contains(crate::faults::TABLE);
        }
        count += usize::from(!faults && line.contains("# handle "));
    }
    Ok(count)
}

/// Adds what is below `folder`, on that file system only.
fn measure(folder: &Path, sample: &mut Sample) {
    use std::os::unix::fs::MetadataExt;
    let Ok(device) = std::fs::symlink_metadata(folder).map(|m| m.dev()) else {
        return;
    };
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let entries = std::fs::read_dir(&next).into_iter().flatten();
        for entry in entries.filter_map(Result::ok) {
            let Ok(about) = entry.path().symlink_metadata() else {
                continue;
            };
            if about.dev() != device {
                continue;
            }
            sample.files += 1;
            // Blocks of 512 bytes (stat(2)).
            sample.disk += about.blocks() / 2;
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_more_of_is_named() {
        let first = Sample {
            mounts: 3,
            links: 4,
            ..Sample::default()
        };
        let now = Sample {
            mounts: 5,
            links: 2,
            agent_memory: 9999,
            ..Sample::default()
        };
        assert_eq!(now.more_than(&first), ["5 mounts, at first 3"]);
        assert!(first.more_than(&first).is_empty());
    }

    #[test]
    fn what_this_process_holds_is_found() {
        let pid = std::process::id() as i32;
        assert!(status(pid, "RssAnon:") > 100);
        assert!(status(pid, "Threads:") >= 1);
        assert!(files(pid) >= 3);
        assert!(namespaces(pid).iter().any(|n| n.starts_with("net:")));
    }

    #[test]
    fn a_folder_s_size_is_that_of_all_below_it() {
        let folder = std::env::temp_dir().join(format!("soak-measure-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("a/b")).unwrap();
        std::fs::write(folder.join("a/b/c"), vec![1; 100_000]).unwrap();
        let mut sample = Sample::default();
        measure(&folder, &mut sample);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(sample.files, 3);
        assert!(sample.disk >= 97, "{}", sample.disk);
    }
}
