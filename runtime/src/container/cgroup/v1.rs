//! One cgroup in each of the v1 hierarchies that a container needs. Must not know of OCI resources, only of files and values.

use super::{CgroupStats, Figures, OomEvents, figures, files, resources::Limit};
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags, open};
use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

/// Controllers that every container gets where the host has them.
const USUAL: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];

/// The hierarchy without a controller, in which systemd keeps services apart.
pub(super) const NAMED: &str = "systemd";

/// A limit at or above this is none: the kernel rounds "unlimited" down to pages.
pub(super) const UNLIMITED: u64 = 1 << 62;

/// The cgroups: the hierarchy's name (its controllers, separated by commas) and the directory.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    directories: Vec<(String, PathBuf)>,
}

impl Groups {
    /// Those of a container made earlier.
    pub(super) fn open(root: &Path, path: &Path) -> Result<Self> {
        let directories = hierarchies(root)?
            .into_iter()
            .map(|name| {
                let directory = root.join(&name).join(path);
                (name, directory)
            })
            .filter(|(_, directory)| directory.is_dir())
            .collect();
        Ok(Self { directories })
    }

    /// Those for a new container with these limits, in hierarchies that are `there`.
    pub(super) fn new(
        root: &Path,
        there: Vec<String>,
        path: &Path,
        limits: &[Limit],
        freezer: bool,
        parted: bool,
    ) -> Result<Self> {
        for limit in limits {
            if !there
                .iter()
                .any(|name| name.split(',').any(|c| c == limit.controller))
            {
                return Err(Error::Unsupported(format!(
                    "cannot set {} of the container: the host's cgroups have no `{}` controller",
                    limit.file, limit.controller
                )));
            }
        }
        // systemd ends what it finds in the cgroup of a service that it stops: containers do not belong to it.
        let systemd = parted || Path::new("/run/systemd/system").exists();
        let wanted = |controller: &str| {
            USUAL.contains(&controller)
                || limits.iter().any(|limit| limit.controller == controller)
                || (freezer && controller == "freezer")
                || (systemd && controller == NAMED)
        };
        let directories = there
            .into_iter()
            .filter(|name| name.split(',').any(wanted))
            .map(|name| {
                let directory = root.join(&name).join(path);
                (name, directory)
            })
            .collect();
        Ok(Self { directories })
    }

    /// Makes them and sets the limits.
    pub(super) fn create(&self, limits: &[Limit]) -> Result<()> {
        for (name, directory) in &self.directories {
            files::make(directory)?;
            if name.split(',').any(|controller| controller == "cpuset") {
                inherit_cpuset(directory)?;
            }
        }
        // A dozen device rules go into one file.
        let same = |a: &Limit, b: &Limit| a.controller == "devices" && a.file == b.file;
        for run in limits.chunk_by(same) {
            match run {
                [limit] => limit.write(self.need(limit.controller)?)?,
                [first, ..] => files::write_each(
                    &self.need(first.controller)?.join(&first.file),
                    run.iter().map(|limit| limit.value.as_str()),
                )?,
                [] => {}
            }
        }
        Ok(())
    }

    /// Sets limits in those that are there.
    pub(super) fn update(&self, limits: &[Limit]) -> Result<()> {
        let mut failed = Vec::new();
        for limit in limits {
            let directory = self.need(limit.controller)?;
            if limit.write(directory).is_err() {
                failed.push(limit);
            }
        }
        // The memory limit must not be above the one of memory with swap, which may come later.
        failed
            .into_iter()
            .try_for_each(|limit| limit.write(self.need(limit.controller)?))
    }

    /// See `Cgroup`.
    pub(super) fn is_frozen(&self) -> Result<bool> {
        match self.get("freezer") {
            Some(directory) => {
                Ok(files::read(&directory.join("freezer.state"))?.trim() != "THAWED")
            }
            None => Ok(false),
        }
    }

    /// Names and directories.
    pub(super) fn directories(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.directories
            .iter()
            .map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// Whether the devices controller is there.
    pub(super) fn limits_devices(&self) -> bool {
        self.get("devices").is_some()
    }

    /// See `Cgroup`.
    pub(super) fn stats(&self) -> Result<CgroupStats> {
        let mut stats = CgroupStats {
            cpu_ns: files::number(&self.need("cpuacct")?.join("cpuacct.usage"))?,
            ..CgroupStats::default()
        };
        if let Some(memory) = self.get("memory") {
            let idle = files::keyed(&memory.join("memory.stat"), "total_inactive_file")?;
            stats.memory =
                files::number(&memory.join("memory.usage_in_bytes"))?.saturating_sub(idle);
            let limit = files::number(&memory.join("memory.limit_in_bytes"))?;
            stats.memory_limit = (limit < UNLIMITED).then_some(limit);
        }
        if let Some(pids) = self.get("pids") {
            stats.pids = files::number(&pids.join("pids.current"))?;
        }
        Ok(stats)
    }

    /// See `Cgroup`.
    pub(super) fn figures(&self) -> Figures {
        figures::legacy(|controller| self.get(controller))
    }

    /// See `Cgroup`.
    pub(super) fn oom_kills(&self) -> Result<u64> {
        files::keyed(&self.need("memory")?.join("memory.oom_control"), "oom_kill")
    }

    /// See `Cgroup`.
    pub(super) fn oom_events(&self) -> Result<OomEvents> {
        OomEvents::of_notices(self.need("memory")?)
    }

    /// See `Cgroup`.
    pub(super) fn pids(&self) -> Result<Vec<i32>> {
        match self.directories.first() {
            Some((_, directory)) => files::pids(directory),
            None => Ok(Vec::new()),
        }
    }

    /// Stops or continues its processes.
    pub(super) fn freeze(&self, freeze: bool) -> Result<()> {
        let file = self.need("freezer")?.join("freezer.state");
        let want = if freeze { "FROZEN" } else { "THAWED" };
        files::write(&file, want)?;
        // The file has no event; each reading of it makes the kernel try again.
        for _ in 0..200 {
            if files::read(&file)?.trim() == want {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Error::Conflict(format!(
            "{} does not become {want} within a second",
            file.display()
        )))
    }

    /// Removes them.
    pub(super) fn remove(&self) -> Result<()> {
        let mut failure = Ok(());
        for (_, directory) in &self.directories {
            // v1 tells nobody when a cgroup becomes empty: look again after ever longer times.
            let mut pause = Duration::from_micros(200);
            let removed = files::remove(directory, |left| {
                std::thread::sleep(pause.min(left));
                pause = (pause * 2).min(Duration::from_millis(100));
            });
            failure = failure.and(removed);
        }
        failure
    }

    /// The lists of threads, for writing.
    pub(super) fn tasks(&self) -> Result<Vec<OwnedFd>> {
        self.directories
            .iter()
            .map(|(_, directory)| {
                let path = directory.join("tasks");
                open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| Error::io(format!("open {}", path.display()), e))
            })
            .collect()
    }

    fn get(&self, controller: &str) -> Option<&Path> {
        self.directories
            .iter()
            .find(|(name, _)| name.split(',').any(|c| c == controller))
            .map(|(_, path)| path.as_path())
    }

    fn need(&self, controller: &str) -> Result<&Path> {
        self.get(controller).ok_or_else(|| {
            Error::NotFound(format!(
                "the container has no cgroup with the `{controller}` controller"
            ))
        })
    }
}

/// Whether there is a hierarchy with this controller.
pub(super) fn has(there: &[String], controller: &str) -> bool {
    there
        .iter()
        .any(|name| name.split(',').any(|c| c == controller))
}

/// The mounted hierarchies, by name. They are what stands in `/sys/fs/cgroup`: symbolic links there are other names of the same.
pub(super) fn hierarchies(root: &Path) -> Result<Vec<String>> {
    let failed = |e| {
        Error::io(
            format!("list the cgroup hierarchies in {}", root.display()),
            e,
        )
    };
    let mut names: Vec<String> = fs::read_dir(root)
        .map_err(failed)?
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "unified")
        .collect();
    if names.is_empty() {
        return Err(Error::Unsupported(format!(
            "no cgroup hierarchy is mounted in {}; mount cgroup2 there",
            root.display()
        )));
    }
    names.sort();
    Ok(names)
}

/// A new cpuset has no CPUs and no memory, and takes no process: it gets its parent's, and the parent its own parent's.
fn inherit_cpuset(directory: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = directory.join(file);
        if !files::read(&path)?.trim().is_empty() {
            continue;
        }
        let Some(parent) = directory.parent() else {
            continue;
        };
        if files::read(&parent.join(file))?.trim().is_empty() {
            inherit_cpuset(parent)?;
        }
        files::write(&path, files::read(&parent.join(file))?.trim())?;
    }
    Ok(())
}
