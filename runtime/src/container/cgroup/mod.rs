//! One container's control group (OCI config-linux, "Control groups"): cgroup v2, v1, and both at once (hybrid).
//! Must not know of the container's processes beyond their membership.

mod bpf;
mod delegation;
mod devices;
mod figures;
mod files;
mod oom;
mod pressure;
mod program;
mod resources;
mod systemd;
mod v1;
mod v2;

use super::rootless;
use crate::{Error, Result};
use oci_spec::runtime::LinuxResources;
use std::{
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

pub use delegation::delegated;
pub use figures::{Amount, CpuFigures, Figures, IoFigures, MemoryFigures};
pub use oom::OomEvents;
pub use pressure::{Pressure, Stall};
pub(super) use systemd::Wanted;
pub use systemd::{Manager, Unit};

/// The part of a v2 cgroup that is a container's own.
const PAYLOAD: &str = "payload";

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CgroupStats {
    /// CPU time used since its creation, nanoseconds.
    pub cpu_ns: u64,
    /// Memory in use without page cache that can be dropped, bytes.
    pub memory: u64,
    /// The memory limit, bytes; none if unlimited.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
}

/// One container's control group, in all hierarchies that it uses.
///
/// Devices that the container was not given are kept from it by the `devices` controller of v1, and on v2 by an eBPF program. Where there
/// is neither (a hybrid without that controller, a kernel without such programs) every mount of the container but those of the
/// devices themselves is `nodev`.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
    layout: Layout,
    /// Whether a v2 cgroup has a program with device rules.
    filtered: bool,
    /// The one below in which the container begins that makes cgroups of its own.
    payload: Option<v2::Group>,
    /// The unit that it belongs to, where systemd has made it.
    unit: Option<Unit>,
}

#[derive(Debug, Clone)]
enum Layout {
    /// An ordinary user may have none: the container stays in its caller's cgroup, and has no limits.
    None,
    Unified(v2::Group),
    /// In a hybrid the second one is in the v2 hierarchy, without controllers: good for signals, freezing and waiting.
    Legacy(v1::Groups, Option<v2::Group>),
}

/// How a new process gets into a cgroup.
#[derive(Debug, Default)]
pub(super) struct Entrance {
    /// The v2 directory, for clone3. If that cannot be used: its `cgroup.procs`, to which the process writes `0`.
    pub(super) directory: Option<OwnedFd>,
    pub(super) procs: Option<OwnedFd>,
    /// The v1 `tasks` files: the process writes `0` into each. (A thread that moves itself, alone, does not need the kernel's
    /// lock on all forks and exits, which costs milliseconds.)
    pub(super) tasks: Vec<OwnedFd>,
}

/// A directory of the host that a container sees of its cgroup.
#[derive(Debug)]
pub(super) struct View {
    /// The name below `/sys/fs/cgroup`; none: that itself.
    pub(super) name: Option<String>,
    pub(super) path: PathBuf,
    /// It limits nothing: the container may do with it as it likes.
    pub(super) own: bool,
}

/// What belongs to whom a cgroup is delegated to (cgroups(7)).
const OWNED: [&str; 5] = [
    "",
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
    "tasks",
];

impl Cgroup {
    /// That of a container made earlier. `path` is that of `path()`: the spec's `cgroupsPath`, relative to the hierarchy's root, or
    /// nothing for a container that has no cgroup.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(Self::none());
        }
        let path = relative(path)?;
        let root = Path::new(ROOT);
        let layout = if v2::is(root) {
            Layout::Unified(v2::Group::at(root, &path))
        } else {
            let hybrid = root.join("unified");
            Layout::Legacy(
                v1::Groups::open(root, &path)?,
                v2::is(&hybrid).then(|| v2::Group::at(&hybrid, &path)),
            )
        };
        Ok(Self {
            path,
            layout,
            filtered: false,
            payload: None,
            unit: None,
        })
    }

    /// The same as the cgroup of this unit, if it is one: systemd is told what changes, and of the end.
    #[must_use]
    pub fn of_unit(mut self, unit: Option<Unit>) -> Self {
        self.unit = unit;
        self
    }

    fn none() -> Self {
        Self {
            path: PathBuf::new(),
            layout: Layout::None,
            filtered: false,
            payload: None,
            unit: None,
        }
    }

    /// Makes it and sets its limits. Nothing of it stays if that fails. An ordinary user who may not make it gets none, unless there
    /// are limits to set.
    ///
    /// `parted`: the container makes cgroups of its own in it. Then on v2 its processes begin in one below, so that the limits are out
    /// of its reach, and on v1 it is in systemd's hierarchy as well.
    pub(super) fn create(
        path: &Path,
        resources: Option<&LinuxResources>,
        parted: bool,
    ) -> Result<Self> {
        match Self::make(path, resources, parted) {
            Err(error) if is_refused(&error) && rootless::in_user_namespace() => {
                match resources.map(limited).transpose()?.as_deref() {
                    None | Some("") => Ok(Self::none()),
                    Some(limits) => Err(Error::Unsupported(format!(
                        "cannot set {limits} of the container: this user has no cgroup to make others in ({error}); have one \
                         delegated (`systemd-run --user --scope -p Delegate=yes …`, with cgroup v2), or leave the limit out"
                    ))),
                }
            }
            other => other,
        }
    }

    fn make(path: &Path, resources: Option<&LinuxResources>, parted: bool) -> Result<Self> {
        let path = relative(path)?;
        let root = Path::new(ROOT);
        let rules = device_rules(resources)?;
        let created = if v2::is(root) {
            let group = v2::Group::at(root, &path);
            let limits = resources
                .map(resources::v2)
                .transpose()?
                .unwrap_or_default();
            group.create()?;
            let mut cgroup = Self {
                path,
                layout: Layout::Unified(group.clone()),
                filtered: false,
                payload: None,
                unit: None,
            };
            let limited = cgroup.limit_unified(&group, &limits, &rules, parted, None);
            (cgroup, limited)
        } else {
            let mut limits = resources
                .map(resources::v1)
                .transpose()?
                .unwrap_or_default();
            let there = v1::hierarchies(root)?;
            if v1::has(&there, "devices") {
                limits.extend(resources::devices_v1(&rules));
            }
            let hybrid = root.join("unified");
            let unified = v2::is(&hybrid).then(|| v2::Group::at(&hybrid, &path));
            let groups = v1::Groups::new(root, there, &path, &limits, unified.is_none(), parted)?;
            let cgroup = Self {
                path,
                layout: Layout::Legacy(groups.clone(), unified.clone()),
                filtered: false,
                payload: None,
                unit: None,
            };
            let limited = unified
                .map_or(Ok(()), |unified| unified.create())
                .and_then(|()| groups.create(&limits));
            (cgroup, limited)
        };
        match created {
            (cgroup, Ok(())) => Ok(cgroup),
            (_, Err(error @ Error::AlreadyExists(_))) => Err(error),
            (cgroup, Err(error)) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// The same with a unit of systemd, in the place where that has it.
    pub(super) fn create_unit(
        wanted: &Wanted<'_>,
        resources: Option<&LinuxResources>,
        parted: bool,
    ) -> Result<Self> {
        let root = Path::new(ROOT);
        if !v2::is(root) {
            return Err(Error::Unsupported(
                "the systemd driver needs cgroup v2: with v1, systemd takes the device rules away whenever it reads its own files \
                 again; use the cgroupfs driver (podman: --cgroup-manager=cgroupfs; Docker: --exec-opt \
                 native.cgroupdriver=cgroupfs)"
                    .to_owned(),
            ));
        }
        let limits = resources
            .map(resources::v2)
            .transpose()?
            .unwrap_or_default();
        let rules = device_rules(resources)?;
        // The process that waits is in it when the container's comes.
        let limits: Vec<_> = limits.into_iter().filter(|l| !l.leaves_one()).collect();
        systemd::approach(wanted.unit)?;
        let path = systemd::start(wanted, &limits)?;
        let group = v2::Group::at(root, &path);
        let mut cgroup = Self {
            path,
            layout: Layout::Unified(group.clone()),
            filtered: false,
            payload: None,
            unit: Some(wanted.unit.clone()),
        };
        match cgroup.limit_unified(&group, &limits, &rules, parted, Some(wanted.placeholder)) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                let _ = cgroup.signal_all(libc::SIGKILL);
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Sets the limit of a new unit's processes that the one which waited in it had left no room for.
    pub(super) fn limit_to_one(&self, resources: Option<&LinuxResources>) -> Result<()> {
        let (Layout::Unified(group), Some(unit), Some(resources)) =
            (&self.layout, &self.unit, resources)
        else {
            return Ok(());
        };
        let limits = resources::v2(resources)?;
        let Some(limit) = limits.into_iter().find(resources::Limit::leaves_one) else {
            return Ok(());
        };
        let limits = [limit];
        group.limit(Path::new(ROOT), &limits)?;
        systemd::update(unit, &limits)
    }

    /// Sets the limits of a new one. `inside`: a process that is in it already.
    fn limit_unified(
        &mut self,
        group: &v2::Group,
        limits: &[resources::Limit],
        rules: &[devices::Rule],
        parted: bool,
        inside: Option<i32>,
    ) -> Result<()> {
        let root = Path::new(ROOT);
        group.limit(root, limits)?;
        self.filtered = v2::limit_devices(group, rules)?;
        if parted {
            let payload = v2::Group::at(group.path(), Path::new(PAYLOAD));
            payload.create()?;
            // With processes in it a cgroup cannot hand controllers down.
            if let Some(pid) = inside {
                payload.take(pid)?;
            }
            payload.limit(root, &[])?;
            self.payload = Some(payload);
        }
        Ok(())
    }

    /// Its path, relative to the hierarchy's root; nothing if there is none.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it uses now.
    pub fn stats(&self) -> Result<CgroupStats> {
        match &self.layout {
            Layout::None => Err(no_cgroup("what it uses cannot be told")),
            Layout::Unified(group) => group.stats(),
            Layout::Legacy(groups, _) => groups.stats(),
        }
    }

    /// All that its controllers count.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a cgroup.
    pub fn figures(&self) -> Result<Figures> {
        match &self.layout {
            Layout::None => Err(no_cgroup("what it uses cannot be told")),
            Layout::Unified(group) => Ok(group.figures()),
            Layout::Legacy(groups, _) => Ok(groups.figures()),
        }
    }

    /// What its processes had to wait for of `cpu`, `memory` or `io`. None on v1, and where the kernel does not tell.
    pub fn pressure(&self, resource: &str) -> Result<Option<Pressure>> {
        match &self.layout {
            Layout::Unified(group) => group.pressure(resource),
            Layout::Legacy(..) | Layout::None => Ok(None),
        }
    }

    /// How many of its processes were killed for lack of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        match &self.layout {
            Layout::None => Ok(0),
            Layout::Unified(group) => group.oom_kills(),
            Layout::Legacy(groups, _) => groups.oom_kills(),
        }
    }

    /// Has the kernel tell when it runs out of memory.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a cgroup; what the kernel says.
    pub fn oom_events(&self) -> Result<OomEvents> {
        match &self.layout {
            Layout::None => Err(no_cgroup("that it is out of memory cannot be told")),
            Layout::Unified(group) => group.oom_events(),
            Layout::Legacy(groups, _) => groups.oom_events(),
        }
    }

    /// Its processes, in the host's pid namespace, those of cgroups below it included.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match &self.layout {
            Layout::None => Ok(Vec::new()),
            Layout::Unified(group) | Layout::Legacy(_, Some(group)) => group.pids(),
            Layout::Legacy(groups, None) => groups.pids(),
        }
    }

    /// Sends a signal to all its processes. With SIGKILL none is left when this returns but those that are ending.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        let unified = match &self.layout {
            Layout::Unified(group) | Layout::Legacy(_, Some(group)) => Some(group),
            Layout::Legacy(_, None) | Layout::None => None,
        };
        if signal == libc::SIGKILL
            && let Some(group) = unified
            && group.kill()?
        {
            return Ok(());
        }
        // New processes may come while the list is read: again until the same ones have been seen twice.
        let mut seen = Vec::new();
        for _ in 0..64 {
            let pids = self.pids()?;
            let new = pids
                .iter()
                .copied()
                .filter(|pid| !seen.contains(pid))
                .collect::<Vec<_>>();
            if new.is_empty() {
                break;
            }
            for pid in new {
                signal_one(pid, signal)?;
                seen.push(pid);
            }
        }
        Ok(())
    }

    /// Stops all its processes from running; returns when they have stopped.
    pub fn freeze(&self) -> Result<()> {
        match &self.layout {
            Layout::None => Err(no_cgroup("it cannot be paused")),
            Layout::Unified(group) | Layout::Legacy(_, Some(group)) => group.freeze(true),
            Layout::Legacy(groups, None) => groups.freeze(true),
        }
    }

    /// Whether its processes are stopped.
    pub fn is_frozen(&self) -> Result<bool> {
        match &self.layout {
            Layout::None => Ok(false),
            Layout::Unified(group) | Layout::Legacy(_, Some(group)) => group.is_frozen(),
            Layout::Legacy(groups, None) => groups.is_frozen(),
        }
    }

    /// Sets limits anew; what is not given stays as it is. Device rules that are given replace all earlier ones.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let devices = resources.devices().as_ref().is_some_and(|d| !d.is_empty());
        let rules = device_rules(Some(resources))?;
        match &self.layout {
            Layout::None => Err(no_cgroup("limits cannot be set")),
            Layout::Unified(group) => {
                let limits = resources::v2(resources)?;
                group.limit(Path::new(ROOT), &limits)?;
                if let Some(unit) = &self.unit {
                    systemd::update(unit, &limits)?;
                }
                if devices && !v2::limit_devices(group, &rules)? {
                    return Err(Error::Unsupported(
                        "device rules cannot be changed: this kernel has no programs for them (CONFIG_CGROUP_BPF), or the \
                         runtime may not load any"
                            .to_owned(),
                    ));
                }
                Ok(())
            }
            Layout::Legacy(groups, _) => {
                let mut limits = resources::v1(resources)?;
                if devices {
                    limits.extend(resources::devices_v1(&rules));
                }
                groups.update(&limits)
            }
        }
    }

    /// Lets them run again.
    pub fn thaw(&self) -> Result<()> {
        match &self.layout {
            Layout::None => Ok(()),
            Layout::Unified(group) | Layout::Legacy(_, Some(group)) => group.freeze(false),
            Layout::Legacy(groups, None) => groups.freeze(false),
        }
    }

    /// Removes it with those below it; no error if it is not there. Its processes must have ended or been killed: waits a few
    /// seconds for them to be gone, then `Conflict`.
    pub fn remove(&self) -> Result<()> {
        match &self.layout {
            Layout::None => Ok(()),
            Layout::Unified(group) => group.remove(),
            Layout::Legacy(groups, unified) => {
                if let Some(unified) = unified {
                    unified.remove()?;
                }
                groups.remove()
            }
        }?;
        self.unit.as_ref().map_or(Ok(()), systemd::stop)
    }

    /// The same without waiting: an error if there is still something in it.
    pub fn remove_now(&self) -> Result<()> {
        let (unified, groups) = match &self.layout {
            Layout::None => (None, None),
            Layout::Unified(group) => (Some(group), None),
            Layout::Legacy(groups, unified) => (unified.as_ref(), Some(groups)),
        };
        unified
            .map(v2::Group::path)
            .into_iter()
            .chain(
                groups
                    .into_iter()
                    .flat_map(|g| g.directories().map(|(_, path)| path)),
            )
            .try_for_each(files::remove_now)?;
        self.unit.as_ref().map_or(Ok(()), systemd::stop)
    }

    /// The way in.
    pub(super) fn entrance(&self) -> Result<Entrance> {
        let (unified, groups) = match &self.layout {
            Layout::None => (None, None),
            Layout::Unified(group) => (Some(self.payload.as_ref().unwrap_or(group)), None),
            Layout::Legacy(groups, unified) => (unified.as_ref(), Some(groups)),
        };
        Ok(Entrance {
            directory: unified.map(v2::Group::directory).transpose()?,
            procs: unified.map(v2::Group::procs).transpose()?,
            tasks: groups
                .map(v1::Groups::tasks)
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// The way in for a further process of the container whose first one is `pid`: where that has parted the v2 cgroup among others,
    /// nobody can be in that itself.
    pub(super) fn entrance_beside(&self, pid: i32) -> Result<Entrance> {
        if let Some(unit) = &self.unit {
            systemd::approach(unit)?;
        }
        let hybrid;
        let (root, group) = match &self.layout {
            Layout::Unified(group) => (Path::new(ROOT), group),
            Layout::Legacy(_, Some(group)) => {
                hybrid = Path::new(ROOT).join("unified");
                (hybrid.as_path(), group)
            }
            Layout::None | Layout::Legacy(_, None) => return self.entrance(),
        };
        let first = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let first = delegation::own_path(&first).map(|path| v2::Group::at(root, &path));
        let mut entrance = self.entrance()?;
        if let Some(first) = first
            && first.path() != group.path()
            && first.path().starts_with(group.path())
        {
            entrance.directory = Some(first.directory()?);
            entrance.procs = Some(first.procs()?);
        }
        Ok(entrance)
    }

    /// Gives what is the container's own to part to its root, who is this user of the host.
    pub(super) fn give(&self, owner: (u32, u32)) -> Result<()> {
        for view in self.views().into_iter().filter(|view| view.own) {
            for file in OWNED {
                let path = view.path.join(file);
                match std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)) {
                    // v1 and v2 have not all the same ones.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    other => other.map_err(|e| {
                        Error::io(format!("give {} to user {}", path.display(), owner.0), e)
                    })?,
                }
            }
        }
        Ok(())
    }

    /// What a `cgroup` mount shows.
    pub(super) fn views(&self) -> Vec<View> {
        match &self.layout {
            Layout::None => Vec::new(),
            Layout::Unified(group) => vec![View {
                name: None,
                path: self.payload.as_ref().unwrap_or(group).path().to_owned(),
                own: self.payload.is_some(),
            }],
            Layout::Legacy(groups, unified) => groups
                .directories()
                .map(|(name, path)| View {
                    name: Some(name.to_owned()),
                    path: path.to_owned(),
                    own: name == v1::NAMED,
                })
                .chain(unified.iter().map(|group| View {
                    name: Some("unified".to_owned()),
                    path: group.path().to_owned(),
                    own: true,
                }))
                .collect(),
        }
    }

    /// Whether devices are limited by the cgroup, so that device nodes of the container's own making do no harm.
    pub(super) fn limits_devices(&self) -> bool {
        match &self.layout {
            Layout::None => false,
            Layout::Unified(_) => self.filtered,
            Layout::Legacy(groups, _) => groups.limits_devices(),
        }
    }
}

fn no_cgroup(what: &str) -> Error {
    Error::Unsupported(format!(
        "the container has no cgroup of its own, so {what}: an ordinary user must have one delegated (see docs/operations.md)"
    ))
}

/// Whether somebody else's permission is missing.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. }
        if matches!(source.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS)))
}

/// What is limited, beside devices: those are kept from an ordinary user's container anyhow.
fn limited(resources: &LinuxResources) -> Result<String> {
    let limits = resources::v2(resources)?;
    let files: Vec<String> = limits
        .into_iter()
        .filter(|limit| limit.value != "max")
        .map(|limit| limit.file)
        .collect();
    Ok(files.join(", "))
}

fn device_rules(resources: Option<&LinuxResources>) -> Result<Vec<devices::Rule>> {
    let given = resources.and_then(|resources| resources.devices().as_deref());
    devices::rules(given.unwrap_or_default())
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check(path: &Path, resources: &LinuxResources) {
    let inside =
        |path: PathBuf| assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
    let _ = relative(path).map(inside);
    for limits in [resources::v1(resources), resources::v2(resources)] {
        for limit in limits.unwrap_or_default() {
            assert!(!limit.file.contains('/'), "{limit:?}");
        }
    }
    if let Ok(rules) = device_rules(Some(resources)) {
        let _ = (resources::devices_v1(&rules), program::assemble(&rules));
    }
}

/// The path below a hierarchy's root.
fn relative(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::Invalid(format!(
                    "cgroupsPath {} must not contain `..`",
                    path.display()
                )));
            }
        }
    }
    if clean.as_os_str().is_empty() {
        return Err(Error::Invalid(
            "cgroupsPath names the root of the hierarchy: a container needs a cgroup of its own"
                .to_owned(),
        ));
    }
    Ok(clean)
}

fn signal_one(pid: i32, signal: i32) -> Result<()> {
    let attempt = || format!("send signal {signal} to process {pid}");
    let signal = nix::sys::signal::Signal::try_from(signal)
        .map_err(|_| Error::Invalid(format!("there is no signal {signal}")))?;
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(e) => Err(Error::io(attempt(), e)),
    }
}

#[cfg(test)]
mod tests;
