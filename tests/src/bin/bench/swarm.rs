//! Our side.

use crate::{Figures, LOSSES, STARTS, idle};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use swarm_tests::host::{Host, SOON};
use swarm_tests::{Cluster, images, wait_until};

/// What anything here happens within.
const LONG: Duration = Duration::from_secs(60);

/// Measures everything, on clusters of three hosts.
pub(crate) fn measure() -> Result<Figures> {
    let mut figures = Figures::default();
    let cluster = Cluster::builder().hosts(3).start()?;
    let outcome = on(&cluster, &mut figures);
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    cluster.stop()?;
    outcome.map(|()| figures)
}

fn on(c: &Cluster, figures: &mut Figures) -> Result<()> {
    c.form()?;
    let one = c.host(1);
    let archive = images::busybox_tar(&one.scratch()?)?;
    one.ok(&["image", "import", "busybox", &archive.to_string_lossy()])?;
    // Each node fetches the image once; that is not what is measured.
    one.ok(&[
        "run",
        "-d",
        "--name",
        "warm",
        "--replicas",
        "3",
        "busybox",
        "sleep",
        "3600",
    ])?;
    one.wait_running("warm", 3, LONG)?;
    one.ok(&["service", "rm", "warm"])?;
    wait_until("the cluster is empty", LONG, || {
        ensure!(one.tasks(None)?.is_empty(), "it is not");
        Ok(())
    })?;
    at_rest(c, figures)?;
    println!("  idle: done");
    starts(one, figures)?;
    println!("  starts: done");
    for _ in 0..LOSSES {
        lose_host(c, figures)?;
    }
    println!("  lost hosts: done");
    for _ in 0..LOSSES {
        lose_leader(c, figures)?;
    }
    println!("  lost leaders: done");
    Ok(())
}

fn starts(host: &Host, figures: &mut Figures) -> Result<()> {
    for n in 0..STARTS {
        let name = format!("start{n}");
        let typed = now();
        host.ok(&[
            "run",
            "-d",
            "--stop-signal",
            "KILL",
            "--name",
            &name,
            "busybox",
            "sleep",
            "3600",
        ])?;
        let acknowledged = now();
        let started = wait_until("the task runs", LONG, || {
            let tasks = host.json(&["ps", &name])?;
            let started = tasks[0]["status"]["started_at"].as_u64();
            started.with_context(|| format!("{tasks}"))
        })?;
        let started = Duration::from_millis(started);
        figures
            .typed_to_running
            .push_time(started.saturating_sub(typed));
        figures
            .ack_to_running
            .push_time(started.saturating_sub(acknowledged));
        host.ok(&["service", "rm", &name])?;
    }
    Ok(())
}

fn lose_host(c: &Cluster, figures: &mut Figures) -> Result<()> {
    let leader = c.leader(c.host(1))?;
    let lost = c.others(leader).next().context("no other host")?;
    let constraint = format!("node.name!={}", leader.name);
    leader.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--replicas",
        "2",
        "--constraint",
        &constraint,
        "whoami",
    ])?;
    leader.wait_running("web", 2, LONG)?;
    let start = Instant::now();
    lost.kill_all()?;
    leader.wait_moved("web", 2, lost, LONG)?;
    figures.host_lost.push_time(start.elapsed());
    lost.start_agent()?;
    c.wait_ready()?;
    leader.ok(&["service", "rm", "web"])?;
    Ok(())
}

fn lose_leader(c: &Cluster, figures: &mut Figures) -> Result<()> {
    let leader = c.leader(c.host(1))?;
    let other = c.others(leader).next().context("no other host")?;
    other.ok(&[
        "run",
        "-d",
        "--name",
        "written",
        "--constraint",
        "node.name==nowhere",
        "whoami",
    ])?;
    let start = Instant::now();
    leader.kill_all()?;
    let mut replicas = 1;
    wait_until("a write is accepted", LONG, || {
        replicas += 1;
        other
            .ok(&["service", "scale", &format!("written={replicas}")])
            .map(drop)
    })?;
    figures.leader_lost.push_time(start.elapsed());
    leader.start_agent()?;
    c.wait_ready()?;
    other.ok(&["service", "rm", "written"])?;
    wait_until("all three vote", SOON, || {
        let nodes = other.json(&["node", "ls"])?;
        let voters = nodes
            .as_array()
            .into_iter()
            .flatten()
            .filter(|n| n["raft"] != "observer")
            .count();
        ensure!(voters == 3, "{nodes}");
        Ok(())
    })
}

fn at_rest(c: &Cluster, figures: &mut Figures) -> Result<()> {
    let agents: Vec<Vec<i32>> = c
        .hosts()
        .iter()
        .map(|h| h.agent_pid().into_iter().collect())
        .collect();
    idle::watch(&agents, figures)
}

/// The time since 1970.
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
