//! Images that are made here: of what a container has changed, named, looked at, put into a registry; and what all of it
//! takes up.

use crate::registry::{Registry, hosts};
use crate::{UP, refused, run};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;
use swarm_tests::host::Host;
use swarm_tests::{wait_until, with_hosts};

/// What skopeo takes at most, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn on(node: &str) -> String {
    format!("node.name=={node}")
}

fn shell(host: &Host, task: &str, line: &str) -> Result<String> {
    host.ok(&["exec", task, "sh", "-c", line])
}

#[test]
fn what_a_task_changed_becomes_an_image_that_any_host_runs_and_a_registry_takes() {
    with_hosts(hosts(2), |c| {
        c.form()?;
        let (one, two) = (c.host(1), c.host(2));
        let registry = Registry::start(one)?;
        crate::busybox(two)?;
        let there = on("host2");
        run(
            two,
            "box",
            1,
            &["--constraint", &there, "busybox", "sleep", "3600"],
        )?;
        shell(
            one,
            "box.1",
            "echo changed > /note; ln /note /same; chmod 4711 /note; rm /www/index.html; mkdir -p /www/new; rm -r /tmp; mkdir /tmp",
        )?;
        let made = one.ok(&[
            "commit",
            "box.1",
            "team/web:1",
            "-c",
            "CMD [\"sh\",\"-c\",\"cat /same; sleep 3600\"]",
            "-c",
            "ENV A=b",
            "-m",
            "a note",
            "--author",
            "me",
        ])?;
        ensure!(made == "team/web:1", "{made}");
        ensure!(shell(two, "box.1", "cat /note")? == "changed", "it goes on");
        let here = on("host1");
        run(two, "web", 1, &["--constraint", &here, "team/web:1"])?;
        let look = "cat /same; ls /www; ls -l /note | cut -c1-10; echo $A";
        // `ls` of busybox: what was removed is not there, what was made is.
        wait_until("its log is there", UP, || {
            ensure!(one.ok(&["logs", "web.1"])? == "changed");
            Ok(())
        })?;
        let seen = shell(two, "web.1", &look.replace(" | cut -c1-10", ""))?;
        ensure!(
            seen.starts_with("changed\nnew\n-rws--x--x    2") && seen.ends_with("\nb"),
            "{seen}"
        );
        let history = one.json(&["image", "history", "team/web:1"])?;
        let steps = history.as_array().context("a list")?;
        ensure!(
            steps.len() == 2 && steps[0]["comment"] == "a note" && steps[0]["author"] == "me",
            "{history}"
        );

        let name = registry.name("team/web:2");
        two.ok(&["image", "tag", "team/web:1", &name])?;
        // The node that is asked has not got all of it.
        let pushed = one.ok(&["image", "push", &name])?;
        let digest = pushed.rsplit('@').next().context("a digest")?.to_owned();
        let mut skopeo = Command::new("skopeo");
        let place = format!("docker://{}", registry.name("team/web:2"));
        skopeo.args(["inspect", "--tls-verify=false", &place]);
        let told: serde_json::Value =
            serde_json::from_str(&one.run(&mut skopeo, LONG)?.ok()?.stdout)?;
        ensure!(
            told["Digest"] == digest.as_str() && told["Env"][0] == "A=b",
            "{told}"
        );
        refused(one, &["image", "push", "team/web:1"], &["registry"])?;
        refused(
            one,
            &["commit", "box.1", "x", "-c", "RUN true"],
            &["RUN", "CMD"],
        )?;
        refused(one, &["image", "history", "none"], &["none"])?;
        // Where the disk cannot limit it, nothing of such a task starts. (A disk that can is tested in the runtime.)
        let limited = ["run", "-d", "--name", "limited", "--restart", "never"];
        let command = ["--storage-size", "64m", "busybox", "sleep", "60"];
        let _ = one.ctl(&[&limited[..], &command].concat())?;
        wait_until("it is refused or runs", UP, || {
            let task = &one.json(&["ps", "-a", "limited"])?[0]["status"];
            let said = task["message"].as_str().unwrap_or_default();
            let refused = task["state"] == "rejected" && said.contains("prjquota");
            ensure!(refused || task["state"] == "running", "{task}");
            Ok(())
        })?;
        usage(one)
    });
}

fn usage(host: &Host) -> Result<()> {
    let usage = host.json(&["df"])?;
    let of = |node: &str| {
        let mut hosts = usage.as_array().into_iter().flatten();
        hosts.find(|h| h["node_name"] == node).context("a host")
    };
    for node in ["host1", "host2"] {
        let told = of(node)?;
        ensure!(
            told["layers"].as_u64() > Some(1 << 20) && told["disk_free"].as_u64() > Some(0),
            "{told}"
        );
        let images = told["images"].as_array().context("images")?;
        let web = images
            .iter()
            .find(|i| i["names"].to_string().contains("team/web:1"));
        let web = web.context("the image that was made")?;
        ensure!(web["shared"].as_u64() > Some(0) || node == "host1", "{web}");
    }
    let task = &of("host2")?["tasks"][0];
    ensure!(
        task["task"] == "box.1" && task["writable"].as_u64() > Some(0),
        "{task}"
    );
    let text = host.ok(&["df", "-v"])?;
    ensure!(
        text.contains("box.1") && text.contains("team/web:1"),
        "{text}"
    );
    ensure!(host.ok(&["df"])?.contains("host2"));
    Ok(())
}
