//! Debian's Docker with this runtime: `dockerd` in namespaces of its own, so that nothing of it stays.

use crate::{SOON, bundle::scratch, swarm_oci};
use anyhow::{Result, ensure};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use swarm_tests::{
    cgroups,
    command::{self, Output},
    images, wait_until,
};

struct Docker {
    folder: PathBuf,
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

    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut docker = Command::new("docker");
        docker
            .arg("-H")
            .arg(format!("unix://{}/socket", self.folder.display()))
            .args(args);
        command::run(&mut docker, SOON)
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.run(args)?.ok()?.stdout)
    }

    fn container(&self, args: &[&str]) -> Result<Output> {
        self.run(&[&["run", "--network=none"], args].concat())
    }
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
fn docker_runs_containers_with_it() -> Result<()> {
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
    Ok(())
}
