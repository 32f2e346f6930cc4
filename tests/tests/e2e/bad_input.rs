//! Bad input: one clear line, an exit code other than 0, and nothing changed.

use crate::{SOON, alone, busybox, refused, run};
use anyhow::{Result, ensure};
use std::process::Command;
use swarm_tests::{wait_until, with_cluster, with_hosts};

#[test]
fn what_cannot_be_run_is_refused_and_changes_nothing() {
    with_cluster(2, |c| {
        let one = c.host(1);
        run(one, "web", 1, &["whoami"])?;
        let before = one.json(&["service", "ls"])?;
        for host in c.hosts() {
            refused(host, &["run", "-d", "nginx"], &["nginx"])?;
            refused(host, &["run", "-d", "--name", "web", "whoami"], &["web"])?;
            for (args, words) in [
                (&["--memory", "64q"][..], &["64q"][..]),
                (&["--memory", "1k"], &["memory"]),
                (&["--cpus", "none"], &["none"]),
                (&["--pids", "0"], &["pids"]),
                (&["-p", "80:80:80"], &["80:80:80"]),
                (&["-p", "70000:80"], &["70000"]),
                (&["-e", "=x"], &["=x"]),
                (&["-v", "a:b"], &["a:b"]),
                (&["--constraint", "host2"], &["host2"]),
                (&["--constraint", "node.colour==red"], &["node.colour"]),
                (&["--name", "Not_A_Label"], &["Not_A_Label"]),
                (&["--restart", "sometimes"], &["sometimes"]),
                (&["--replicas", "-1"], &["-1"]),
            ] {
                bad_run(host, args, words)?;
            }
        }
        ensure!(one.json(&["service", "ls"])? == before);
        Ok(())
    });
}

/// clap says more than one line of what it refuses; the first has the reason.
fn bad_run(host: &swarm_tests::Host, args: &[&str], words: &[&str]) -> Result<()> {
    let out = host.ctl(&[&["run", "-d"], args, &["whoami"]].concat())?;
    let first = out.stderr.lines().next().unwrap_or_default();
    ensure!(out.code != 0, "{args:?} was not refused: {}", out.stdout);
    ensure!(
        words.iter().all(|w| out.stderr.contains(w)),
        "{args:?}: {}",
        out.stderr
    );
    ensure!(
        !first.is_empty() && !out.stderr.contains("panicked"),
        "{args:?}: {}",
        out.stderr
    );
    Ok(())
}

#[test]
fn what_is_not_there_is_said_by_name() {
    with_cluster(2, |c| {
        for host in c.hosts() {
            for args in [
                &["inspect", "ghost"][..],
                &["logs", "ghost"],
                &["exec", "ghost.1", "true"],
                &["attach", "ghost.1"],
                &["stop", "ghost"],
                &["kill", "ghost.1"],
                &["rm", "ghost"],
                &["wait", "ghost.1"],
                &["lookup", "ghost"],
                &["service", "scale", "ghost=2"],
                &["service", "rm", "ghost"],
                &["node", "inspect", "ghost"],
                &["node", "rm", "ghost"],
                &["stats", "--no-stream", "ghost.1"],
            ] {
                refused(host, args, &["ghost"])?;
            }
        }
        Ok(())
    });
}

#[test]
fn an_agent_that_is_not_there_is_said_with_its_socket() {
    with_hosts(alone(1), |c| {
        c.host(1).stop_agent()?;
        refused(c.host(1), &["ps"], &["cluster.sock", "swarmd"])
    });
}

#[test]
fn a_bad_configuration_is_said_with_its_place() {
    with_hosts(alone(1).without_agents(), |c| {
        let one = c.host(1);
        let file = one.scratch()?.join("swarmd.toml");
        for (text, word) in [
            ("port = \"many\"\n", "port"),
            ("no-such-key = 1\n", "no-such-key"),
            ("=", "swarmd.toml"),
        ] {
            std::fs::write(&file, text)?;
            let mut swarmd: Command = one.swarmd(&["run", "--config", &file.to_string_lossy()])?;
            let out = one.run(&mut swarmd, SOON)?;
            ensure!(
                out.code != 0 && out.stderr.contains(word),
                "{text:?}: {out:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn two_agents_cannot_share_a_data_directory() {
    with_hosts(alone(1), |c| {
        let one = c.host(1);
        let out = one.run(&mut one.swarmd(&["run"])?, SOON)?;
        ensure!(out.code != 0 && out.stderr.contains("data"), "{out:?}");
        one.ctl(&["version"])?.ok().map(drop)
    });
}

#[test]
fn a_full_disk_is_said_and_survived() {
    with_hosts(alone(1).disk(96 << 20), |c| {
        let one = c.host(1);
        c.form()?;
        let archive = swarm_tests::images::busybox_tar(&one.scratch()?)?;
        one.fill_disk()?;
        let archive = archive.to_string_lossy();
        refused(one, &["image", "import", "busybox", &archive], &["space"])?;
        let _ = one.ctl(&["run", "-d", "--name", "early", "whoami"])?;
        one.ctl(&["ps"])?;
        one.empty_disk()?;
        wait_until("it goes on when there is room again", SOON, || {
            one.ok(&["image", "import", "busybox", &archive])?;
            Ok(())
        })?;
        busybox(one)?;
        run(one, "late", 1, &["whoami"]).map(drop)
    });
}
