//! Docker Swarm, as Debian has it: one `dockerd` in each host, with directories of its own.

use crate::{Figures, LOSSES, STARTS, idle};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use swarm_tests::host::{Host, SOON};
use swarm_tests::{Cluster, command, images, processes, wait_until};

const LONG: Duration = Duration::from_secs(120);

/// Whether this machine has what is needed.
pub(crate) fn is_there() -> bool {
    ["dockerd", "docker", "iptables"].iter().all(|program| {
        let mut which = Command::new("sh");
        which.args([
            "-c",
            &format!("PATH=$PATH:/usr/sbin:/sbin command -v {program}"),
        ]);
        command::run(&mut which, SOON).is_ok_and(|o| o.code == 0)
    })
}

/// Measures everything, on a swarm of three managers.
pub(crate) fn measure() -> Result<Figures> {
    let mut figures = Figures::default();
    let cluster = Cluster::builder().hosts(3).without_agents().start()?;
    let engines = Mutex::new(Vec::new());
    let outcome = on(&cluster, &engines, &mut figures);
    for host in cluster.hosts() {
        host.kill_all()?;
    }
    for mut child in engines.into_inner().unwrap_or_default() {
        let _: std::io::Result<_> = Child::wait(&mut child);
    }
    cluster.stop()?;
    outcome.map(|()| figures)
}

fn on(c: &Cluster, engines: &Mutex<Vec<Child>>, figures: &mut Figures) -> Result<()> {
    let start = |host: &Host| -> Result<()> {
        let child = start(host)?;
        if let Ok(mut engines) = engines.lock() {
            engines.push(child);
        }
        wait_until("dockerd answers", LONG, || {
            docker(host, &["info"]).map(drop)
        })
    };
    for host in c.hosts() {
        start(host)?;
    }
    let one = c.host(1);
    let advertise = |h: &Host| format!("{}", h.address);
    docker(one, &["swarm", "init", "--advertise-addr", &advertise(one)])?;
    let token = docker(one, &["swarm", "join-token", "-q", "manager"])?;
    for host in &c.hosts()[1..] {
        let at = format!("{}:2377", one.address);
        docker(
            host,
            &[
                "swarm",
                "join",
                "--advertise-addr",
                &advertise(host),
                "--token",
                &token,
                &at,
            ],
        )?;
    }
    let archive = images::busybox_tar(&one.scratch()?)?;
    for host in c.hosts() {
        docker(host, &["import", &archive.to_string_lossy(), "busybox"])?;
    }
    create(one, "warm", 3)?;
    wait_running(one, "warm", 3, None)?;
    docker(one, &["service", "rm", "warm"])?;

    let agents: Vec<Vec<i32>> = c.hosts().iter().map(agents_of).collect();
    idle::watch(&agents, figures)?;
    println!("  idle: done");
    starts(c, figures)?;
    println!("  starts: done");
    for _ in 0..LOSSES {
        let lost = c.host(3);
        create(one, "web", 3)?;
        wait_running(one, "web", 3, None)?;
        let died = Instant::now();
        lost.kill_all()?;
        wait_running(one, "web", 3, Some(lost))?;
        figures.host_lost.push_time(died.elapsed());
        docker(one, &["service", "rm", "web"])?;
        start(lost)?;
        wait_ready(one)?;
    }
    println!("  lost hosts: done");
    for _ in 0..LOSSES {
        let leader = leader(c)?;
        let other = c.others(leader).next().context("no other host")?;
        let died = Instant::now();
        leader.kill_all()?;
        wait_until("a write is accepted", LONG, || {
            docker(other, &["config", "rm", "written"]).ok();
            let mut write = client(
                other,
                &[
                    "config",
                    "create",
                    "--label",
                    "a=b",
                    "written",
                    "/etc/hostname",
                ],
            )?;
            other.run(&mut write, Duration::from_secs(3))?.ok()
        })?;
        figures.leader_lost.push_time(died.elapsed());
        start(leader)?;
        wait_ready(other)?;
    }
    println!("  lost leaders: done");
    Ok(())
}

fn starts(c: &Cluster, figures: &mut Figures) -> Result<()> {
    let one = c.host(1);
    for n in 0..STARTS {
        let name = format!("start{n}");
        let typed = now();
        create(one, &name, 1)?;
        let acknowledged = now();
        let started = wait_until("the task runs", LONG, || {
            for host in c.hosts() {
                let id = docker(host, &["ps", "-q", "--filter", &format!("name={name}.")])?;
                if let Some(id) = id.lines().next() {
                    let started = docker(host, &["inspect", "--format", "{{json .State}}", id])?;
                    let state: Value = serde_json::from_str(&started)?;
                    ensure!(state["Running"] == true, "{state}");
                    return date(host, state["StartedAt"].as_str().context("no time")?);
                }
            }
            anyhow::bail!("there is no container")
        })?;
        figures
            .typed_to_running
            .push_time(started.saturating_sub(typed));
        figures
            .ack_to_running
            .push_time(started.saturating_sub(acknowledged));
        docker(one, &["service", "rm", &name])?;
    }
    Ok(())
}

/// Starts dockerd with a `/run` of its own, as its network sandboxes are found there.
pub(crate) fn start(host: &Host) -> Result<Child> {
    let (data, run) = (host.data_dir(), host.run_dir());
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(run.join("dockerd.log"))?;
    let script = format!(
        // Each task's image is asked for at a registry first: with this, that fails at once instead of timing out.
        "mount -t tmpfs run /run && echo nameserver 127.0.0.1 >/run/resolv.conf && \
         mount --bind /run/resolv.conf /etc/resolv.conf && exec dockerd --data-root {data} --exec-root /run/docker --pidfile /run/docker.pid \
         -H unix://{run}/docker.sock --cgroup-parent {group}",
        data = data.display(),
        run = run.display(),
        group = host.group(),
    );
    let mut dockerd = Command::new("unshare");
    dockerd.args(["-m", "--propagation", "private", "sh", "-c", &script]);
    dockerd.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    dockerd
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    host.spawn_inside(&mut dockerd)
}

fn client(host: &Host, args: &[&str]) -> Result<Command> {
    let mut docker = Command::new("docker");
    docker
        .args([
            "-H",
            &format!("unix://{}/docker.sock", host.run_dir().display()),
        ])
        .args(args);
    Ok(docker)
}

/// Has the client do something; what it says.
pub(crate) fn docker(host: &Host, args: &[&str]) -> Result<String> {
    Ok(host
        .run(&mut client(host, args)?, LONG)?
        .ok()?
        .stdout
        .trim()
        .to_owned())
}

fn create(host: &Host, name: &str, replicas: usize) -> Result<()> {
    let replicas = replicas.to_string();
    let args = [
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--stop-signal",
        "KILL",
        "--name",
        name,
        "--replicas",
        &replicas,
    ];
    docker(host, &[&args[..], &["busybox", "sleep", "3600"]].concat()).map(drop)
}

fn wait_running(host: &Host, name: &str, count: usize, without: Option<&Host>) -> Result<()> {
    wait_until("the tasks run", LONG, || {
        let format = "{{.Node}} {{.CurrentState}}";
        let tasks = docker(
            host,
            &[
                "service",
                "ps",
                "--filter",
                "desired-state=running",
                "--format",
                format,
                name,
            ],
        )?;
        let running = tasks.lines().filter(|l| l.contains("Running")).count();
        // All hosts have the machine's name, so that a lost host is told by its tasks' being replaced.
        let replaced = match without {
            None => true,
            Some(_) => {
                docker(
                    host,
                    &[
                        "service",
                        "ps",
                        "--filter",
                        "desired-state=shutdown",
                        "-q",
                        name,
                    ],
                )?
                .lines()
                .count()
                    > 0
            }
        };
        ensure!(running == count && replaced, "{tasks}");
        Ok(())
    })
}

fn wait_ready(host: &Host) -> Result<()> {
    wait_until("all nodes are ready", LONG, || {
        let nodes = docker(
            host,
            &["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"],
        )?;
        let ready = nodes
            .lines()
            .filter(|l| l.starts_with("Ready ") && !l.contains("Unreachable"))
            .count();
        ensure!(ready == 3, "{nodes}");
        Ok(())
    })
}

fn leader(c: &Cluster) -> Result<&Host> {
    c.hosts()
        .iter()
        .find(|h| {
            docker(
                h,
                &[
                    "node",
                    "inspect",
                    "self",
                    "--format",
                    "{{.ManagerStatus.Leader}}",
                ],
            )
            .is_ok_and(|l| l == "true")
        })
        .context("no leader")
}

/// dockerd and the containerd that it started.
fn agents_of(host: &Host) -> Vec<i32> {
    let is_agent = |pid: &i32| {
        let line = processes::command_line(*pid);
        line.starts_with("dockerd ") || line.starts_with("containerd ")
    };
    host.processes().into_iter().filter(is_agent).collect()
}

/// What `date` makes of a time as Docker writes it.
fn date(host: &Host, text: &str) -> Result<Duration> {
    let mut date = Command::new("date");
    date.args(["-d", text, "+%s%3N"]);
    Ok(Duration::from_millis(
        host.run(&mut date, SOON)?.ok()?.stdout.trim().parse()?,
    ))
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
