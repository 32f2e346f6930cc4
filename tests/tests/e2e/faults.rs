//! Hosts die, links are cut, agents are killed: nothing acknowledged is lost, and what ran runs again.

use crate::{FAILOVER, SOON, UP, addresses, busybox, run, wait_dns};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use swarm_tests::host::{Host, Task};
use swarm_tests::{Cluster, processes, wait_until, with_cluster};

/// Waits until `count` tasks of web run without the host `lost`, as `host` sees it.
fn wait_moved(host: &Host, lost: &Host, count: usize) -> Result<Vec<Task>> {
    wait_until(
        &format!("{}'s tasks run elsewhere", lost.name),
        FAILOVER,
        || {
            let running = host.running("web")?;
            ensure!(
                running.len() == count && running.iter().all(|t| t.node != lost.name),
                "{running:?}"
            );
            Ok(running)
        },
    )
}

fn pids(host: &Host) -> Result<BTreeMap<String, i32>> {
    let running = host.running("web")?;
    running
        .into_iter()
        .map(|t| Ok((t.id.clone(), t.pid.with_context(|| format!("{t:?}"))?)))
        .collect()
}

/// The leader and another host.
fn leader_and_other(c: &Cluster) -> Result<(&Host, &Host)> {
    let leader = c.leader(c.host(1))?;
    Ok((
        leader,
        c.others(leader).next().context("there is one host only")?,
    ))
}

#[test]
fn a_host_that_loses_power_is_replaced_and_dns_follows_and_it_comes_back() {
    with_cluster(3, |c| {
        let (leader, _) = leader_and_other(c)?;
        let lost = c.others(leader).next().context("no other")?;
        let tasks = run(
            leader,
            "web",
            3,
            &["--replicas", "3", "-p", "8080:80", "whoami"],
        )?;
        wait_dns(c.hosts(), "web.swarm", &tasks)?;
        lost.power_off()?;
        let tasks = wait_moved(leader, lost, 3)?;
        wait_dns(c.others(lost), "web.swarm", &tasks)?;
        for host in c.others(lost) {
            let at = std::net::SocketAddr::new(host.address.into(), 8080);
            for _ in 0..6 {
                c.outside(at, "/health")?;
            }
        }
        lost.power_on()?;
        c.wait_ready()?;
        wait_dns(c.hosts(), "web.swarm", &leader.running("web")?)?;
        let local = Task::all(&lost.local_json(&["ps"])?);
        let wanted = lost
            .running("web")?
            .into_iter()
            .filter(|t| t.node == lost.name)
            .count();
        ensure!(
            local.len() == wanted,
            "a task that was replaced runs again: {local:?}"
        );
        Ok(())
    });
}

#[test]
fn the_leader_s_death_stops_no_writes_for_long() {
    with_cluster(3, |c| {
        let (leader, other) = leader_and_other(c)?;
        run(
            other,
            "before",
            1,
            &[
                "--constraint",
                &format!("node.name=={}", other.name),
                "whoami",
            ],
        )?;
        leader.power_off()?;
        wait_until("writes are accepted again", FAILOVER, || {
            other.ok(&["run", "-d", "--name", "after", "whoami"])?;
            Ok(())
        })?;
        other.wait_running("after", 1, UP)?;
        ensure!(other.running("before")?.len() == 1);
        leader.power_on()?;
        c.wait_ready()?;
        ensure!(leader.running("after")?.len() == 1);
        Ok(())
    });
}

#[test]
fn containers_outlive_every_agent_s_sigkill_and_nothing_acknowledged_is_lost() {
    with_cluster(3, |c| {
        let one = c.host(1);
        run(one, "web", 3, &["--replicas", "3", "whoami"])?;
        let before = pids(one)?;
        for n in 0..5 {
            one.ok(&[
                "run",
                "-d",
                "--name",
                &format!("kept{n}"),
                "--constraint",
                "node.name==nowhere",
                "whoami",
            ])?;
        }
        for host in c.hosts() {
            host.kill_agent()?;
        }
        for pid in before.values() {
            ensure!(processes::is_alive(*pid), "a container died with its agent");
        }
        for host in c.hosts() {
            host.spawn_agent()?;
        }
        for host in c.hosts() {
            wait_until("all is as it was", FAILOVER, || {
                ensure!(pids(host)? == before, "{:?}", host.tasks(Some("web"))?);
                let services = host.json(&["service", "ls"])?;
                ensure!(services.as_array().map(Vec::len) == Some(6), "{services}");
                Ok(())
            })?;
        }
        c.wait_ready()?;
        // They are still ours: output, exec and stop work.
        one.ok(&["service", "scale", "web=1"])?;
        one.wait_running("web", 1, UP)?;
        wait_until("the others are dead", SOON, || {
            let alive = before.values().filter(|p| processes::is_alive(**p)).count();
            ensure!(alive == 1, "{alive} of them live");
            Ok(())
        })
    });
}

#[test]
fn an_agent_ends_cleanly_on_sigterm_and_finds_its_containers_again() {
    with_cluster(2, |c| {
        let (one, two) = (c.host(1), c.host(2));
        busybox(one)?;
        let script = "n=0; while true; do n=$((n+1)); echo line $n; sleep 0.2; done";
        let task = run(
            one,
            "web",
            1,
            &[
                "--constraint",
                "node.name==host2",
                "busybox",
                "sh",
                "-c",
                script,
            ],
        )?
        .remove(0);
        let pid = task.pid.context("no pid")?;
        ensure!(
            two.stop_agent()? == 0,
            "it ended with an error: {}",
            two.log_tail(10)
        );
        ensure!(processes::is_alive(pid));
        two.start_agent()?;
        c.wait_ready()?;
        wait_until("it is found again", SOON, || {
            let running = one.running("web")?;
            ensure!(
                running.len() == 1 && running[0].pid == Some(pid),
                "{running:?}"
            );
            Ok(())
        })?;
        let mut log = one.ctl_stream(&["logs", "-f", "--tail", "1", "web"])?;
        log.expect("line", SOON)?;
        log.expect("line", SOON)?;
        ensure!(one.ok(&["exec", "web.1", "echo", "hi"])? == "hi");
        Ok(())
    });
}

#[test]
fn a_host_that_is_cut_off_keeps_its_containers_and_its_dns_and_says_that_it_is_stale() {
    with_cluster(3, |c| {
        let (leader, other) = leader_and_other(c)?;
        let tasks = run(leader, "web", 3, &["--replicas", "3", "whoami"])?;
        wait_dns(c.hosts(), "web.swarm", &tasks)?;
        // The leader itself, the harder case.
        leader.cut()?;
        let mine = tasks
            .iter()
            .find(|t| t.node == leader.name)
            .context("no task there")?;
        let moved = wait_moved(other, leader, 3)?;
        wait_dns(c.others(leader), "web.swarm", &moved)?;
        ensure!(
            processes::is_alive(mine.pid.context("no pid")?),
            "its container was stopped"
        );
        ensure!(leader.http(mine.at(80)?, "/health")? == "ok\n");
        ensure!(leader.dig(&["web.swarm"])?.len() == 3);
        let stale = leader.ctl(&["ps"])?;
        ensure!(
            format!("{}{}", stale.stdout, stale.stderr).contains("stale"),
            "it does not say that it is stale: {stale:?}"
        );
        let refusal = leader
            .ctl(&["run", "-d", "--name", "lost", "whoami"])?
            .refusal()?;
        ensure!(
            refusal.contains("quorum") || refusal.contains("leader"),
            "{refusal}"
        );
        leader.heal()?;
        c.wait_ready()?;
        wait_until("the replaced container is gone", SOON, || {
            ensure!(
                !processes::is_alive(mine.pid.unwrap_or_default()),
                "it runs"
            );
            Ok(())
        })?;
        // Tasks may move once more while the hosts find each other again.
        wait_until("every host's DNS knows what runs", SOON, || {
            let running = addresses(&leader.wait_running("web", 3, UP)?);
            for host in c.hosts() {
                let found = host.dig(&["web.swarm"])?;
                ensure!(
                    found == running,
                    "{} says {found:?}, not {running:?}",
                    host.name
                );
            }
            Ok(())
        })?;
        ensure!(
            leader.tasks(Some("lost"))?.is_empty(),
            "a refused write was carried out"
        );
        Ok(())
    });
}

#[test]
fn a_frozen_host_is_replaced_and_fits_in_again_when_it_thaws() {
    with_cluster(3, |c| {
        let (leader, other) = leader_and_other(c)?;
        run(leader, "web", 3, &["--replicas", "3", "whoami"])?;
        leader.freeze()?;
        wait_moved(other, leader, 3)?;
        leader.thaw()?;
        c.wait_ready()?;
        let tasks = leader.wait_running("web", 3, UP)?;
        wait_dns(c.hosts(), "web.swarm", &tasks)
    });
}

#[test]
fn two_hosts_that_only_lose_each_other_are_not_declared_dead() {
    with_cluster(3, |c| {
        let (leader, _) = leader_and_other(c)?;
        let mut others = c.others(leader);
        let (a, b) = (
            others.next().context("no other")?,
            others.next().context("no third")?,
        );
        run(leader, "web", 3, &["--replicas", "3", "whoami"])?;
        let before = pids(leader)?;
        a.cut_from(b)?;
        // As long as it takes to declare a silent host dead, several times over.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::time::Instant::now() < until {
            ensure!(
                crate::nodes(leader, "health")?
                    .iter()
                    .all(|n| n.1 == "ready")
            );
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        ensure!(pids(leader)? == before, "tasks were moved");
        Ok(())
    });
}

#[test]
fn a_tenth_of_all_packets_lost_stops_nothing() {
    with_cluster(3, |c| {
        for host in c.hosts() {
            host.lose(10)?;
        }
        let one = c.host(1);
        run(one, "web", 6, &["--replicas", "6", "whoami"])?;
        for host in c.hosts() {
            host.heal()?;
        }
        c.wait_ready()?;
        let tasks = one.wait_running("web", 6, UP)?;
        wait_dns(c.hosts(), "web.swarm", &tasks)
    });
}

#[test]
fn without_a_quorum_nothing_is_written_and_reads_say_that_they_are_stale() {
    with_cluster(3, |c| {
        let one = c.host(1);
        run(one, "web", 3, &["--replicas", "3", "whoami"])?;
        c.host(2).power_off()?;
        c.host(3).power_off()?;
        let refusal = wait_until("writes are refused", FAILOVER, || {
            one.ctl(&["service", "scale", "web=9"])?.refusal()
        })?;
        ensure!(!refusal.is_empty());
        let out = one.ctl(&["ps"])?;
        ensure!(
            format!("{}{}", out.stdout, out.stderr).contains("stale"),
            "{out:?}"
        );
        // What it does not know of may have been made elsewhere.
        for ask in [
            &["inspect", "ghost"][..],
            &["service", "scale", "ghost=2"],
            &["rm", "-f", "ghost"],
            &["lookup", "ghost"],
        ] {
            crate::refused(one, ask, &["ghost", "quorum"])?;
        }
        c.host(2).power_on()?;
        wait_until("a quorum writes again", FAILOVER, || {
            one.ok(&["service", "scale", "web=2"])?;
            Ok(())
        })?;
        one.wait_running("web", 2, FAILOVER)?;
        Ok(())
    });
}
