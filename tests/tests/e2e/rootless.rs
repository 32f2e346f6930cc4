//! An ordinary user's agent: one host alone, in that user's namespace.

use crate::SOON;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rustix::process::Pid;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use swarm_tests::command::{self, Output};
use swarm_tests::host::{Binaries, Task};
use swarm_tests::{User, images, wait_until};

/// A user with its agent.
struct Agent {
    user: User,
    swarmd: PathBuf,
    swarmctl: PathBuf,
    process: Option<Child>,
}

impl Agent {
    fn start(subordinate: bool) -> Result<Self> {
        let user = User::new(subordinate)?;
        let binaries = Binaries::find()?;
        let mut agent = Self {
            swarmd: user.program(&binaries.swarmd())?,
            swarmctl: user.program(&binaries.swarmctl())?,
            user,
            process: None,
        };
        agent.up()?;
        Ok(agent)
    }

    fn up(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.user.home().join("agent.log"))?;
        let mut command = self.user.command(&self.swarmd, &["run", "--name", "own"]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(command.spawn()?);
        wait_until("the user's agent answers", SOON, || {
            self.ctl(&["version"])?.ok().with_context(|| self.log())
        })?;
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.user.home().join("agent.log")).unwrap_or_default()
    }

    fn down(&mut self) -> Result<()> {
        let mut process = self.process.take().context("no agent")?;
        rustix::process::kill_process(Pid::from_child(&process), rustix::process::Signal::TERM)?;
        command::wait(&mut process, SOON)?.context("the agent does not end")?;
        Ok(())
    }

    /// `swarmctl` as the user types it: it finds the user's own agent.
    fn ctl(&self, args: &[&str]) -> Result<Output> {
        self.user.run(&self.swarmctl, args, SOON)
    }

    fn busybox(&self) -> Result<()> {
        let folder = self.user.home().join("image");
        std::fs::create_dir_all(&folder)?;
        let archive = images::busybox_tar(&folder)?;
        self.user.give(&folder)?;
        self.ctl(&["image", "import", "busybox", &archive.to_string_lossy()])?
            .ok()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(process.id() as i32),
                Signal::SIGTERM,
            );
            let _ = process.wait();
        }
    }
}

#[test]
fn a_users_own_agent_runs_containers_and_finds_them_again() -> Result<()> {
    let mut agent = Agent::start(true)?;
    agent.busybox()?;
    let map = "id -u; cat /proc/self/uid_map";
    let done = agent
        .ctl(&["run", "--rm", "--user", "guest", "busybox", "sh", "-c", map])?
        .ok()?;
    let words: Vec<&str> = done.stdout.split_whitespace().collect();
    let (id, first) = (agent.user.id.to_string(), agent.user.first.to_string());
    ensure!(
        words == ["1000", "0", &id, "1", "1", &first, "65536"],
        "{words:?}"
    );

    let wait = "echo up; echo kept > /file; exec sleep 1000";
    agent
        .ctl(&[
            "run",
            "-d",
            "--name",
            "box",
            "--stop-signal",
            "KILL",
            "busybox",
            "sh",
            "-c",
            wait,
        ])?
        .ok()?;
    wait_until("it runs", SOON, || {
        let tasks = Task::all(
            &agent
                .ctl(&["-o", "json", "--host", "local", "ps"])?
                .json()?,
        );
        ensure!(tasks.iter().any(|t| t.state == "running"), "{tasks:?}");
        let log = agent.ctl(&["logs", "box"])?.ok()?;
        ensure!(log.stdout == "up\n", "{log:?}");
        Ok(())
    })?;
    let exec = agent.ctl(&["exec", "box.1", "sh", "-c", "cat /file; exit 5"])?;
    ensure!(exec.code == 5 && exec.stdout == "kept\n", "{exec:?}");

    agent.down()?;
    agent.up()?;
    let exec = agent.ctl(&["exec", "box.1", "cat", "/file"])?.ok()?;
    ensure!(exec.stdout == "kept\n", "{exec:?}");
    agent.ctl(&["stop", "box"])?.ok()?;
    agent.ctl(&["rm", "-f", "box"])?.ok()?;

    for (args, word) in [
        (&["init"][..], "ordinary user"),
        (
            &["run", "--rm", "--memory", "100m", "busybox", "true"],
            "memory.max",
        ),
        (
            &["run", "--rm", "--user-namespace", "busybox", "true"],
            "--user-namespace",
        ),
    ] {
        let refused = agent.ctl(args)?.refusal()?;
        ensure!(refused.contains(word), "{refused}");
    }
    agent.down()?;
    agent.user.is_idle()?;

    // Some of the files are other users' on the host.
    let data = agent.user.home().join(".local");
    let data = data.to_string_lossy();
    let remove = ["unshare", "rm", "-r", &data];
    agent.user.run(&agent.swarmd, &remove, SOON)?.ok()?;
    Ok(())
}

#[test]
fn without_subordinate_ids_images_are_roots_alone() -> Result<()> {
    let mut agent = Agent::start(false)?;
    agent.busybox()?;
    let out = agent
        .ctl(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "id -u; cat /proc/self/setgroups",
        ])?
        .ok()?;
    ensure!(out.stdout == "0\ndeny\n", "{out:?}");
    ensure!(
        agent.log().contains("no subordinate ids"),
        "{}",
        agent.log()
    );
    agent.down()?;
    agent.user.is_idle()
}
