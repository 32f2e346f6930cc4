//! A cluster is made, joined and left.

use crate::{SOON, alone, nodes, refused};
use anyhow::{Result, bail, ensure};
use swarm_tests::{wait_until, with_cluster, with_hosts};

fn named(count: usize, value: &str) -> Vec<(String, String)> {
    (1..=count)
        .map(|n| (format!("host{n}"), value.to_owned()))
        .collect()
}

#[test]
fn three_hosts_form_a_cluster_that_each_of_them_sees_alike() {
    with_cluster(3, |c| {
        for host in c.hosts() {
            ensure!(nodes(host, "health")? == named(3, "ready"));
            ensure!(nodes(host, "role")? == named(3, "manager"));
            wait_until("all three vote and one leads", SOON, || {
                let mut parts: Vec<String> =
                    nodes(host, "raft")?.into_iter().map(|n| n.1).collect();
                parts.sort();
                ensure!(parts == ["leader", "voter", "voter"], "{parts:?}");
                Ok(())
            })?;
            host.ok(&["status"])?;
            host.ok(&["version"])?;
        }
        let leader = c.leader(c.host(3))?;
        ensure!(leader.name == c.leader(c.host(2))?.name);
        let inspected = c.host(2).json(&["node", "inspect", "host3"])?.to_string();
        ensure!(inspected.contains("10.99.0.3:7946"), "{inspected}");
        Ok(())
    });
}

#[test]
fn a_worker_never_votes() {
    with_hosts(alone(3), |c| {
        c.host(1).ok(&["init"])?;
        let token = c.token("worker")?;
        for n in [2, 3] {
            c.host(n).ok(&["join", "--token", &token, &c.entrance()])?;
        }
        c.wait_ready()?;
        let parts = nodes(c.host(3), "raft")?;
        let wanted = ["leader", "observer", "observer"];
        ensure!(parts.iter().map(|p| p.1.as_str()).eq(wanted), "{parts:?}");
        Ok(())
    });
}

#[test]
fn five_hosts_have_five_voters_and_six_have_five() {
    with_cluster(6, |c| {
        wait_until("five of six vote", SOON, || {
            let parts = nodes(c.host(6), "raft")?;
            let observers = parts.iter().filter(|p| p.1 == "observer").count();
            ensure!(parts.len() == 6 && observers == 1, "{parts:?}");
            Ok(())
        })
    });
}

#[test]
fn a_second_init_is_refused_and_changes_nothing() {
    with_cluster(2, |c| {
        let before = c.host(2).json(&["node", "ls"])?;
        for host in c.hosts() {
            refused(host, &["init"], &["already"])?;
        }
        ensure!(nodes(c.host(2), "name")?.len() == before.as_array().map_or(0, Vec::len));
        Ok(())
    });
}

#[test]
fn only_a_good_token_of_this_cluster_lets_a_host_in() {
    with_hosts(alone(3), |c| {
        let (one, two, other) = (c.host(1), c.host(2), c.host(3));
        one.ok(&["init"])?;
        other.ok(&["init"])?;
        let token = c.token("manager")?;
        let join = |token: &str, at: &str, words: &[&str]| {
            refused(two, &["join", "--token", token, at], words)
        };
        join("rubbish", &c.entrance(), &["token"])?;
        // A token pins its cluster's CA: it is no good for another one.
        join(&token, &other.agent_address().to_string(), &["10.99.0.3"])?;
        // Its secret changed, its form not.
        let last = token.chars().last().unwrap_or('a');
        let forged = format!(
            "{}{}",
            &token[..token.len() - 1],
            if last == 'a' { 'b' } else { 'a' }
        );
        join(&forged, &c.entrance(), &["token"])?;
        join(&token, "10.99.0.99:7946", &["10.99.0.99:7946"])?;
        join(&token, "10.99.0.1:1", &["10.99.0.1:1"])?;
        let short = one.json(&["token", "create", "--role", "manager", "--ttl", "1s"])?;
        let short = short["secret"].as_str().unwrap_or_default();
        std::thread::sleep(std::time::Duration::from_millis(1500));
        join(short, &c.entrance(), &["expired"])?;
        ensure!(
            nodes(one, "name")?.len() == 1,
            "a refused host is in the cluster"
        );

        two.ok(&["join", "--token", &token, &c.entrance()])?;
        refused(
            two,
            &["join", "--token", &token, &c.entrance()],
            &["already"],
        )?;
        wait_until("host2 is in", SOON, || {
            ensure!(nodes(one, "name")?.len() == 2);
            Ok(())
        })
    });
}

#[test]
fn before_init_every_command_says_what_to_do() {
    with_hosts(alone(1), |c| {
        for args in [
            &["node", "ls"][..],
            &["ps"],
            &["run", "-d", "whoami"],
            &["token", "create"],
        ] {
            refused(c.host(1), args, &["init"])?;
        }
        Ok(())
    });
}

#[test]
fn a_host_leaves_with_its_tasks_moved_and_nothing_left_on_it() {
    with_cluster(3, |c| {
        let (one, three) = (c.host(1), c.host(3));
        crate::run(
            one,
            "web",
            3,
            &["--replicas", "3", "-p", "8080:80", "whoami"],
        )?;
        three.ok(&["leave"])?;
        wait_until("host3 is gone and its task runs elsewhere", SOON, || {
            let names = nodes(one, "name")?;
            let running = one.running("web")?;
            ensure!(names.len() == 2, "{names:?}");
            ensure!(
                running.len() == 3 && running.iter().all(|t| t.node != "host3"),
                "{running:?}"
            );
            Ok(())
        })?;
        wait_until("nothing is left on host3", SOON, || {
            let left = three.traces()?;
            ensure!(left.is_empty(), "{left:#?}");
            Ok(())
        })?;
        let token = c.token("manager")?;
        three.ok(&["join", "--token", &token, &c.entrance()])?;
        c.wait_ready()
    });
}

#[test]
fn two_of_three_hosts_leave_at_the_same_moment_and_the_third_goes_on() {
    with_cluster(3, |c| {
        let roles = |host| -> Result<Vec<String>> {
            Ok(nodes(host, "raft")?.into_iter().map(|n| n.1).collect())
        };
        wait_until("all three vote", SOON, || {
            let mut roles = roles(c.host(1))?;
            roles.sort();
            ensure!(roles == ["leader", "voter", "voter"], "{roles:?}");
            Ok(())
        })?;
        let leader = c.leader(c.host(1))?;
        let mut others = c.others(leader);
        let (Some(second), Some(stays)) = (others.next(), others.next()) else {
            bail!("there are three hosts");
        };
        crate::run(stays, "web", 3, &["--replicas", "3", "whoami"])?;
        std::thread::scope(|scope| -> Result<()> {
            let leaving = [leader, second].map(|host| scope.spawn(|| host.ok(&["leave"])));
            for left in leaving {
                let Ok(left) = left.join() else {
                    bail!("a thread panicked");
                };
                left?;
            }
            Ok(())
        })?;
        wait_until("the third leads alone and runs everything", SOON, || {
            let roles = roles(stays)?;
            ensure!(roles == ["leader"], "{roles:?}");
            let running = stays.running("web")?;
            ensure!(running.len() == 3, "{running:?}");
            ensure!(running.iter().all(|t| t.node == stays.name), "{running:?}");
            Ok(())
        })?;
        wait_until("nothing is left on the two", SOON, || {
            let left = [leader.traces()?, second.traces()?].concat();
            ensure!(left.is_empty(), "{left:#?}");
            Ok(())
        })?;
        refused(stays, &["leave"], &["last node", "--force"])?;
        stays.ok(&["leave", "--force"])?;
        refused(stays, &["ps"], &["init"])
    });
}

#[test]
fn a_drained_node_loses_its_tasks_and_an_active_one_gets_them() {
    with_cluster(2, |c| -> Result<()> {
        let one = c.host(1);
        crate::run(one, "web", 4, &["--replicas", "4", "whoami"])?;
        one.ok(&["node", "update", "--availability", "drain", "host2"])?;
        wait_until("host2 is empty", SOON, || {
            let running = one.running("web")?;
            ensure!(
                running.len() == 4 && running.iter().all(|t| t.node == "host1"),
                "{running:?}"
            );
            Ok(())
        })?;
        refused(one, &["node", "rm", "host2"], &["host2"])?;
        one.ok(&["node", "update", "--availability", "active", "host2"])?;
        one.ok(&["service", "scale", "web=6"])?;
        let running = one.wait_running("web", 6, SOON)?;
        ensure!(
            running.iter().filter(|t| t.node == "host2").count() == 2,
            "{running:?}"
        );
        Ok(())
    });
}
