//! Debian's Docker with this runtime: `dockerd` in namespaces of its own, so that nothing of it stays.

use crate::{SOON, bundle::scratch, exchange, swarm_oci};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use swarm_tests::{
    cgroups,
    command::{self, Output},
    images, wait_until,
};

pub(crate) struct Docker {
    pub(crate) folder: PathBuf,
    group: String,
    daemon: Child,
}

impl Docker {
    fn start() -> Result<Self> {
        let folder = scratch()?;
        let group = folder
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let log = File::create(folder.join("log"))?;
        // Its first process waits for whatever is left to it, so that no dead shim stays.
        let script = format!(
            "mount -t tmpfs run /run && mkdir {path}/data && ip link set lo up && dockerd --data-root {path}/data --exec-root /run/docker \
             --pidfile /run/docker.pid -H unix://{path}/socket --iptables=false --bridge=none --cgroup-parent /{group} \
             --add-runtime swarm={program} --default-runtime swarm --exec-opt native.cgroupdriver=cgroupfs & wait",
            path = folder.display(),
            program = swarm_oci()?.display(),
        );
        let daemon = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--propagation=private",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", &script])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let docker = Self {
            folder,
            group,
            daemon,
        };
        wait_until("dockerd answers", SOON, || docker.ok(&["info"]).map(drop))?;
        Ok(docker)
    }

    /// The client, not started yet.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker
            .arg("-H")
            .arg(format!("unix://{}/socket", self.folder.display()))
            .args(args);
        docker
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        command::run(&mut self.client(args), SOON)
    }

    pub(crate) fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.run(args)?.ok()?.stdout)
    }

    /// Every system call that this runtime's default profile allows is allowed by the one that Docker has written for its container, but
    /// for those that are newer than it, and those that it began to allow later (23.0).
    fn allows_what_ours_does(&self) -> Result<()> {
        const LATER: [&str; 6] = [
            "name_to_handle_at",
            "pkey_alloc",
            "pkey_free",
            "pkey_mprotect",
            "process_vm_readv",
            "process_vm_writev",
        ];
        const NEWER: [&str; 14] = [
            "cachestat",
            "fchmodat2",
            "futex_requeue",
            "futex_wait",
            "futex_wake",
            "getxattrat",
            "listmount",
            "listxattrat",
            "map_shadow_stack",
            "mseal",
            "removexattrat",
            "setxattrat",
            "statmount",
            "uretprobe",
        ];
        let id = self.ok(&["inspect", "--format={{.Id}}", "web"])?;
        // As seen by a process in the daemon's mount namespace.
        let spec = format!(
            "/proc/{}/root/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{}/config.json",
            self.daemon.id(),
            id.trim()
        );
        let theirs = allowed(&serde_json::from_slice(&fs::read(spec)?)?);
        ensure!(theirs.contains("read"), "Docker's profile is not there");
        fs::create_dir(self.folder.join("ours"))?;
        command::run(
            Command::new(swarm_oci()?)
                .args(["spec", "--bundle"])
                .arg(self.folder.join("ours")),
            SOON,
        )?
        .ok()?;
        let spec = fs::read(self.folder.join("ours/config.json"))?;
        let more: Vec<String> = allowed(&serde_json::from_slice(&spec)?)
            .difference(&theirs)
            .filter(|name| !LATER.contains(&name.as_str()) && !NEWER.contains(&name.as_str()))
            .cloned()
            .collect();
        ensure!(more.is_empty(), "allowed here, and not by Docker: {more:?}");
        Ok(())
    }

    pub(crate) fn container(&self, args: &[&str]) -> Result<Output> {
        self.run(&[&["run", "--network=none"], args].concat())
    }
}

/// The calls that a spec's filter allows, whatever their arguments or with some.
fn allowed(spec: &Value) -> BTreeSet<String> {
    let rules = spec["linux"]["seccomp"]["syscalls"].as_array();
    rules
        .into_iter()
        .flatten()
        .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
        .flat_map(|rule| rule["names"].as_array().into_iter().flatten())
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

impl Drop for Docker {
    fn drop(&mut self) {
        let ids = self.ok(&["ps", "--all", "--quiet"]).unwrap_or_default();
        for id in ids.lines() {
            let _ = self.run(&["rm", "--force", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for group in cgroups::named(&self.group) {
            let _ = cgroups::remove(&group);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn docker_runs_containers_with_it_and_takes_and_gives_images() -> Result<()> {
    let docker = Docker::start()?;
    let archive = images::busybox_tar(&docker.folder)?;
    docker.ok(&["import", &archive.to_string_lossy(), "busybox"])?;

    let done = docker.container(&[
        "--rm",
        "busybox",
        "sh",
        "-c",
        "echo out; echo $HOME; exit 5",
    ])?;
    ensure!(done.code == 5 && done.stdout == "out\n/root\n", "{done:?}");
    let missing = docker.container(&["--rm", "busybox", "nothing"])?;
    ensure!(missing.code == 127, "{missing:?}");
    let terminal = docker
        .container(&["--rm", "--tty", "busybox", "tty"])?
        .ok()?;
    ensure!(terminal.stdout.contains("/dev/pts/0"), "{terminal:?}");
    let user = docker
        .container(&[
            "--rm",
            "--user=1000",
            "busybox",
            "sh",
            "-c",
            "id -u >/dev/stdout",
        ])?
        .ok()?;
    ensure!(user.stdout == "1000\n", "{user:?}");
    let greedy = docker.container(&[
        "--rm",
        "--memory=32m",
        "busybox",
        "sh",
        "-c",
        "exec tail /dev/zero",
    ])?;
    ensure!(greedy.code == 137, "{greedy:?}");

    let script = "echo started; exec sleep 1000";
    docker
        .container(&["--detach", "--name=web", "busybox", "sh", "-c", script])?
        .ok()?;
    docker.allows_what_ours_does()?;
    let ran = docker.run(&["exec", "web", "sh", "-c", "echo in $$; exit 9"])?;
    ensure!(ran.code == 9 && ran.stdout.starts_with("in "), "{ran:?}");
    ensure!(
        docker
            .ok(&["exec", "--tty", "web", "tty"])?
            .contains("/dev/pts/")
    );
    ensure!(docker.ok(&["logs", "web"])? == "started\n");
    ensure!(docker.ok(&["top", "web"])?.contains("sleep 1000"));
    docker.ok(&["update", "--memory=64m", "--memory-swap=64m", "web"])?;
    let stats = docker.ok(&["stats", "--no-stream", "--format={{.MemUsage}}", "web"])?;
    ensure!(stats.contains("64MiB"), "{stats}");
    docker.ok(&["pause", "web"])?;
    ensure!(docker.ok(&["inspect", "--format={{.State.Status}}", "web"])? == "paused\n");
    docker.ok(&["unpause", "web"])?;
    docker.ok(&["kill", "web"])?;
    ensure!(docker.ok(&["wait", "web"])? == "137\n");
    docker.ok(&["start", "web"])?;
    docker.ok(&["stop", "--time=0", "web"])?;
    ensure!(docker.ok(&["inspect", "--format={{.State.Status}}", "web"])? == "exited\n");
    docker.ok(&["rm", "web"])?;
    // The daemon takes a while to start: once is enough.
    exchange::both_ways(&docker)
}
