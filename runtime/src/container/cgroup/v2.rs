//! A cgroup in the v2 hierarchy. Must not know of OCI resources, only of files and values.

use super::{
    CgroupStats, Figures, OomEvents, Pressure, bpf, devices::Rule, figures, files, pressure,
    program, resources::Limit,
};
use crate::{Error, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open, statfs},
};
use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Controllers that every container gets where the host has them: without them there are no statistics.
const USUAL: [&str; 3] = ["cpu", "memory", "pids"];

/// Whether a cgroup v2 hierarchy is mounted there.
pub(super) fn is(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    statfs(path).is_ok_and(|found| u64::try_from(found.f_type) == Ok(CGROUP2_SUPER_MAGIC))
}

/// Puts the device rules on the cgroup, in place of those it has. False where the kernel or the runtime's rights do not allow it.
pub(super) fn limit_devices(group: &Group, rules: &[Rule]) -> Result<bool> {
    let failed = |what: &str, e: io::Error| {
        Error::io(
            format!(
                "{what} the device rules of the cgroup {}",
                group.path.display()
            ),
            e,
        )
    };
    let program = match bpf::load(&program::assemble(rules)) {
        Ok(program) => program,
        // EINVAL: a kernel without CONFIG_CGROUP_BPF.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)
            ) =>
        {
            return Ok(false);
        }
        Err(e) => return Err(failed("make a program of", e)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = open(&group.path, flags, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", group.path.display()), e))?;
    let before = bpf::attached(cgroup.as_fd()).map_err(|e| failed("read", e))?;
    let replaced = match before.as_slice() {
        [one] => bpf::attach(cgroup.as_fd(), &program, Some(one)),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    match replaced {
        Ok(()) => return Ok(true),
        // None to be replaced, or Linux before 5.6: the new one first, so that there is no moment without one.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        Err(e) => return Err(failed("replace", e)),
    }
    match bpf::attach(cgroup.as_fd(), &program, None) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => return Ok(false),
        Err(e) => return Err(failed("set", e)),
    }
    for old in before {
        bpf::detach(cgroup.as_fd(), &old).map_err(|e| failed("take away old ones of", e))?;
    }
    Ok(true)
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

    /// Has a process go into it.
    pub(super) fn take(&self, pid: i32) -> Result<()> {
        files::write(&self.path.join("cgroup.procs"), &pid.to_string())
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
    pub(super) fn pressure(&self, resource: &str) -> Result<Option<Pressure>> {
        match files::read(&self.path.join(format!("{resource}.pressure"))) {
            Ok(text) => Ok(Some(pressure::parse(&text))),
            Err(Error::NotFound(_)) => Ok(None),
            // Switched off for this kernel (`psi=0`), or for this cgroup.
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// See `Cgroup`.
    pub(super) fn figures(&self) -> Figures {
        figures::unified(&self.path)
    }

    /// See `Cgroup`.
    pub(super) fn oom_kills(&self) -> Result<u64> {
        files::keyed(&self.path.join("memory.events"), "oom_kill")
    }

    /// See `Cgroup`.
    pub(super) fn oom_events(&self) -> Result<OomEvents> {
        OomEvents::of_changes(&self.path.join("memory.events"))
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

    /// Whether its processes are stopped.
    pub(super) fn is_frozen(&self) -> Result<bool> {
        let text = or(files::read(&self.path.join("cgroup.freeze")), String::new())?;
        Ok(text.trim() == "1")
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
