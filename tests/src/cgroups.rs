//! The control groups of a host: on v1 one folder in each hierarchy, on v2 one in all.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Where hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How deep below a hierarchy's root a host's group may be (the machine may be a container itself).
const DEPTH: usize = 6;

/// All groups named `name`, in every hierarchy; not those below them.
#[must_use]
pub fn named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    search(Path::new(ROOT), DEPTH, &|n| n == name, &mut found);
    found
}

/// All groups whose names begin with `prefix`, in every hierarchy; not those below them.
#[must_use]
pub fn with_prefix(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    search(
        Path::new(ROOT),
        DEPTH,
        &|n| n.starts_with(prefix),
        &mut found,
    );
    found
}

/// `group` and all groups below it, deepest first.
#[must_use]
pub fn subtree(group: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = folders(group).iter().flat_map(|g| subtree(g)).collect();
    all.push(group.into());
    all
}

/// The processes in `group` and below.
#[must_use]
pub fn processes(group: &Path) -> Vec<i32> {
    let read = |g: &PathBuf| std::fs::read_to_string(g.join("cgroup.procs")).unwrap_or_default();
    subtree(group)
        .iter()
        .flat_map(|g| {
            read(g)
                .lines()
                .filter_map(|l| l.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// Removes `group` and all below it.
///
/// # Errors
/// Where a process is still in one.
pub fn remove(group: &Path) -> Result<()> {
    for g in subtree(group) {
        match std::fs::remove_dir(&g) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove cgroup {}", g.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The value of the first of `files` that there is in a group of process `pid` (v1 and v2 name them differently).
///
/// # Errors
/// Where there is none.
pub fn value_of(pid: i32, files: &[&str]) -> Result<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    for line in groups.lines() {
        // hierarchy-ID:controller-list:path (cgroups(7))
        let mut parts = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        for folder in folders(Path::new(ROOT)).into_iter().chain([ROOT.into()]) {
            let name = folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let matches = name
                .split(',')
                .any(|n| controllers.split(',').any(|c| c == n))
                || (controllers.is_empty() && (name == "unified" || name == "cgroup"));
            if !matches {
                continue;
            }
            for file in files {
                let file = folder.join(path.trim_start_matches('/')).join(file);
                if let Ok(value) = std::fs::read_to_string(file) {
                    return Ok(value.trim().into());
                }
            }
        }
    }
    anyhow::bail!("process {pid} is in no cgroup that has one of {files:?}; it is in {groups}")
}

fn search(folder: &Path, depth: usize, wanted: &dyn Fn(&str) -> bool, found: &mut Vec<PathBuf>) {
    for child in folders(folder) {
        let name = child
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if wanted(&name) {
            found.push(child);
        } else if depth > 0 {
            search(&child, depth - 1, wanted, found);
        }
    }
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(of) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}
