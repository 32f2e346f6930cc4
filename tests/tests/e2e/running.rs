//! Services and tasks: run anywhere from anywhere, limited, restarted, scaled, stopped and removed.

use crate::{UP, busybox, run};
use anyhow::{Context, Result, ensure};
use swarm_tests::host::SOON;
use swarm_tests::{cgroups, processes, wait_until, with_cluster};

#[test]
fn any_host_runs_a_task_on_any_host_and_all_see_it() {
    with_cluster(3, |c| {
        for from in c.hosts() {
            for on in c.hosts() {
                let name = format!("from-{}-on-{}", from.name, on.name);
                let constraint = format!("node.name=={}", on.name);
                let printed = from.ok(&[
                    "run",
                    "-d",
                    "--name",
                    &name,
                    "--constraint",
                    &constraint,
                    "whoami",
                ])?;
                ensure!(printed == name, "run -d printed {printed:?}");
            }
        }
        for host in c.hosts() {
            wait_until("all nine run", UP, || {
                let mut tasks = host.tasks(None)?;
                tasks.sort_by(|a, b| a.name.cmp(&b.name));
                ensure!(tasks.len() == 9, "{tasks:?}");
                for task in &tasks {
                    ensure!(
                        task.state == "running"
                            && task.name.ends_with(&format!("-on-{}.1", task.node)),
                        "{task:?}"
                    );
                }
                Ok(())
            })?;
        }
        for task in c.host(1).tasks(None)? {
            let pid = task.pid.context("it has no pid")?;
            ensure!(c.named(&task.node)?.processes().contains(&pid), "{task:?}");
        }
        Ok(())
    });
}

#[test]
fn replicas_are_spread_scaled_and_removed_without_a_trace() {
    with_cluster(3, |c| {
        let (one, two, three) = (c.host(1), c.host(2), c.host(3));
        let tasks = run(one, "web", 3, &["--replicas", "3", "whoami"])?;
        let mut on: Vec<&str> = tasks.iter().map(|t| t.node.as_str()).collect();
        on.sort_unstable();
        ensure!(on == ["host1", "host2", "host3"], "{on:?}");
        two.ok(&["service", "scale", "web=7"])?;
        three.wait_running("web", 7, UP)?;
        three.ok(&["service", "scale", "web=1"])?;
        one.wait_running("web", 1, UP)?;
        let services = two.json(&["service", "ls"])?;
        ensure!(
            services[0]["spec"]["name"] == "web" && services[0]["spec"]["replicas"] == 1,
            "{services}"
        );
        two.ok(&["service", "inspect", "web"])?;
        two.ok(&["service", "rm", "web"])?;
        wait_until("all is gone", SOON, || {
            let tasks = one.tasks(None)?;
            ensure!(tasks.is_empty(), "{tasks:?}");
            for host in c.hosts() {
                let left: Vec<String> = host
                    .traces()?
                    .into_iter()
                    .filter(|t| is_of_a_container(t))
                    .collect();
                ensure!(left.is_empty(), "{}: {left:#?}", host.name);
            }
            Ok(())
        })
    });
}

fn is_of_a_container(trace: &str) -> bool {
    ["process ", "mount ", "cgroup "]
        .iter()
        .any(|kind| trace.starts_with(kind))
}

#[test]
fn a_constraint_that_nothing_meets_is_explained_node_by_node() {
    with_cluster(3, |c| {
        let (one, two) = (c.host(1), c.host(2));
        one.ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "--constraint",
            "node.labels.disk==ssd",
            "whoami",
        ])?;
        wait_until("ps says why", SOON, || {
            let tasks = two.tasks(Some("web"))?;
            let task = tasks.first().context("there is no task")?;
            ensure!(task.state == "pending", "{task:?}");
            for name in ["host1", "host2", "host3", "disk"] {
                ensure!(task.message.contains(name), "{task:?}");
            }
            let table = two.ok(&["ps", "web"])?;
            ensure!(table.contains("host3"), "{table}");
            Ok(())
        })?;
        two.ok(&["node", "update", "--label", "disk=ssd", "host3"])?;
        let tasks = one.wait_running("web", 1, UP)?;
        ensure!(tasks[0].node == "host3", "{tasks:?}");
        one.ok(&["run", "-d", "--name", "big", "--memory", "900t", "whoami"])?;
        wait_until("ps says that memory is short", SOON, || {
            let tasks = two.tasks(Some("big"))?;
            let message = &tasks.first().context("there is no task")?.message;
            ensure!(
                message.contains("memory") && message.contains("host2"),
                "{message}"
            );
            Ok(())
        })
    });
}

#[test]
fn limits_and_environment_reach_the_container() {
    with_cluster(2, |c| {
        let (one, two) = (c.host(1), c.host(2));
        let args = [
            "--constraint",
            "node.name==host2",
            "-e",
            "COLOUR=blue",
            "--memory",
            "64m",
            "--cpus",
            "0.5",
            "--pids",
            "32",
            "whoami",
        ];
        let task = run(one, "web", 1, &args)?.remove(0);
        let pid = task.pid.context("it has no pid")?;
        let value = |files: &[&str]| cgroups::value_of(pid, files);
        ensure!(value(&["memory.max", "memory.limit_in_bytes"])? == (64 << 20).to_string());
        ensure!(value(&["pids.max"])? == "32");
        let cpu = value(&["cpu.max", "cpu.cfs_quota_us"])?;
        ensure!(cpu == "50000" || cpu == "50000 100000", "{cpu}");
        let page = one.http(task.at(80)?, "/env")?;
        for line in [
            "COLOUR=blue",
            "SWARM_SERVICE=web",
            "SWARM_TASK_NAME=web.1",
            "SWARM_NODE=host2",
        ] {
            ensure!(page.lines().any(|l| l == line), "{line} is not in {page}");
        }
        let page = two.http(task.at(80)?, "/")?;
        ensure!(page.contains("Hostname: web-1\n"), "{page}");
        Ok(())
    });
}

#[test]
fn a_container_is_locked_in() {
    with_cluster(1, |c| {
        let one = c.host(1);
        busybox(one)?;
        let inside = |script: &str| -> Result<String> {
            Ok(one
                .ctl(&[
                    "run",
                    "--rm",
                    "--restart",
                    "never",
                    "busybox",
                    "sh",
                    "-c",
                    script,
                ])?
                .ok()?
                .stdout)
        };
        let status = inside("cat /proc/self/status")?;
        ensure!(status.contains("NoNewPrivs:\t1"), "{status}");
        let processes = inside("ls /proc | grep -c '^[0-9]'")?;
        ensure!(
            processes.trim().parse::<u32>()? <= 4,
            "it sees {processes} processes"
        );
        ensure!(inside("mount -t tmpfs x /tmp 2>&1 || echo refused")?.contains("refused"));
        ensure!(
            inside("echo 1 > /proc/sys/kernel/sysrq 2>/dev/null || echo refused")?
                .contains("refused")
        );
        ensure!(inside("cat /proc/kcore | head -c 1 | wc -c")?.trim() == "0");
        let devices = inside("ls /dev")?;
        for device in [
            "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm",
        ] {
            ensure!(
                devices.lines().any(|l| l == device),
                "no {device} in {devices}"
            );
        }
        ensure!(!devices.contains("mem"), "{devices}");
        Ok(())
    });
}

#[test]
fn volumes_and_host_folders_are_where_they_should_be() {
    with_cluster(1, |c| {
        let one = c.host(1);
        busybox(one)?;
        let shared = one.scratch()?.join("shared");
        std::fs::create_dir_all(&shared)?;
        std::fs::write(shared.join("from-host"), "hello\n")?;
        let bind = format!("{}:/shared", shared.display());
        let script =
            "cat /shared/from-host; echo back > /shared/from-container; echo kept > /data/kept";
        let out = one.ok(&[
            "run",
            "--rm",
            "-v",
            &bind,
            "-v",
            "store:/data",
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
        ensure!(out == "hello", "{out}");
        ensure!(std::fs::read_to_string(shared.join("from-container"))? == "back\n");
        let out = one.ok(&[
            "run",
            "--rm",
            "-v",
            "store:/data",
            "busybox",
            "cat",
            "/data/kept",
        ])?;
        ensure!(out == "kept", "{out}");
        let read_only = format!("{bind}:ro");
        let out = one.ctl(&[
            "run",
            "--rm",
            "--restart",
            "never",
            "-v",
            &read_only,
            "busybox",
            "touch",
            "/shared/x",
        ])?;
        ensure!(out.code != 0 && !shared.join("x").exists(), "{out:?}");
        Ok(())
    });
}

#[test]
fn a_task_that_fails_is_tried_again_ever_later() {
    with_cluster(2, |c| {
        let (one, two) = (c.host(1), c.host(2));
        busybox(one)?;
        one.ok(&[
            "run",
            "-d",
            "--name",
            "bad",
            "--restart",
            "on-failure",
            "busybox",
            "false",
        ])?;
        one.ok(&[
            "run",
            "-d",
            "--name",
            "once",
            "--restart",
            "never",
            "busybox",
            "false",
        ])?;
        one.ok(&[
            "run",
            "-d",
            "--name",
            "good",
            "--restart",
            "on-failure",
            "busybox",
            "true",
        ])?;
        wait_until("it was tried four times", UP, || {
            let attempts = two.tasks(Some("bad"))?.iter().map(|t| t.attempt).max();
            ensure!(attempts >= Some(3), "{attempts:?}");
            Ok(())
        })?;
        for (service, state) in [("once", "failed"), ("good", "complete")] {
            let tasks = wait_until("it has ended", SOON, || {
                let tasks = two.tasks(Some(service))?;
                ensure!(tasks.iter().any(|t| t.state == state), "{tasks:?}");
                Ok(tasks)
            })?;
            ensure!(tasks.len() == 1 && tasks[0].attempt == 0, "{tasks:?}");
        }
        Ok(())
    });
}

#[test]
fn a_killed_process_is_replaced_and_a_stopped_one_is_not() {
    with_cluster(2, |c| {
        let (one, two) = (c.host(1), c.host(2));
        let first = run(one, "web", 1, &["--restart", "always", "whoami"])?.remove(0);
        two.ok(&["kill", "web.1"])?;
        let second = wait_until("another task runs", UP, || {
            let running = one.running("web")?;
            ensure!(
                running.len() == 1 && running[0].id != first.id,
                "{running:?}"
            );
            Ok(running[0].clone())
        })?;
        let pid = second.pid.context("it has no pid")?;
        two.ok(&["stop", "web"])?;
        ensure!(
            !processes::is_alive(pid),
            "stop returned before the process had ended"
        );
        wait_until("nothing runs", SOON, || {
            let running = one.running("web")?;
            ensure!(running.is_empty(), "{running:?}");
            Ok(())
        })?;
        two.ok(&["rm", "-f", "web"])?;
        wait_until("it is gone", SOON, || {
            let tasks = one.tasks(None)?;
            ensure!(tasks.is_empty(), "{tasks:?}");
            Ok(())
        })
    });
}

#[test]
fn that_a_further_process_is_killed_for_memory_is_said_while_the_task_goes_on() {
    with_cluster(2, |c| {
        let (one, two) = (c.host(1), c.host(2));
        busybox(one)?;
        let eats = "x=0123456789abcdef; while true; do x=$x$x; done";
        one.ok(&[
            "run",
            "-d",
            "--name",
            "parent",
            "--memory",
            "16m",
            "busybox",
            "sh",
            "-c",
            &format!("sh -c '{eats}'; trap : TERM; while true; do sleep 1; done"),
        ])?;
        let reason =
            "out of memory: 1 process was killed by the kernel at the task's limit of 16 MiB";
        wait_until("it is told on another host", UP, || {
            let tasks = two.json(&["ps", "parent"])?;
            let status = &tasks[0]["status"];
            ensure!(
                status["oom_kills"] == 1 && status["state"] == "running",
                "{tasks}"
            );
            ensure!(two.ok(&["ps", "parent"])?.contains(reason));
            Ok(())
        })?;
        let mut events = two.ctl_stream(&["events", "--since", "0"])?;
        let told = events.expect("oom_kills=1", SOON)?;
        ensure!(told.contains("state=running"), "{told}");
        Ok(())
    });
}

#[test]
fn more_than_its_memory_is_killed_and_said() {
    with_cluster(1, |c| {
        let one = c.host(1);
        busybox(one)?;
        one.ok(&[
            "run",
            "-d",
            "--name",
            "hog",
            "--restart",
            "never",
            "--memory",
            "16m",
            "busybox",
            "sh",
            "-c",
            "x=0123456789abcdef; while true; do x=$x$x; done",
        ])?;
        wait_until("it is killed", UP, || {
            let tasks = one.json(&["ps", "-a", "hog"])?;
            ensure!(tasks[0]["status"]["exit"]["oom_killed"] == true, "{tasks}");
            Ok(())
        })?;
        let reason = "out of memory: killed by the kernel at its limit of 16 MiB";
        for shows in [&["ps", "-a"][..], &["inspect", "hog.1"]] {
            let text = one.ok(shows)?;
            ensure!(text.contains(reason), "{text}");
        }
        let mut events = one.ctl_stream(&["events", "--since", "0"])?;
        let told = events.expect("oom_killed=true", SOON)?;
        ensure!(told.contains(reason), "{told}");
        Ok(())
    });
}
