//! Real programs as they are in use: nginx, redis and postgres from Debian's packages, through a registry.

use crate::registry::{Registry, hosts};
use crate::{UP, run};
use anyhow::{Context, Result, anyhow, ensure};
use std::net::SocketAddr;
use std::time::Duration;
use swarm_tests::host::Host;
use swarm_tests::workloads::{NGINX, POSTGRES, REDIS, Workload};
use swarm_tests::{wait_until, with_hosts};

/// What a pull takes at most, on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Puts a workload into the registry, and from there into the cluster. Its name.
fn put(registry: &Registry<'_>, workload: &Workload) -> Result<String> {
    let layout = workload.layout(&registry.host.scratch()?)?;
    let name = registry.name(&format!("{}:1", workload.name));
    registry.copy(
        &["--dest-tls-verify=false"],
        &format!("oci:{}:latest", layout.display()),
        &format!("docker://{name}"),
    )?;
    let pull = ["image", "pull", name.as_str()];
    registry.host.ctl_within(LONG, &pull)?.ok()?;
    Ok(name)
}

/// Waits until the health check of the image has passed.
fn healthy(host: &Host, service: &str) -> Result<()> {
    wait_until(&format!("{service} is healthy"), UP, || {
        let tasks = host.json(&["ps", service])?;
        let state = &tasks[0]["status"]["health"]["state"];
        let log = || host.ctl(&["logs", service]).map(|o| o.stdout);
        ensure!(state == "healthy", "{}: {:?}", tasks[0]["status"], log());
        Ok(())
    })
}

#[test]
fn nginx_redis_and_postgres_from_a_registry_do_their_work_on_any_host() {
    with_hosts(hosts(2), |c| {
        c.form()?;
        let (one, two) = (c.host(1), c.host(2));
        let registry = Registry::start(one)?;

        let [nginx, redis, postgres] = std::thread::scope(|scope| {
            [&NGINX, &REDIS, &POSTGRES]
                .map(|workload| {
                    scope.spawn({
                        let registry = &registry;
                        move || put(registry, workload)
                    })
                })
                .map(|made| {
                    let made = made.join();
                    made.map_err(|_| anyhow!("an image was not made"))?
                })
                .into_iter()
                .collect::<Result<Vec<_>>>()
        })?
        .try_into()
        .map_err(|_| anyhow!("three images"))?;

        let tasks = run(two, "web", 2, &["--replicas", "2", "-p", "8080:80", &nginx])?;
        healthy(one, "web")?;
        for host in [one, two] {
            let published = SocketAddr::from((host.address, 8080));
            ensure!(host.http(published, "/")? == "a page of the image\n");
        }
        // Its volume is its own, and its user's.
        two.ok(&[
            "exec",
            "web.1",
            "sh",
            "-c",
            "echo mine > /var/www/html/mine",
        ])?;
        ensure!(one.ok(&["exec", "web.1", "whoami"])? == "nginx");
        let other = one.ctl(&["exec", "web.2", "test", "-e", "/var/www/html/mine"])?;
        ensure!(other.ok().is_err(), "two tasks have one volume");
        let usage = one.json(&["df"])?.to_string();
        ensure!(
            tasks
                .iter()
                .all(|t| usage.contains(&format!("\"task\":\"{}\"", t.name))),
            "{usage}"
        );

        run(
            one,
            "cache",
            1,
            &[
                "-v",
                "cache:/data",
                "--constraint",
                "node.name==host1",
                &redis,
            ],
        )?;
        healthy(two, "cache")?;
        let ask = |host: &Host, args: &[&str]| {
            host.ok(&[&["exec", "cache.1", "redis-cli"], args].concat())
        };
        ensure!(ask(two, &["set", "k", "value"])? == "OK");
        // It is killed, and what it has acknowledged is there again.
        one.ok(&["service", "rm", "cache"])?;
        wait_until("its name is free", UP, || {
            run(
                one,
                "cache",
                1,
                &[
                    "-v",
                    "cache:/data",
                    "--constraint",
                    "node.name==host1",
                    &redis,
                ],
            )
        })?;
        healthy(two, "cache")?;
        ensure!(ask(two, &["get", "k"])? == "value");

        let there = ["--constraint", "node.name==host2", &postgres];
        run(one, "db", 1, &there)?;
        healthy(one, "db")?;
        let client = [
            "--constraint",
            "node.name==host1",
            "--entrypoint",
            "sleep",
            &postgres,
            "3600",
        ];
        run(one, "client", 1, &client)?;
        let psql = |sql: &str| {
            let program = "/usr/lib/postgresql/15/bin/psql";
            one.ok(&[
                "exec", "client.1", program, "-h", "db", "-U", "postgres", "-Atc", sql,
            ])
        };
        psql("create table t as select generate_series(1, 1000) n")?;
        ensure!(psql("select sum(n) from t")? == "500500");
        let files = two.ok(&["exec", "db.1", "ls", "/var/lib/postgresql/data"])?;
        ensure!(files.contains("PG_VERSION"), "{files}");

        // What was pulled is pushed elsewhere as the same image.
        let copy = registry.name("copies/postgres:1");
        let pushed = two.ok(&["image", "push", &postgres, &copy])?;
        let pulled = one.json(&["image", "inspect", &postgres])?;
        let manifest = pulled["manifest"].as_str().context("a manifest")?;
        ensure!(pushed.ends_with(manifest), "{pushed} {pulled}");
        Ok(())
    });
}
