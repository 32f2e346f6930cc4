//! The parent's side of making a container: cgroup, mounts made ready, the process, its user namespace, its limits, hooks.

use super::{
    Created, Options, Rootfs, Setup,
    cgroup::{Cgroup, Entrance, Wanted},
    channel::Word,
    hooks::{self, About, Moment},
    idmap,
    init::{self, Context},
    mounts, netdevices,
    plan::Plan,
    rootless,
    spawn::{self, Child},
    sys,
};
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags, open};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// See `container::create`.
pub(super) fn create(
    setup: &Setup,
    options: &Options,
    born: impl FnOnce(i32, &Cgroup) -> Result<()>,
) -> Result<Created> {
    let mut plan = Plan::new(&setup.id, &setup.spec)?;
    plan.process.preserve(options.preserve_fds);
    plan.process.connect_listener()?;
    let linux = setup.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let parted = mounts::parts_cgroups(&setup.spec);
    let (cgroup, placeholder) = match &options.unit {
        None => (Cgroup::create(&plan.cgroup, resources, parted)?, None),
        Some(unit) => {
            let placeholder = placeholder()?;
            let wanted = Wanted {
                unit,
                id: &setup.id,
                annotations: &setup.spec.annotations().clone().unwrap_or_default(),
                placeholder: placeholder.pid(),
            };
            (
                Cgroup::create_unit(&wanted, resources, parted)?,
                Some(placeholder),
            )
        }
    };
    let launched = launch(setup, options, &plan, &cgroup, born);
    drop(placeholder);
    let launched = launched.and_then(|it| cgroup.limit_to_one(resources).map(|()| it));
    match launched {
        Ok((child, terminal, about)) => {
            let (pid, pidfd, channel) = child.keep()?;
            Ok(Created {
                pid,
                pidfd,
                terminal,
                cgroup,
                started: channel.is_none(),
                channel,
                hooks: setup.spec.hooks().clone(),
                about,
            })
        }
        Err(error) => {
            let _ = cgroup.signal_all(libc::SIGKILL);
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// A process that does nothing, in no cgroup of its own, until it is dropped.
fn placeholder() -> Result<Child> {
    spawn::spawn(0, &Entrance::default(), |channel| {
        let _ = channel.recv();
        sys::exit(0)
    })
}

fn launch(
    setup: &Setup,
    options: &Options,
    plan: &Plan,
    cgroup: &Cgroup,
    born: impl FnOnce(i32, &Cgroup) -> Result<()>,
) -> Result<(Child, Option<OwnedFd>, About)> {
    let mounts = mounts::Plan::new(
        &setup.spec,
        !plan.user && !rootless::in_user_namespace(),
        cgroup.limits_devices(),
        plan.maps.as_ref(),
    )?;
    // Only who owns the network namespace may show it by a sysfs of its own.
    let borrows_network =
        plan.new & libc::CLONE_NEWNET as u64 == 0 && (plan.user || rootless::in_user_namespace());
    if mounts::parts_cgroups(&setup.spec)
        && let Some(owner) = plan.maps.as_ref().and_then(idmap::Maps::root)
    {
        cgroup.give(owner)?;
    }
    let prepared = mounts::prepare(
        &mounts,
        &setup.bundle,
        cgroup,
        plan.process.is_privileged(),
        borrows_network,
    )?;
    let about = About::new(&setup.id, &setup.bundle, &setup.spec);
    let hooks = setup.spec.hooks().as_ref();
    let rootfs = absolute(&setup.rootfs, &setup.bundle);
    let root = mounts::root(&rootfs, mounts.nodev(), plan.user, plan.maps.as_ref())?;
    let joined = Joined::open(plan)?;
    let entrance = cgroup.entrance()?;
    let context = Context {
        plan,
        mounts: &mounts,
        prepared: &prepared,
        root: &root,
        mount_namespace: joined.mount.as_ref(),
        stdio: &setup.stdio,
        hooks,
        about: &about,
        gate: options.gate.as_ref(),
        keyring: options.session_keyring,
    };
    // A new time namespace takes its offsets before its first process only.
    let time = plan.time_offsets.as_ref();
    let new = match time {
        Some(_) => plan.new & !(libc::CLONE_NEWTIME as u64),
        None => plan.new,
    };
    let mut born = Some(born);
    let mut born = |pid| born.take().map_or(Ok(()), |born| born(pid, cgroup));
    if options.at_once && options.gate.is_none() && init::can_go_alone(plan, &setup.stdio, hooks) {
        let child = joined.with(|| {
            spawn::spawn_at_once(
                new,
                &entrance,
                |pid| init::prepare_alone(pid, &context, || born(pid)),
                || init::go(&context),
            )
        })?;
        if let Some(child) = child {
            return Ok((child, None, about));
        }
    }
    let child = joined.with(|| {
        if joined.user.is_none() && time.is_none() {
            return spawn::spawn(new, &entrance, |channel| init::main(channel, &context));
        }
        let enter = || {
            if let Some(user) = &joined.user {
                sys::setns(user.as_fd(), libc::CLONE_NEWUSER as u64)
                    .map_err(|e| Error::io("join the user namespace", e))?;
            }
            time.map_or(Ok(()), |offsets| time_namespace(offsets))
        };
        spawn::spawn_through(enter, new, &entrance, |channel| {
            init::main(channel, &context)
        })
    })?;
    let channel = child.channel()?;
    if let Some(maps) = &plan.maps {
        maps.write(child.pid())?;
        channel.send(&Word::Go)?;
    }
    born(child.pid())?;
    if !plan.net_devices.is_empty() {
        let own = open_namespace(Path::new("/proc/self/ns/net"))?;
        let theirs = namespace(child.pid(), "net")?;
        netdevices::give(&plan.net_devices, &own, &theirs)?;
    }
    if init::parent_has_hooks(hooks) {
        channel.wait()?;
        hooks::run(hooks, Moment::Prestart, &about, Some(child.pid()))?;
        hooks::run(hooks, Moment::CreateRuntime, &about, Some(child.pid()))?;
        channel.send(&Word::Go)?;
    }
    let terminal = channel.wait()?;
    plan.process.limit(child.pid())?;
    Ok((child, terminal, about))
}

/// Makes a time namespace for this process's children.
fn time_namespace(offsets: &str) -> Result<()> {
    sys::unshare(libc::CLONE_NEWTIME as u64).map_err(|e| Error::io("make a time namespace", e))?;
    fs::write("/proc/self/timens_offsets", offsets).map_err(|e| {
        Error::io(
            format!(
                "set the clocks of the time namespace to `{}`",
                offsets.trim().replace('\n', ", ")
            ),
            e,
        )
    })
}

/// A process's namespace.
pub(super) fn namespace(pid: i32, kind: &str) -> Result<OwnedFd> {
    open_namespace(Path::new(&format!("/proc/{pid}/ns/{kind}")))
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(format!("open the namespace {}", path.display()), e))
}

fn absolute(rootfs: &Rootfs, bundle: &Path) -> Rootfs {
    match rootfs {
        Rootfs::Path(path) => Rootfs::Path(bundle.join(path)),
        overlay @ Rootfs::Overlay { .. } => overlay.clone(),
    }
}

/// Namespaces to join. Most are joined by the parent for the moment in which the process is born, so that a new user namespace of the
/// process does not stand in the way.
struct Joined {
    around: Vec<(u64, OwnedFd, OwnedFd)>,
    mount: Option<OwnedFd>,
    user: Option<OwnedFd>,
}

impl Joined {
    fn open(plan: &Plan) -> Result<Self> {
        let mut joined = Self {
            around: Vec::new(),
            mount: None,
            user: None,
        };
        for (kind, path) in &plan.joined {
            let there = open_namespace(path)?;
            let own = match i32::try_from(*kind).unwrap_or(0) {
                libc::CLONE_NEWNS => {
                    joined.mount = Some(there);
                    continue;
                }
                libc::CLONE_NEWUSER => {
                    joined.user = Some(there);
                    continue;
                }
                libc::CLONE_NEWNET => "net",
                libc::CLONE_NEWIPC => "ipc",
                libc::CLONE_NEWUTS => "uts",
                libc::CLONE_NEWPID => "pid",
                libc::CLONE_NEWCGROUP => "cgroup",
                _ => "time",
            };
            let own = open_namespace(Path::new("/proc/self/ns").join(own).as_path())?;
            joined.around.push((*kind, there, own));
        }
        Ok(joined)
    }

    /// Does something in the namespaces, and comes back.
    fn with<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut entered = Vec::new();
        let mut result = Ok(());
        for (kind, there, own) in &self.around {
            if let Err(e) = sys::setns(there.as_fd(), *kind) {
                result = Err(Error::io(format!("join a namespace of kind {kind:#x}"), e));
                break;
            }
            entered.push((*kind, own));
        }
        let result = result.and_then(|()| work());
        for (kind, own) in entered {
            sys::setns(own.as_fd(), kind)
                .map_err(|e| Error::io(format!("return from a namespace of kind {kind:#x}"), e))?;
        }
        result
    }
}
