//! A cgroup in the v2 hierarchy. Must not know of OCI resources, only of files and values.

use super::{CgroupStats, files, resources::Limit};
use crate::{Error, Result};
use oci_spec::runtime::LinuxResources;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open, statfs},
};
use std::{
    fs::File,
    io::{Read, Seek},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Controllers that every container gets where the host has them: without them there are no statistics.
const USUAL: [&str; 3] = ["cpu", "memory", "pids"];

/// Whether `limit_devices` does anything.
pub(super) const LIMITS_DEVICES: bool = false;

/// Whether a cgroup v2 hierarchy is mounted there.
pub(super) fn is(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(CGROUP2_SUPER_MAGIC))
}

/// The place for the eBPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`) that would hold the spec's device rules on v2. It does
/// nothing yet: see `Cgroup`. When it does, `LIMITS_DEVICES` becomes true.
pub(super) fn limit_devices(_group: &Group, _resources: Option<&LinuxResources>) -> Result<()> {
    Ok(())
}

/// The cgroup.
#[derive(Debug, Clone)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    /// The one at `path` below `root`.
    pub(super) fn at(root: &Path, path: &Path) -> Self {
        Self {
            path: root.join(path),
        }
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it.
    pub(super) fn create(&self) -> Result<()> {
        files::make(&self.path)
    }

    /// Has the controllers it needs handed down to it, and sets the limits.
    pub(super) fn limit(&self, root: &Path, limits: &[Limit]) -> Result<()> {
        let mut wanted: Vec<&str> = USUAL.to_vec();
        wanted.extend(limits.iter().map(|limit| limit.controller));
        let has =
            |text: &str, controller: &str| text.split_whitespace().any(|word| word == controller);
        let mut here = files::read(&self.path.join("cgroup.controllers"))?;
        if wanted.iter().any(|controller| !has(&here, controller)) {
            hand_down(root, &self.path, &wanted)?;
            here = files::read(&self.path.join("cgroup.controllers"))?;
        }
        for limit in limits {
            // Not every key of `unified` belongs to a controller (`cgroup.max.depth`).
            if limit.controller != "cgroup" && !has(&here, limit.controller) {
                return Err(Error::Unsupported(format!(
                    "cannot set {} of the container: the host's cgroups have no `{}` controller",
                    limit.file, limit.controller
                )));
            }
            limit.write(&self.path)?;
        }
        Ok(())
    }

    /// See `Cgroup`.
    pub(super) fn stats(&self) -> Result<CgroupStats> {
        let cpu = files::keyed(&self.path.join("cpu.stat"), "usage_usec")?;
        let memory = or(files::number(&self.path.join("memory.current")), 0)?;
        let idle = or(
            files::keyed(&self.path.join("memory.stat"), "inactive_file"),
            0,
        )?;
        let limit = or(files::read(&self.path.join("memory.max")), "max".to_owned())?;
        Ok(CgroupStats {
            cpu_ns: cpu.saturating_mul(1000),
            memory: memory.saturating_sub(idle),
            memory_limit: limit.trim().parse().ok(),
            pids: or(files::number(&self.path.join("pids.current")), 0)?,
        })
    }

    /// See `Cgroup`.
    pub(super) fn oom_kills(&self) -> Result<u64> {
        files::keyed(&self.path.join("memory.events"), "oom_kill")
    }

    /// See `Cgroup`.
    pub(super) fn pids(&self) -> Result<Vec<i32>> {
        files::pids(&self.path)
    }

    /// Kills all its processes, those being forked included. False where the kernel (before 5.14) cannot.
    pub(super) fn kill(&self) -> Result<bool> {
        match files::write(&self.path.join("cgroup.kill"), "1") {
            Ok(()) => Ok(true),
            Err(Error::NotFound(_)) => Ok(!self.path.exists()),
            Err(e) => Err(e),
        }
    }

    /// Stops or continues its processes; waits until that has come about.
    pub(super) fn freeze(&self, freeze: bool) -> Result<()> {
        files::write(
            &self.path.join("cgroup.freeze"),
            if freeze { "1" } else { "0" },
        )?;
        let want = u64::from(freeze);
        if self.wait(Duration::from_secs(5), |events| {
            files::value(events, "frozen") == Some(want)
        })? {
            Ok(())
        } else {
            Err(Error::Conflict(format!(
                "the processes of the cgroup {} do not {} within 5 seconds",
                self.path.display(),
                if freeze { "stop" } else { "continue" }
            )))
        }
    }

    /// Removes it, waiting for its last processes.
    pub(super) fn remove(&self) -> Result<()> {
        files::remove(&self.path, |left| {
            let empty = |events: &str| files::value(events, "populated") == Some(0);
            // A cgroup that is empty and yet busy is so for an instant only.
            if self.wait(left, empty).unwrap_or(true) {
                std::thread::yield_now();
            }
        })
    }

    /// Its directory, for clone3.
    pub(super) fn directory(&self) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&self.path, flags, Mode::empty())
            .map_err(|e| Error::io(format!("open {}", self.path.display()), e))
    }

    /// Its list of processes, for writing.
    pub(super) fn procs(&self) -> Result<OwnedFd> {
        let path = self.path.join("cgroup.procs");
        open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io(format!("open {}", path.display()), e))
    }

    /// Waits until `cgroup.events` says what is wanted; whether it did in time.
    fn wait(&self, patience: Duration, wanted: impl Fn(&str) -> bool) -> Result<bool> {
        let path = self.path.join("cgroup.events");
        let failed = |e| Error::io(format!("watch {}", path.display()), e);
        let end = Instant::now() + patience;
        let mut file = File::open(&path).map_err(failed)?;
        loop {
            let mut text = String::new();
            file.rewind()
                .and_then(|()| file.read_to_string(&mut text))
                .map_err(failed)?;
            if wanted(&text) {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&file, PollFlags::PRI)], left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed(e.into())),
            }
        }
    }
}

/// What is not there (a controller that this cgroup does not have) counts as `otherwise`.
fn or<T>(read: Result<T>, otherwise: T) -> Result<T> {
    match read {
        Err(Error::NotFound(_)) => Ok(otherwise),
        other => other,
    }
}

/// Enables controllers in every cgroup from the root down to the parent of `path`, as far as the host has them.
fn hand_down(root: &Path, path: &Path, wanted: &[&str]) -> Result<()> {
    let mut above: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|a| a.starts_with(root))
        .collect();
    above.reverse();
    for directory in above {
        let there = files::read(&directory.join("cgroup.controllers"))?;
        let enabled = files::read(&directory.join("cgroup.subtree_control"))?;
        let has =
            |text: &str, controller: &str| text.split_whitespace().any(|word| word == controller);
        let mut missing: Vec<String> = wanted
            .iter()
            .filter(|controller| has(&there, controller) && !has(&enabled, controller))
            .map(|controller| format!("+{controller}"))
            .collect();
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            continue;
        }
        files::write(&directory.join("cgroup.subtree_control"), &missing.join(" ")).map_err(|error| match error {
            Error::Io { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => Error::Conflict(format!(
                "the cgroup {} cannot hand controllers down because processes are in it itself ({:?}); move them into \
                 a cgroup of their own",
                directory.display(),
                files::pids(directory).unwrap_or_default().first()
            )),
            other => other,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The files that the kernel would show.
    fn directory(path: &Path, controllers: &str, enabled: &str) {
        fs::create_dir_all(path).unwrap();
        for (file, text) in [
            ("cgroup.controllers", controllers),
            ("cgroup.subtree_control", enabled),
            ("cgroup.procs", ""),
            ("memory.max", "max"),
        ] {
            fs::write(path.join(file), text).unwrap();
        }
    }

    #[test]
    fn controllers_are_handed_down_the_whole_chain() {
        let root = tempfile::tempdir().unwrap();
        directory(root.path(), "cpuset cpu io memory pids", "memory");
        directory(&root.path().join("swarm"), "cpu memory pids", "");
        directory(&root.path().join("swarm/one"), "", "");
        hand_down(
            root.path(),
            &root.path().join("swarm/one"),
            &["cpu", "memory", "pids", "hugetlb"],
        )
        .unwrap();
        let written = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert!(written("cgroup.subtree_control").starts_with("+cpu +pids"));
        assert_eq!(
            written("swarm/cgroup.subtree_control"),
            "+cpu +memory +pids"
        );
        assert_eq!(
            written("swarm/one/cgroup.subtree_control"),
            "",
            "not in the container's own"
        );
    }

    #[test]
    fn a_limit_without_its_controller_is_an_error_and_with_it_is_written() {
        let root = tempfile::tempdir().unwrap();
        directory(root.path(), "memory", "memory");
        directory(&root.path().join("one"), "memory", "");
        let group = Group::at(root.path(), Path::new("one"));
        let resources =
            |json| super::super::resources::v2(&serde_json::from_str(json).unwrap()).unwrap();
        group
            .limit(root.path(), &resources(r#"{"memory":{"limit":4096}}"#))
            .unwrap();
        assert!(
            fs::read_to_string(group.path().join("memory.max"))
                .unwrap()
                .starts_with("4096")
        );
        let error = group
            .limit(root.path(), &resources(r#"{"pids":{"limit":4}}"#))
            .unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }
}
