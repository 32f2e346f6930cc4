//! Debian's podman with this runtime.

use crate::{SOON, bundle::scratch, swarm_oci};
use anyhow::{Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use swarm_tests::{
    User, cgroups,
    command::{self, Output},
    images,
};

/// A podman with a store of its own: root's, or a user's.
struct Podman {
    folder: PathBuf,
    runtime: PathBuf,
    user: Option<User>,
}

impl Podman {
    /// Root's, with busybox as an image.
    fn new() -> Result<Self> {
        let podman = Self {
            folder: scratch()?,
            runtime: swarm_oci()?,
            user: None,
        };
        podman.with_busybox()
    }

    /// That of an ordinary user with subordinate ids.
    fn of_user() -> Result<Self> {
        let user = User::new(true)?;
        let podman = Self {
            folder: user.home(),
            runtime: user.program(&swarm_oci()?)?,
            user: Some(user),
        };
        podman.with_busybox()
    }

    fn with_busybox(self) -> Result<Self> {
        let archive = images::busybox_tar(&self.folder)?;
        self.ok(&["import", &archive.to_string_lossy(), "busybox"])?;
        Ok(self)
    }

    fn command(&self, args: &[&str]) -> Command {
        let program = Path::new("podman");
        let mut podman = match &self.user {
            None => Command::new(program),
            Some(user) => user.command(program, &[]),
        };
        for (option, folder) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            podman.arg(option).arg(self.folder.join(folder));
        }
        podman
            .args(["--storage-driver=vfs", "--events-backend=none"])
            .args(["--cgroup-manager=cgroupfs", "--runtime"])
            .arg(&self.runtime)
            .args(args);
        podman
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        command::run(&mut self.command(args), SOON)
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
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What is the same for root and a user: one container to its end, and one that goes on.
fn serves(podman: &Podman, limits: &[&str]) -> Result<()> {
    let script = "echo out; echo $HOME; exit 5";
    let done = podman.container(&["--rm", "busybox", "sh", "-c", script])?;
    ensure!(done.code == 5 && done.stdout == "out\n/root\n", "{done:?}");
    let missing = podman.container(&["--rm", "busybox", "nothing"])?;
    ensure!(missing.code == 127, "{missing:?}");
    let terminal = podman
        .container(&["--rm", "--tty", "busybox", "tty"])?
        .ok()?;
    ensure!(terminal.stdout.contains("/dev/pts/0"), "{terminal:?}");

    let script = "echo started; exec sleep 1000";
    let usual = ["--detach", "--name=web"];
    podman
        .container(&[&usual[..], limits, &["busybox", "sh", "-c", script]].concat())?
        .ok()?;
    let ran = podman.run(&["exec", "web", "sh", "-c", "echo in $$; exit 9"])?;
    ensure!(ran.code == 9 && ran.stdout.starts_with("in "), "{ran:?}");
    ensure!(podman.ok(&["exec", "--user=1000", "web", "id", "-u"])? == "1000\n");
    ensure!(podman.ok(&["logs", "web"])? == "started\n");
    Ok(())
}

/// The container `web` is killed, started again, stopped and removed.
fn ends_and_begins_again(podman: &Podman) -> Result<()> {
    podman.ok(&["kill", "--signal=KILL", "web"])?;
    ensure!(podman.ok(&["wait", "web"])? == "137\n");
    podman.ok(&["start", "web"])?;
    podman.ok(&["stop", "--time=0", "web"])?;
    ensure!(podman.ok(&["inspect", "--format={{.State.Status}}", "web"])? == "exited\n");
    podman.ok(&["rm", "web"])?;
    Ok(())
}

#[test]
fn podman_runs_containers_with_it() -> Result<()> {
    let podman = Podman::new()?;
    serves(&podman, &["--memory=64m"])?;
    podman.ok(&["pause", "web"])?;
    ensure!(podman.ok(&["inspect", "--format={{.State.Status}}", "web"])? == "paused\n");
    podman.ok(&["unpause", "web"])?;
    ends_and_begins_again(&podman)
}

#[test]
fn a_users_podman_runs_containers_with_it() -> Result<()> {
    let podman = Podman::of_user()?;
    serves(&podman, &[])?;
    let script =
        "id -u; cat /proc/self/uid_map; echo here > /file; chown 5:7 /file; stat -c %u:%g /file";
    let ids = podman
        .container(&["--rm", "busybox", "sh", "-c", script])?
        .ok()?;
    let words: Vec<&str> = ids.stdout.split_whitespace().collect();
    let user = podman.user.as_ref().map_or((0, 0), |u| (u.id, u.first));
    let (id, first) = (user.0.to_string(), user.1.to_string());
    let wanted = ["0", "0", &id, "1", "1", &first, "65536", "5:7"];
    ensure!(words == wanted, "{words:?}");
    ends_and_begins_again(&podman)
}
