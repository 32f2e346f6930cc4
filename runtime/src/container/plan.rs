//! A whole spec, checked before anything is made: what this runtime cannot do is an error here. Pure but for the reading of kernel facts.

use super::{idmap::Maps, netdevices, process};
use crate::{Error, Result};
use oci_spec::runtime::{LinuxNamespaceType, LinuxTimeOffset, Spec};
use std::path::{Path, PathBuf};

/// What is to be made.
#[derive(Debug)]
pub(super) struct Plan {
    /// Kinds of new namespaces, `CLONE_NEW…`; the cgroup namespace is told apart.
    pub(super) new: u64,
    /// The cgroup namespace is made by the process itself, once it is in its cgroup.
    pub(super) new_cgroup: bool,
    /// Existing namespaces: kind and file.
    pub(super) joined: Vec<(u64, PathBuf)>,
    /// The maps of a new user namespace.
    pub(super) maps: Option<Maps>,
    /// `/proc/PID/timens_offsets` of a new time namespace.
    pub(super) time_offsets: Option<String>,
    /// Whether the process is in a user namespace other than the runtime's.
    pub(super) user: bool,
    pub(super) hostname: Option<String>,
    pub(super) domainname: Option<String>,
    /// Files below `/proc`.
    pub(super) sysctl: Vec<(String, String)>,
    /// Network devices of the host that become the container's.
    pub(super) net_devices: Vec<netdevices::Device>,
    pub(super) cgroup: PathBuf,
    pub(super) process: process::Plan,
}

impl Plan {
    /// Checks a spec.
    pub(super) fn new(id: &str, spec: &Spec) -> Result<Self> {
        unsupported(spec)?;
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| Error::Invalid("the spec has no `linux` section".to_owned()))?;
        let Some(process) = spec.process() else {
            return Err(Error::Invalid("the spec has no `process`".to_owned()));
        };
        let mut kinds = 0;
        let (mut new, mut joined) = (0, Vec::new());
        for namespace in linux.namespaces().iter().flatten() {
            let kind = kind(namespace.typ());
            if kinds & kind != 0 {
                return Err(Error::Invalid(format!(
                    "the {:?} namespace is given twice",
                    namespace.typ()
                )));
            }
            kinds |= kind;
            match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => joined.push((kind, path.clone())),
                _ => new |= kind,
            }
        }
        let has = |kind: i32| kinds & kind as u64 != 0;
        if !has(libc::CLONE_NEWNS) {
            return Err(Error::Unsupported(
                "a container without a mount namespace of its own would mount on the host; add {\"type\": \"mount\"}".to_owned(),
            ));
        }
        let hostname = spec.hostname().clone().filter(|name| !name.is_empty());
        let domainname = spec.domainname().clone().filter(|name| !name.is_empty());
        if (hostname.is_some() || domainname.is_some()) && !has(libc::CLONE_NEWUTS) {
            return Err(Error::Invalid(
                "a hostname or domainname needs a uts namespace".to_owned(),
            ));
        }
        let mut sysctl = Vec::new();
        for (name, value) in linux.sysctl().iter().flatten() {
            sysctl.push((sysctl_file(name, kinds)?, value.clone()));
        }
        sysctl.sort();
        let new_cgroup = new & libc::CLONE_NEWCGROUP as u64 != 0;
        let default = Path::new("/swarm").join(id);
        Ok(Self {
            maps: maps(spec, new)?,
            time_offsets: time_offsets(spec, new)?,
            new: new & !(libc::CLONE_NEWCGROUP as u64),
            new_cgroup,
            joined,
            user: has(libc::CLONE_NEWUSER),
            hostname,
            domainname,
            sysctl,
            net_devices: netdevices::wanted(spec, has(libc::CLONE_NEWNET))?,
            cgroup: linux.cgroups_path().clone().unwrap_or(default),
            process: process::Plan::new(process, spec)?,
        })
    }
}

/// The kinds of namespaces that a later process must join.
pub(super) fn kinds(spec: &Spec) -> u64 {
    spec.linux()
        .iter()
        .filter_map(|linux| linux.namespaces().as_ref())
        .flatten()
        .fold(0, |kinds, namespace| kinds | kind(namespace.typ()))
}

fn kind(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS as u64,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP as u64,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS as u64,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC as u64,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER as u64,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID as u64,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET as u64,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME as u64,
    }
}

fn maps(spec: &Spec, new: u64) -> Result<Option<Maps>> {
    let linux = spec.linux().as_ref();
    let uids = linux
        .and_then(|linux| linux.uid_mappings().as_deref())
        .unwrap_or_default();
    let gids = linux
        .and_then(|linux| linux.gid_mappings().as_deref())
        .unwrap_or_default();
    match (
        new & libc::CLONE_NEWUSER as u64 != 0,
        uids.is_empty() && gids.is_empty(),
    ) {
        (false, true) => Ok(None),
        (false, false) => Err(Error::Invalid(
            "uidMappings and gidMappings need a new user namespace".to_owned(),
        )),
        (true, _) if uids.is_empty() || gids.is_empty() => Err(Error::Invalid(
            "a new user namespace needs uidMappings and gidMappings".to_owned(),
        )),
        (true, _) => Ok(Some(Maps::new(uids, gids))),
    }
}

/// The offsets of a new time namespace's clocks. They must be in it before its first process.
fn time_offsets(spec: &Spec, new: u64) -> Result<Option<String>> {
    let offsets = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.time_offsets().as_ref());
    let mut offsets: Vec<(&String, &LinuxTimeOffset)> = offsets.into_iter().flatten().collect();
    if offsets.is_empty() {
        return Ok(None);
    }
    if new & libc::CLONE_NEWTIME as u64 == 0 {
        return Err(Error::Invalid(
            "linux.timeOffsets need a new time namespace".to_owned(),
        ));
    }
    offsets.sort_by_key(|(clock, _)| clock.as_str());
    let mut text = String::new();
    for (clock, offset) in offsets {
        if !["boottime", "monotonic"].contains(&clock.as_str()) {
            return Err(Error::Invalid(format!(
                "linux.timeOffsets: a time namespace has no clock `{clock}`, but monotonic and boottime"
            )));
        }
        text += &format!(
            "{clock} {} {}\n",
            offset.secs().unwrap_or(0),
            offset.nanosecs().unwrap_or(0)
        );
    }
    Ok(Some(text))
}

/// The file of a sysctl; only one that belongs to the container's own namespaces may be set.
fn sysctl_file(name: &str, kinds: u64) -> Result<String> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    // Dots may stand for slashes and, in names with slashes, slashes for dots (sysctl(8)).
    let path = match (name.find('.'), name.find('/')) {
        (Some(dot), Some(slash)) if slash < dot => name.to_owned(),
        (None, Some(_)) => name.to_owned(),
        _ => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    };
    let dotted = path.replace('/', ".");
    let (needs, what) = if path.starts_with("net/") {
        (libc::CLONE_NEWNET, "network")
    } else if IPC.contains(&dotted.as_str()) || path.starts_with("fs/mqueue/") {
        (libc::CLONE_NEWIPC, "ipc")
    } else if ["kernel.domainname", "kernel.hostname"].contains(&dotted.as_str()) {
        (libc::CLONE_NEWUTS, "uts")
    } else {
        return Err(Error::Invalid(format!(
            "the sysctl {name} is the whole host's, not the container's; set it on the host"
        )));
    };
    if kinds & needs as u64 == 0 {
        return Err(Error::Invalid(format!(
            "the sysctl {name} would change the host: it needs a {what} namespace"
        )));
    }
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(Error::Invalid(format!(
            "`{name}` is not the name of a sysctl"
        )));
    }
    Ok(format!("sys/{path}"))
}

fn unsupported(spec: &Spec) -> Result<()> {
    let refuse = |asked: bool, what: &str| {
        if asked {
            Err(Error::Unsupported(format!(
                "{what} is not supported by this runtime"
            )))
        } else {
            Ok(())
        }
    };
    if !spec.version().starts_with("1.") {
        return Err(Error::Unsupported(format!(
            "this runtime reads specs of version 1, not `{}`",
            spec.version()
        )));
    }
    refuse(spec.solaris().is_some(), "`solaris`")?;
    refuse(spec.windows().is_some(), "`windows`")?;
    refuse(spec.vm().is_some(), "`vm`")?;
    refuse(spec.zos().is_some(), "`zos`")?;
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt")?;
    refuse(
        linux.mount_label().as_ref().is_some_and(|l| !l.is_empty()),
        "linux.mountLabel",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(linux: &str) -> Result<Plan> {
        let json = format!(
            r#"{{"ociVersion":"1.2.0","process":{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["x"]}},"linux":{linux}}}"#
        );
        Plan::new("one", &serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn only_sysctls_of_the_containers_own_namespaces_are_set() {
        let all = r#"[{"type":"mount"},{"type":"network"},{"type":"ipc"}]"#;
        let with = |name: &str| {
            plan(&format!(
                r#"{{"namespaces":{all},"sysctl":{{"{name}":"1"}}}}"#
            ))
        };
        let files = |name: &str| with(name).unwrap().sysctl;
        assert_eq!(
            files("net.ipv4.ip_forward"),
            [("sys/net/ipv4/ip_forward".to_owned(), "1".to_owned())]
        );
        assert_eq!(
            files("net.ipv4.conf.eth0/1.forwarding")[0].0,
            "sys/net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(files("kernel.shmmax")[0].0, "sys/kernel/shmmax");
        assert!(with("kernel.panic").is_err());
        assert!(with("kernel.hostname").is_err());
        assert!(with("net/../../kernel/panic").is_err());
        assert!(
            plan(r#"{"namespaces":[{"type":"mount"}],"sysctl":{"net.ipv4.ip_forward":"1"}}"#)
                .is_err()
        );
    }

    #[test]
    fn namespaces_are_new_or_joined_and_none_is_given_twice() {
        let plan = |list: &str| plan(&format!(r#"{{"namespaces":{list}}}"#));
        let both = plan(
            r#"[{"type":"mount"},{"type":"cgroup"},{"type":"network","path":"/proc/1/ns/net"}]"#,
        )
        .unwrap();
        assert_eq!(both.new, libc::CLONE_NEWNS as u64);
        assert!(both.new_cgroup);
        assert_eq!(
            both.joined,
            [(libc::CLONE_NEWNET as u64, PathBuf::from("/proc/1/ns/net"))]
        );
        assert!(plan(r#"[{"type":"mount"},{"type":"mount"}]"#).is_err());
        assert!(plan(r#"[{"type":"pid"}]"#).is_err());
        assert!(plan(r#"[{"type":"mount"},{"type":"user"}]"#).is_err());
    }

    #[test]
    fn clocks_are_set_in_a_new_time_namespace_only() {
        let plan = |time: &str, clock: &str| {
            plan(&format!(
                r#"{{"namespaces":[{{"type":"mount"}}{time}],"timeOffsets":{{"{clock}":{{"secs":-3,"nanosecs":5}}}}}}"#
            ))
        };
        let new = r#",{"type":"time"}"#;
        assert_eq!(
            plan(new, "monotonic").unwrap().time_offsets.unwrap(),
            "monotonic -3 5\n"
        );
        assert!(plan("", "monotonic").is_err());
        assert!(plan(r#",{"type":"time","path":"/proc/1/ns/time"}"#, "monotonic").is_err());
        assert!(plan(new, "realtime").is_err());
    }

    #[test]
    fn what_is_not_supported_is_never_passed_over() {
        for more in [r#""intelRdt":{}"#, r#""mountLabel":"x""#] {
            let result = plan(&format!(r#"{{"namespaces":[{{"type":"mount"}}],{more}}}"#));
            assert!(matches!(result, Err(Error::Unsupported(_))), "{more}");
        }
    }
}
