//! Debian's podman with this runtime.

use crate::{SOON, bundle::scratch, swarm_oci};
use anyhow::{Result, ensure};
use std::{fs, path::PathBuf, process::Command};
use swarm_tests::{
    cgroups,
    command::{self, Output},
    images,
};

struct Podman(PathBuf);

impl Podman {
    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut podman = Command::new("podman");
        for (option, folder) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            podman.arg(option).arg(self.0.join(folder));
        }
        podman
            .args(["--storage-driver=vfs", "--events-backend=none"])
            .args(["--cgroup-manager=cgroupfs", "--runtime"])
            .arg(swarm_oci()?)
            .args(args);
        Ok(podman)
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        command::run(&mut self.command(args)?, SOON)
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.run(args)?.ok()?.stdout)
    }

    /// Without a network, and with as many open files as this host may give.
    fn container(&self, args: &[&str]) -> Result<Output> {
        let usual = [
            "run",
            "--network=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
        ];
        self.run(&[&usual[..], args].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--force", "--all", "--time=0"]);
        for group in cgroups::named("libpod_parent") {
            let _ = cgroups::remove(&group);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn podman_runs_containers_with_it() -> Result<()> {
    let podman = Podman(scratch()?);
    let archive = images::busybox_tar(&podman.0)?;
    podman.ok(&["import", &archive.to_string_lossy(), "busybox"])?;

    let done = podman.container(&[
        "--rm",
        "busybox",
        "sh",
        "-c",
        "echo out; echo $HOME; exit 5",
    ])?;
    ensure!(done.code == 5 && done.stdout == "out\n/root\n", "{done:?}");
    let missing = podman.container(&["--rm", "busybox", "nothing"])?;
    ensure!(missing.code == 127, "{missing:?}");
    let terminal = podman
        .container(&["--rm", "--tty", "busybox", "tty"])?
        .ok()?;
    ensure!(terminal.stdout.contains("/dev/pts/0"), "{terminal:?}");

    let script = "echo started; exec sleep 1000";
    podman
        .container(&[
            "--detach",
            "--name=web",
            "--memory=64m",
            "busybox",
            "sh",
            "-c",
            script,
        ])?
        .ok()?;
    let ran = podman.run(&["exec", "web", "sh", "-c", "echo in $$; exit 9"])?;
    ensure!(ran.code == 9 && ran.stdout.starts_with("in "), "{ran:?}");
    ensure!(podman.ok(&["exec", "--user=1000", "web", "id", "-u"])? == "1000\n");
    ensure!(podman.ok(&["logs", "web"])? == "started\n");
    podman.ok(&["pause", "web"])?;
    ensure!(podman.ok(&["inspect", "--format={{.State.Status}}", "web"])? == "paused\n");
    podman.ok(&["unpause", "web"])?;
    podman.ok(&["kill", "--signal=KILL", "web"])?;
    ensure!(podman.ok(&["wait", "web"])? == "137\n");
    podman.ok(&["start", "web"])?;
    podman.ok(&["stop", "--time=0", "web"])?;
    ensure!(podman.ok(&["inspect", "--format={{.State.Status}}", "web"])? == "exited\n");
    podman.ok(&["rm", "web"])?;
    Ok(())
}
