//! One host's runtime answers the same commands as the cluster.

use crate::{SOON, alone, run};
use anyhow::{Context, ensure};
use swarm_tests::host::Task;
use swarm_tests::{images, wait_until, with_cluster, with_hosts};

#[test]
fn a_host_without_a_cluster_runs_containers_with_the_same_commands() {
    with_hosts(alone(1), |c| {
        let one = c.host(1);
        let archive = images::busybox_tar(&one.scratch()?)?;
        one.local(&["image", "import", "busybox", &archive.to_string_lossy()])?
            .ok()?;
        one.local(&[
            "run",
            "-d",
            "--name",
            "box",
            "-e",
            "COLOUR=blue",
            "busybox",
            "sh",
            "-c",
            "echo hi; sleep 3600",
        ])?
        .ok()?;
        let task = wait_until("it runs", SOON, || {
            let tasks = Task::all(&one.local_json(&["ps"])?);
            let task = tasks
                .into_iter()
                .find(|t| t.name == "box.1" && t.state == "running");
            task.context("it does not")
        })?;
        ensure!(one.processes().contains(&task.pid.context("no pid")?));
        let out = one.local(&["exec", "box.1", "sh", "-c", "echo $COLOUR; exit 3"])?;
        ensure!(out.code == 3 && out.stdout == "blue\n", "{out:?}");
        wait_until("its log has come", SOON, || {
            let log = one.local(&["logs", "box"])?.ok()?;
            ensure!(log.stdout.contains("hi"), "{log:?}");
            Ok(())
        })?;
        let stats = one.local_json(&["stats", "--no-stream"])?;
        ensure!(stats[0]["task"] == "box.1", "{stats}");
        one.local(&["inspect", "box.1"])?.ok()?;
        one.local(&["stop", "box"])?.ok()?;
        one.local(&["rm", "-f", "box"])?.ok()?;
        let out = one.local(&["run", "--rm", "busybox", "sh", "-c", "echo short; exit 2"])?;
        ensure!(out.code == 2 && out.stdout == "short\n", "{out:?}");
        wait_until("nothing is left", SOON, || {
            let left = one.traces()?;
            ensure!(left.is_empty(), "{left:#?}");
            Ok(())
        })
    });
}

#[test]
fn the_host_scope_sees_its_own_tasks_of_the_cluster_only() {
    with_cluster(2, |c| {
        run(c.host(1), "web", 4, &["--replicas", "4", "whoami"])?;
        for host in c.hosts() {
            let local = Task::all(&host.local_json(&["ps"])?);
            let wanted = host
                .running("web")?
                .iter()
                .filter(|t| t.node == host.name)
                .count();
            ensure!(local.len() == wanted && wanted == 2, "{local:?}");
        }
        Ok(())
    });
}
