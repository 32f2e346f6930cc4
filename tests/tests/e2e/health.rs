//! Health: only tasks that pass their checks are found, and those that fail too many are replaced.

use crate::{UP, busybox, run, wait_dns};
use anyhow::{Context, Result, ensure};
use swarm_tests::host::{Host, SOON};
use swarm_tests::{wait_until, with_cluster};

/// The health that `host` shows of each running task of a service, in the order of their names.
fn health(host: &Host, service: &str) -> Result<Vec<String>> {
    let tasks = host.json(&["ps", service])?;
    let tasks = tasks.as_array().context("no list of tasks")?.iter();
    let running = tasks.filter(|t| t["status"]["state"] == "running");
    let text = |v: &serde_json::Value| v.as_str().unwrap_or("none").to_owned();
    Ok(running
        .map(|t| text(&t["status"]["health"]["state"]))
        .collect())
}

fn wait_health(host: &Host, service: &str, wanted: &[&str]) -> Result<()> {
    wait_until(&format!("{service} is {wanted:?}"), UP, || {
        let found = health(host, service)?;
        ensure!(found == wanted, "it is {found:?}");
        Ok(())
    })
}

#[test]
fn a_task_is_found_by_all_while_it_is_healthy_and_replaced_when_it_is_not() {
    with_cluster(2, |c| {
        let (one, two) = (c.host(1), c.host(2));
        busybox(one)?;
        let mut events = two.ctl_stream(&["events"])?;
        let check = [
            "--replicas",
            "2",
            "--restart",
            "always",
            "--health-cmd",
            "test -e /tmp/ready || { echo it is not ready; exit 1; }",
            "--health-interval",
            "200ms",
            "--health-start-period",
            "10m",
            "--health-retries",
            "2",
        ];
        let script = [
            "busybox",
            "sh",
            "-c",
            "trap exit TERM; while :; do sleep 0.1; done",
        ];
        let tasks = run(one, "web", 2, &[&check[..], &script].concat())?;
        wait_health(two, "web", &["starting", "starting"])?;
        wait_dns(c.hosts(), "web.swarm", &[])?;
        let found = two.json(&["lookup", "web"])?;
        ensure!(found["endpoints"] == serde_json::json!([]), "{found}");
        wait_until("inspect says why it is not", SOON, || {
            let task = two.json(&["inspect", "web.1"])?;
            let said = task["status"]["health"]["output"].as_str();
            ensure!(said == Some("it is not ready"), "{task:#}");
            Ok(())
        })?;
        two.ok(&["exec", "web.2", "touch", "/tmp/ready"])?;
        wait_health(one, "web", &["starting", "healthy"])?;
        wait_dns(c.hosts(), "web.swarm", &tasks[1..])?;
        let table = one.ok(&["ps", "web"])?;
        ensure!(table.contains("running (healthy) "), "{table}");
        events.expect("health=healthy", SOON)?;

        // A new agent goes on where the old one was.
        let on = c.named(&tasks[1].node)?;
        on.kill_agent()?;
        on.spawn_agent()?;
        wait_until("the agent is back", UP, || on.ok(&["ps"]).map(drop))?;
        wait_health(one, "web", &["starting", "healthy"])?;
        let mut events = two.ctl_stream(&["events"])?;
        one.ok(&["exec", "web.2", "rm", "/tmp/ready"])?;
        events.expect("health=unhealthy", UP)?;
        wait_until("it is replaced", UP, || {
            let all = two.json(&["ps", "-a", "web"])?;
            let all = all.as_array().context("no list")?;
            let of_slot = |t: &&serde_json::Value| t["slot"] == 2;
            let failed = all.iter().filter(of_slot).find(|t| {
                t["status"]["state"] == "failed"
                    && t["status"]["message"] == "unhealthy: it is not ready"
            });
            let failed = failed.with_context(|| format!("none has failed: {all:#?}"))?;
            ensure!(failed["id"] == tasks[1].id.as_str());
            let next = all
                .iter()
                .filter(of_slot)
                .find(|t| t["status"]["state"] == "running");
            let next = next.with_context(|| format!("none follows: {all:#?}"))?;
            ensure!(next["status"]["health"]["state"] == "starting", "{next:#}");
            Ok(())
        })?;
        wait_dns(c.hosts(), "web.swarm", &[])
    });
}

#[test]
fn checks_over_http_and_tcp_reach_a_task_in_its_own_network() {
    with_cluster(1, |c| {
        let one = c.host(1);
        let quick = ["--health-interval", "300ms", "--health-retries", "2"];
        for (name, test) in [
            ("http", ["--health-http", "80/health"]),
            ("tcp", ["--health-tcp", "80"]),
        ] {
            run(
                one,
                name,
                1,
                &[&test[..], &quick, &["-p", "8080:80", "whoami"]].concat(),
            )?;
            wait_health(one, name, &["healthy"])?;
            let at = std::net::SocketAddr::new(one.address.into(), 8080);
            wait_until("its published port leads to it", SOON, || {
                c.outside(at, "/health").map(drop)
            })?;
            one.ok(&["service", "rm", name])?;
            wait_until("it is gone", SOON, || {
                ensure!(one.tasks(None)?.is_empty());
                Ok(())
            })?;
        }
        let wrong = [&["--health-http", "81/"][..], &quick, &["whoami"]].concat();
        one.ok(&[
            &["run", "-d", "--name", "wrong", "--restart", "never"][..],
            &wrong,
        ]
        .concat())?;
        wait_until("it has failed", UP, || {
            let all = one.json(&["ps", "-a", "wrong"])?;
            let message = all[0]["status"]["message"].as_str().unwrap_or_default();
            ensure!(
                message.starts_with("unhealthy: port 81: cannot connect"),
                "{all:#}"
            );
            Ok(())
        })
    });
}
