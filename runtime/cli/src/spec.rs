//! `spec`: a config.json to begin with.

use crate::{
    args::{Arg, Args, Id, unknown},
    features,
};
use serde_json::{Value, json};
use std::{fs::OpenOptions, io::Write, path::PathBuf};
use swarm_runtime::{Error, Result, container::default_seccomp};

/// `spec`: writes it into the bundle, never over one that is there.
pub(crate) fn write(args: &mut Args) -> Result<()> {
    let mut bundle = PathBuf::from(".");
    let (mut rootless, mut system) = (false, false);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Option(name) if name == "bundle" || name == "b" => bundle = args.path(&name)?,
            Arg::Option(name) if name == "rootless" => rootless = args.switch(&name)?,
            Arg::Option(name) if name == "system" => system = args.switch(&name)?,
            Arg::Option(name) => unknown("spec", &name)?,
            Arg::Word(word) => {
                let mut none = Id::default();
                none.take(&"spec".into())?;
                none.take(&word)?;
            }
        }
    }
    let path = bundle.join("config.json");
    let ids = rootless.then(|| {
        (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )
    });
    let mut config = config(ids)?;
    if system {
        make_system(&mut config);
    }
    let text = format!("{config:#}\n");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| Error::io(format!("write {}", path.display()), e))
}

fn config(rootless: Option<(u32, u32)>) -> Result<Value> {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let seccomp = serde_json::to_value(default_seccomp())
        .map_err(|e| Error::Internal(format!("cannot write the default seccomp profile: {e}")))?;
    let usual = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&str]| json!(usual.iter().chain(more).collect::<Vec<_>>());
    let mut namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount", "cgroup"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    let mut linux = json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            "/sys/devices/virtual/powercap"
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        "seccomp": seccomp,
    });
    let sys = match rootless {
        Some((uid, gid)) => {
            namespaces.push(json!({"type": "user"}));
            linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
            linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
            json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
        }
        None => {
            namespaces.push(json!({"type": "network"}));
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": with(&["ro"])})
        }
    };
    linux["namespaces"] = Value::Array(namespaces);
    let pts: &[&str] = if rootless.is_some() {
        &["newinstance", "ptmxmode=0666", "mode=0620"]
    } else {
        &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    };
    let pts: Vec<_> = ["nosuid", "noexec"].iter().chain(pts).collect();
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": with(&[])}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": with(&["mode=1777", "size=65536k"])}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": with(&[])}),
        sys,
    ];
    if rootless.is_none() {
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": with(&["ro"])}));
    }
    Ok(json!({
        "ociVersion": features::NEWEST,
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "swarm",
        "mounts": mounts,
        "linux": linux,
    }))
}

/// Makes it the spec of a system container: a distribution with its own init, which gets its console, memory for the state of a
/// boot, control groups of its own, and may change users. docs/operations.md says why.
fn make_system(config: &mut Value) {
    config["root"]["readonly"] = json!(false);
    let process = &mut config["process"];
    process["args"] = json!(["/sbin/init"]);
    process["terminal"] = json!(true);
    process["noNewPrivileges"] = json!(false);
    if let Some(env) = process["env"].as_array_mut() {
        env.push(json!("container=oci"));
    }
    let caps: Vec<_> = SYSTEM_CAPABILITIES
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(caps);
    }
    let Some(mounts) = config["mounts"].as_array_mut() else {
        return;
    };
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    let memory = |to: &str, options: &[&str]| json!({"destination": to, "type": "tmpfs", "source": "tmpfs", "options": options});
    mounts.extend([
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "rw"]}),
        memory("/run", &["nosuid", "nodev", "mode=755"]),
        memory("/run/lock", &["nosuid", "nodev", "noexec", "mode=1777"]),
        memory("/tmp", &["nosuid", "nodev", "mode=1777"]),
    ]);
}

/// Docker's default ones.
const SYSTEM_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

#[cfg(test)]
mod tests {
    use super::config;

    #[test]
    fn what_is_written_is_a_spec() {
        for rootless in [None, Some((1000, 1000))] {
            let text = config(rootless).unwrap().to_string();
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            assert!(spec.linux().as_ref().unwrap().seccomp().is_some());
            assert_eq!(
                spec.linux()
                    .as_ref()
                    .unwrap()
                    .namespaces()
                    .as_ref()
                    .unwrap()
                    .len(),
                6
            );
        }
    }
}
