//! Addresses and ports: across hosts, from outside, published.

use crate::{SOON, UP, run, wait_dns};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use swarm_tests::{http, wait_until, with_cluster};

#[test]
fn every_task_has_an_address_of_its_own_that_every_host_reaches() {
    with_cluster(3, |c| {
        let tasks = run(c.host(1), "web", 6, &["--replicas", "6", "whoami"])?;
        let addresses: BTreeSet<_> = tasks.iter().flat_map(|t| &t.addresses).collect();
        ensure!(addresses.len() == 6, "{tasks:?}");
        for host in c.hosts() {
            for task in &tasks {
                wait_until(
                    &format!("{} reaches {}", host.name, task.name),
                    SOON,
                    || {
                        let page = host.http(task.at(80)?, "/")?;
                        ensure!(
                            http::field(&page, "Task")? == task.name
                                && http::field(&page, "Node")? == task.node
                        );
                        Ok(())
                    },
                )?;
            }
        }
        let networks = c.host(2).json(&["network", "ls"])?;
        ensure!(networks[0]["name"] == "default", "{networks}");
        Ok(())
    });
}

#[test]
fn a_published_port_of_any_node_leads_to_all_tasks() {
    with_cluster(3, |c| {
        let one = c.host(1);
        let tasks = run(
            one,
            "web",
            2,
            &["--replicas", "2", "-p", "8080:80", "whoami"],
        )?;
        let wanted: BTreeSet<String> = tasks.iter().map(|t| t.name.clone()).collect();
        for node in c.hosts() {
            let at = SocketAddr::new(node.address.into(), 8080);
            let mut seen = BTreeSet::new();
            wait_until(&format!("{at} leads to both tasks"), SOON, || {
                seen.insert(http::field(&c.outside(at, "/")?, "Task")?);
                ensure!(seen == wanted, "{seen:?}");
                Ok(())
            })?;
            // From the hosts themselves as well.
            one.http(at, "/health")?;
            node.http(at, "/health")?;
        }
        crate::refused(
            one,
            &["run", "-d", "--name", "two", "-p", "8080:80", "whoami"],
            &["8080"],
        )?;
        one.ok(&["service", "rm", "web"])?;
        wait_until("the port is closed again", SOON, || {
            for node in c.hosts() {
                let at = SocketAddr::new(node.address.into(), 8080);
                ensure!(c.outside(at, "/health").is_err(), "{at} still answers");
            }
            Ok(())
        })
    });
}

#[test]
fn an_address_is_never_two_tasks_at_once() {
    with_cluster(2, |c| -> Result<()> {
        let one = c.host(1);
        run(one, "web", 5, &["--replicas", "5", "whoami"])?;
        for round in 0..4 {
            let count = if round % 2 == 0 { 12 } else { 3 };
            one.ok(&["service", "scale", &format!("web={count}")])?;
            let tasks = one.wait_running("web", count, UP)?;
            let addresses: BTreeSet<_> = tasks.iter().filter_map(|t| t.addresses.first()).collect();
            ensure!(addresses.len() == count, "{tasks:?}");
        }
        let tasks = one.running("web")?;
        wait_dns(c.hosts(), "web.swarm", &tasks)?;
        let task = tasks.first().context("nothing runs")?;
        c.host(2).http(task.at(80)?, "/health")?;
        Ok(())
    });
}
