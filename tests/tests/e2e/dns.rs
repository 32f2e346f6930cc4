//! Look-ups: by dig on every host, by swarmctl, by containers.

use crate::{UP, busybox, run, wait_dns};
use anyhow::{Result, ensure};
use swarm_tests::host::{Host, SOON};
use swarm_tests::{wait_until, with_cluster};

#[test]
fn every_host_answers_a_srv_and_ptr_over_udp_and_tcp() {
    with_cluster(3, |c| {
        let tasks = run(
            c.host(1),
            "web",
            3,
            &["--replicas", "3", "-p", "8080:80", "whoami"],
        )?;
        wait_dns(c.hosts(), "web.swarm", &tasks)?;
        for host in c.hosts() {
            ensure!(host.dig(&["+tcp", "web.swarm"])? == host.dig(&["+notcp", "web.swarm"])?);
            let srv = host.dig(&["web.swarm", "SRV"])?;
            ensure!(
                srv.len() == 3 && srv.iter().all(|s| s.contains(" 80 ")),
                "{srv:?}"
            );
            for task in &tasks {
                let address = task.addresses[0].to_string();
                let name = task.name.split_once('.').map_or("", |(_, slot)| slot);
                let name = format!("{name}.web.swarm");
                ensure!(host.dig(&[&name])? == std::slice::from_ref(&address));
                ensure!(host.dig(&["-x", &address])? == [format!("{name}.")]);
            }
            for node in c.hosts() {
                let name = format!("{}.node.swarm", node.name);
                ensure!(host.dig(&[&name])? == [node.address.to_string()]);
            }
            // A name that there is, without an address of that family; and one that there is not.
            let none = host.dig_full(&["web.swarm", "AAAA"])?;
            ensure!(
                none.contains("status: NOERROR") && none.contains("ANSWER: 0"),
                "{none}"
            );
            let unknown = host.dig_full(&["nothing.swarm"])?;
            ensure!(unknown.contains("status: NXDOMAIN"), "{unknown}");
            let full = host.dig_full(&["web.swarm"])?;
            ensure!(full.contains("flags: qr aa"), "{full}");
            let found = host.json(&["lookup", "web"])?;
            ensure!(
                found["endpoints"].as_array().map(Vec::len) == Some(3),
                "{found}"
            );
        }
        Ok(())
    });
}

#[test]
fn only_running_tasks_are_in_the_answer() {
    with_cluster(2, |c| {
        let one = c.host(1);
        let tasks = run(one, "web", 3, &["--replicas", "3", "whoami"])?;
        wait_dns(c.hosts(), "web.swarm", &tasks)?;
        one.ok(&["service", "scale", "web=1"])?;
        let tasks = one.wait_running("web", 1, UP)?;
        wait_dns(c.hosts(), "web.swarm", &tasks)?;
        one.ok(&["service", "rm", "web"])?;
        wait_dns(c.hosts(), "web.swarm", &[])?;
        crate::refused(c.host(2), &["lookup", "web"], &["web"])
    });
}

#[test]
fn an_answer_that_is_too_long_for_udp_comes_by_tcp() {
    with_cluster(2, |c| {
        let tasks = run(c.host(1), "many", 40, &["--replicas", "40", "whoami"])?;
        wait_dns(c.hosts(), "many.swarm", &tasks)?;
        for host in c.hosts() {
            let cut = host.dig_full(&["+ignore", "+noedns", "many.swarm"])?;
            ensure!(cut.contains(" tc "), "{cut}");
            ensure!(host.dig(&["+noedns", "many.swarm"])?.len() == 40);
        }
        Ok(())
    });
}

#[test]
fn containers_reach_each_other_across_hosts_by_name() {
    with_cluster(3, |c| {
        let one = c.host(1);
        busybox(one)?;
        run(
            one,
            "web",
            1,
            &["--constraint", "node.name==host3", "whoami"],
        )?;
        run(
            one,
            "box",
            3,
            &["--replicas", "3", "busybox", "sleep", "3600"],
        )?;
        for slot in 1..=3 {
            let task = format!("box.{slot}");
            for name in ["web", "web.swarm", "1.web.swarm"] {
                fetch(one, &task, name)?;
            }
        }
        Ok(())
    });
}

/// Gets a page over HTTP with what the container itself resolves. With nc, because the wget of Debian's static busybox
/// ends with SIGSEGV whatever it is asked (its getservbyname(3) wants shared libraries).
fn fetch(host: &Host, task: &str, name: &str) -> Result<()> {
    let script = format!(r"printf 'GET / HTTP/1.0\r\nHost: {name}\r\n\r\n' | nc -w 3 {name} 80");
    wait_until(&format!("{task} gets http://{name}/"), SOON, || {
        let page = host.ok(&["exec", task, "sh", "-c", &script])?;
        ensure!(page.contains("Task: web.1"), "{page}");
        Ok(())
    })
}
