//! The cluster is the registry: hosts share an image's layers, and ask its registry only for what none of them has.

use crate::registry::{Registry, formed, hosts, version};
use crate::{FAILOVER, run};
use anyhow::{Result, ensure};
use swarm_tests::host::Host;
use swarm_tests::{wait_until, with_hosts};

/// The image as the host's own runtime has it.
fn has(host: &Host, name: &str) -> Result<()> {
    let images = host.local(&["image", "ls"])?.ok()?.stdout;
    ensure!(images.contains(name), "{} has {images}", host.name);
    Ok(())
}

fn each_blob_once(registry: &Registry<'_>, at_least: usize) -> Result<()> {
    let fetched = registry.fetched()?;
    ensure!(
        fetched.len() >= at_least && fetched.values().all(|n| *n == 1),
        "{fetched:?}"
    );
    Ok(())
}

#[test]
fn all_hosts_get_an_image_at_once_and_its_registry_gives_each_layer_once() {
    with_hosts(hosts(5), |c| {
        c.form()?;
        let registry = Registry::start(c.host(2))?;
        registry.put_layers("team/web:1", "shared", 6)?;
        let name = registry.name("team/web");
        c.host(1)
            .ok(&["image", "pull", "--all-nodes", &format!("{name}:1")])?;
        for host in c.hosts() {
            has(host, &name)?;
        }
        // Seven layers and the configuration.
        each_blob_once(&registry, 8)?;
        drop(registry);
        let tasks = run(
            c.host(3),
            "web",
            5,
            &["--replicas", "5", &format!("{name}:1")],
        )?;
        for task in &tasks {
            ensure!(version(c.host(1), &task.name)? == "shared");
        }
        let message = c
            .host(4)
            .ctl(&["image", "pull", "--all-nodes", &format!("{name}:2")])?;
        ensure!(message.refusal()?.contains("5000"));
        Ok(())
    });
}

#[test]
fn hosts_that_are_asked_at_the_same_time_share_as_well() {
    formed(|c| {
        let registry = Registry::start(c.host(2))?;
        registry.put_layers("team/web:1", "shared", 4)?;
        let name = registry.name("team/web:1");
        std::thread::scope(|scope| {
            let pulls: Vec<_> = (c.hosts().iter())
                .map(|host| scope.spawn(|| host.ok(&["image", "pull", &name])))
                .collect();
            pulls.into_iter().try_for_each(|pull| match pull.join() {
                Ok(outcome) => outcome.map(drop),
                Err(_) => anyhow::bail!("a pull panicked"),
            })
        })?;
        each_blob_once(&registry, 6)
    });
}

#[test]
fn an_image_that_only_a_lost_host_had_comes_from_its_registry_again() {
    formed(|c| {
        let registry = Registry::start(c.host(1))?;
        registry.put("team/web:1", "again")?;
        let name = registry.name("team/web:1");
        let tasks = run(c.host(3), "web", 1, &[&name])?;
        ensure!(
            tasks[0].node == "host3",
            "it prefers the host that has the image: {tasks:?}"
        );
        c.host(3).power_off()?;
        wait_until("it runs elsewhere", FAILOVER, || {
            let tasks = c.host(1).tasks(Some("web"))?;
            let moved = tasks
                .iter()
                .any(|t| t.node != "host3" && t.state == "running");
            ensure!(moved, "{tasks:?}");
            Ok(())
        })
    });
}
