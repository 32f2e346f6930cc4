//! A task's OCI runtime spec: the task, its image's configuration and what the host decides in, a spec out. Pure:
//! files are read and written by `host`.

mod defaults;
mod signal;
mod system;
#[cfg(test)]
mod tests;
mod user;

use crate::{Error, Result};
use oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use swarm_api::backend::ExecSpec;
use swarm_api::model::{ImageConfig, Mount, MountSource, NetworkMode, Resources, Task, TaskSpec};

pub use signal::{name_of_signal, parse_signal};
pub use user::{Accounts, User};

/// What a task's spec is made of.
#[derive(Debug)]
pub struct Order<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its image's configuration.
    pub image: &'a ImageConfig,
    /// `NAME=value` from the host: after the image's, before the task's own.
    pub env: &'a [String],
    /// The image's users and groups.
    pub accounts: &'a Accounts,
    /// The container's cgroup, relative to the hierarchy's root.
    pub cgroup: &'a str,
    /// A folder with the files `resolv.conf`, `hosts` and `hostname` for the container.
    pub files: &'a Path,
    /// The folder of the named volumes.
    pub volumes: &'a Path,
    /// Volumes without a name: where in the container, and where on the host.
    pub unnamed: &'a [(String, PathBuf)],
    /// The most open files that this host can let a process have.
    pub open_files: u64,
    /// The system calls that are allowed.
    pub seccomp: LinuxSeccomp,
}

/// The folder of a named volume below the folder of them all.
///
/// # Errors
/// [`Error::Invalid`] where the name could lead elsewhere.
pub fn volume_path(volumes: &Path, name: &str) -> Result<PathBuf> {
    match swarm_api::model::validate_name("volume", name) {
        Ok(()) => Ok(volumes.join(name)),
        Err(why) => Err(Error::Invalid(why.to_string())),
    }
}

/// The task's host name: what it asks for, or its name with `-` for `.`.
#[must_use]
pub fn hostname(task: &Task) -> String {
    match &task.spec.hostname {
        Some(name) => name.clone(),
        None => {
            let (service, slot) = task.name.rsplit_once('.').unwrap_or((&task.name, ""));
            // At most HOST_NAME_MAX with its slot; see gethostname(2).
            let room = 63usize.saturating_sub(slot.len());
            let service = service.get(..room.min(service.len())).unwrap_or(service);
            let service = service.trim_end_matches('-').replace('.', "-");
            if slot.is_empty() {
                service
            } else {
                format!("{service}-{slot}")
            }
        }
    }
}

/// The first user of the host that a task's users are, where it has a user namespace of its own.
#[must_use]
pub fn first_user(task: &Task) -> u32 {
    defaults::mapped_to(task.id.as_str())
}

/// The signal that stops a task: its own, its image's, or SIGTERM; where it runs an init, what ends that.
///
/// # Errors
/// [`Error::Invalid`] where the name is none of a signal.
pub fn stop_signal(task: &TaskSpec, image: &ImageConfig) -> Result<i32> {
    match task.stop_signal.as_ref().or(image.stop_signal.as_ref()) {
        Some(name) => parse_signal(name),
        None if is_system(task, image) => parse_signal(system::STOP_SIGNAL),
        None => Ok(libc::SIGTERM),
    }
}

/// The spec of a task's container.
///
/// # Errors
/// [`Error::Invalid`] where the task and the image together make no process, or name a user that the image has not.
pub fn spec(order: &Order<'_>) -> Result<Spec> {
    let (task, wanted) = (order.task, &order.task.spec);
    let mut linux = json!({
        "cgroupsPath": order.cgroup,
        "resources": resources(&wanted.resources),
        "namespaces": namespaces(wanted),
        "maskedPaths": defaults::MASKED_PATHS,
        "readonlyPaths": defaults::READ_ONLY_PATHS,
        "seccomp": order.seccomp,
    });
    if wanted.user_namespace {
        let ids = json!([{
            "containerID": 0,
            "hostID": defaults::mapped_to(task.id.as_str()),
            "size": defaults::MAPPED,
        }]);
        linux["uidMappings"] = ids.clone();
        linux["gidMappings"] = ids;
    }
    if wanted.network != NetworkMode::Host {
        // As Docker: its own network is the container's to use.
        linux["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "0" });
    }
    let spec = json!({
        "ociVersion": "1.2.0",
        "hostname": checked_hostname(task)?,
        "root": { "path": "rootfs", "readonly": wanted.read_only },
        "process": process(order)?,
        "mounts": mounts(order)?,
        "linux": linux,
    });
    serde_json::from_value(spec)
        .map_err(|e| Error::Internal(format!("the spec of task {} is malformed: {e}", task.name)))
}

/// The spec of a further process in the container of `of`, whose first process is `first`.
///
/// # Errors
/// As [`spec`].
pub fn exec(first: &Process, accounts: &Accounts, exec: &ExecSpec) -> Result<Process> {
    if exec.args.is_empty() {
        return Err(Error::Invalid(
            "there is no program to execute; give one and its arguments".into(),
        ));
    }
    let mut process = first.clone();
    let mut env: Vec<String> = first.env().clone().unwrap_or_default();
    if let Some(name) = &exec.user {
        let user = accounts.find(name)?;
        env.retain(|e| !e.starts_with("HOME="));
        env.push(format!("HOME={}", user.home));
        process.set_user(user_value(&user)?);
    }
    if exec.tty && !has(&env, "TERM") {
        env.push("TERM=xterm".into());
    }
    process.set_env(Some(merged([&env[..], &exec.env])));
    process.set_args(Some(exec.args.clone()));
    process.set_terminal(Some(exec.tty));
    if let Some(folder) = &exec.working_dir {
        process.set_cwd(absolute(folder)?.into());
    }
    Ok(process)
}

/// A task's program and its arguments.
fn args(wanted: &TaskSpec, image: &ImageConfig) -> Vec<String> {
    let mut args = wanted
        .entrypoint
        .clone()
        .unwrap_or_else(|| image.entrypoint.clone());
    if !wanted.args.is_empty() {
        args.extend(wanted.args.iter().cloned());
    } else if wanted.entrypoint.is_none() {
        args.extend(image.command.iter().cloned());
    }
    args
}

/// Whether a task's program is an init, which is given what it needs.
fn is_system(wanted: &TaskSpec, image: &ImageConfig) -> bool {
    args(wanted, image)
        .first()
        .is_some_and(|program| system::is_init(program))
}

fn process(order: &Order<'_>) -> Result<Value> {
    let (wanted, image) = (&order.task.spec, order.image);
    let system = is_system(wanted, image);
    let args = args(wanted, image);
    if args.is_empty() {
        return Err(Error::Invalid(format!(
            "the image {} names no program to run; give one and its arguments after the image",
            wanted.image
        )));
    }
    if let Some(bad) = args.iter().find(|a| a.contains('\0')) {
        return Err(Error::Invalid(format!(
            "the argument {bad:?} has a zero byte in it"
        )));
    }
    let name = wanted.user.as_deref().unwrap_or(&image.user);
    let user = order.accounts.find(name)?;
    let cwd = match wanted.working_dir.as_deref().unwrap_or(&image.working_dir) {
        "" => "/",
        folder => absolute(folder)?,
    };
    let mut first = vec![
        format!("PATH={}", defaults::PATH),
        format!("HOSTNAME={}", hostname(order.task)),
        format!("HOME={}", user.home),
    ];
    if wanted.tty {
        first.push("TERM=xterm".into());
    }
    if system {
        first.push(system::ENV.into());
    }
    Ok(json!({
        // An init writes to its console how the boot goes.
        "terminal": wanted.tty || system,
        "user": user_value(&user)?,
        "args": args,
        "env": merged([&first[..], &image.env, order.env, &wanted.env]),
        "cwd": cwd,
        // A distribution has programs that change the user (login, su, sudo).
        "noNewPrivileges": !system,
        // Not the agent's own, which may be protected.
        "oomScoreAdj": 0,
        "capabilities": {
            "bounding": defaults::CAPABILITIES,
            "effective": defaults::CAPABILITIES,
            "permitted": defaults::CAPABILITIES,
        },
        "rlimits": [{
            "type": "RLIMIT_NOFILE",
            "soft": defaults::OPEN_FILES.0.min(order.open_files),
            "hard": defaults::OPEN_FILES.1.min(order.open_files),
        }],
    }))
}

fn user_value(user: &User) -> Result<oci_spec::runtime::User> {
    let value = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups });
    serde_json::from_value(value).map_err(|e| Error::Internal(format!("a user is malformed: {e}")))
}

fn checked_hostname(task: &Task) -> Result<String> {
    let name = hostname(task);
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(Error::Invalid(format!(
            "\"{name}\" is not a host name: use 1 to 64 letters, digits, - and ."
        )));
    }
    Ok(name)
}

fn absolute(folder: &str) -> Result<&str> {
    if folder.starts_with('/') {
        Ok(folder)
    } else {
        Err(Error::Invalid(format!(
            "\"{folder}\" is not an absolute path; start it with /"
        )))
    }
}

fn has(env: &[String], name: &str) -> bool {
    env.iter()
        .any(|e| e.split_once('=').is_some_and(|(n, _)| n == name))
}

/// One environment: what comes later wins, in the place of what it replaces.
fn merged<const N: usize>(parts: [&[String]; N]) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    for one in parts.into_iter().flatten() {
        let name = one.split_once('=').map_or(one.as_str(), |(name, _)| name);
        match env
            .iter_mut()
            .find(|e| e.split_once('=').is_some_and(|(n, _)| n == name))
        {
            Some(there) => there.clone_from(one),
            None => env.push(one.clone()),
        }
    }
    env
}

fn mounts(order: &Order<'_>) -> Result<Vec<Value>> {
    let mut mounts = defaults::mounts();
    if is_system(&order.task.spec, order.image) {
        let own = system::mounts();
        mounts.retain(|m| own.iter().all(|o| o["destination"] != m["destination"]));
        mounts.extend(own);
    }
    for name in ["resolv.conf", "hosts", "hostname"] {
        mounts.push(json!({
            "destination": format!("/etc/{name}"),
            "type": "bind",
            "source": order.files.join(name),
            "options": ["bind", "rprivate", "nosuid", "nodev", "noexec"],
        }));
    }
    let unnamed = order.unnamed.iter().map(|(target, path)| Mount {
        source: MountSource::Bind(path.to_string_lossy().into_owned()),
        target: target.clone(),
        read_only: false,
    });
    // In a user namespace of its own, volumes are those of its users, whichever namespace comes next.
    let mapped = order.task.spec.user_namespace;
    let mut own: Vec<Mount> = order.task.spec.mounts.to_vec();
    own.extend(unnamed);
    // What is mounted within another mount comes after it.
    own.sort_by_key(|m| m.target.matches('/').count());
    for mount in &own {
        let mode = if mount.read_only { "ro" } else { "rw" };
        let parts = || Path::new(&mount.target).components();
        let up = parts().any(|c| c == std::path::Component::ParentDir);
        if !mount.target.starts_with('/') || parts().count() < 2 || up {
            return Err(Error::Invalid(format!(
                "a volume cannot have the target \"{}\": give an absolute path below /, without ..",
                mount.target
            )));
        }
        // Replaces a default of the same place.
        mounts.retain(|m| m["destination"] != mount.target.as_str());
        mounts.push(match &mount.source {
            MountSource::Tmpfs => json!({
                "destination": mount.target,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "nodev", "noexec", "mode=1777", mode],
            }),
            MountSource::Bind(path) => {
                let own = order
                    .unnamed
                    .iter()
                    .any(|(target, _)| *target == mount.target);
                bind(Path::new(absolute(path)?), mount, mode, mapped && own)
            }
            MountSource::Volume(name) => {
                bind(&volume_path(order.volumes, name)?, mount, mode, mapped)
            }
        });
    }
    Ok(mounts)
}

/// With `mapped`, users and groups on the disk are those in the container.
fn bind(source: &Path, mount: &Mount, mode: &str, mapped: bool) -> Value {
    let mut options = vec!["rbind", "rprivate", mode];
    if mapped {
        options.push("idmap");
    }
    json!({
        "destination": mount.target,
        "type": "bind",
        "source": source,
        "options": options,
    })
}

fn namespaces(task: &TaskSpec) -> Vec<Value> {
    let mut wanted = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    if task.network != NetworkMode::Host {
        wanted.push("network");
    }
    if task.user_namespace {
        wanted.push("user");
    }
    wanted.iter().map(|kind| json!({ "type": kind })).collect()
}

fn resources(limits: &Resources) -> Value {
    const PERIOD: u64 = 100_000;
    let mut value = json!({ "devices": defaults::devices() });
    if let Some(memory) = limits.memory {
        let memory = i64::try_from(memory).unwrap_or(i64::MAX);
        // Memory and swap together: no swap beyond the limit.
        value["memory"] = json!({ "limit": memory, "swap": memory });
    }
    if let Some(cpus) = limits.cpus {
        let quota = u128::from(cpus.0) * u128::from(PERIOD) / 1_000_000_000;
        // The kernel takes no quota below a millisecond.
        let quota = i64::try_from(quota).unwrap_or(i64::MAX).max(1000);
        value["cpu"] = json!({ "quota": quota, "period": PERIOD });
    }
    if let Some(pids) = limits.pids {
        value["pids"] = json!({ "limit": pids });
    }
    value
}
