//! What streams between agents: output, input, terminals, logs, statistics, events.

use crate::{UP, busybox, run};
use anyhow::{Result, ensure};
use rustix::process::Signal;
use swarm_tests::host::SOON;
use swarm_tests::{wait_until, with_cluster};

const ON_TWO: &str = "node.name==host2";

#[test]
fn run_streams_the_output_and_passes_the_exit_code_on() {
    with_cluster(2, |c| {
        let one = c.host(1);
        busybox(one)?;
        let script = "echo out; echo err >&2; exit 7";
        let out = one.ctl(&[
            "run",
            "--rm",
            "--restart",
            "never",
            "--constraint",
            ON_TWO,
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
        ensure!(
            out.code == 7 && out.stdout == "out\n" && out.stderr == "err\n",
            "{out:?}"
        );
        wait_until("--rm has removed it", SOON, || {
            let left = one.json(&["service", "ls"])?;
            ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
            Ok(())
        })?;
        let mut cat = one.ctl_stream(&[
            "run",
            "-i",
            "--rm",
            "--restart",
            "never",
            "--constraint",
            ON_TWO,
            "busybox",
            "cat",
        ])?;
        cat.send("typed\n")?;
        cat.expect("typed", UP)?;
        cat.close_input();
        ensure!(cat.end(SOON)? == 0);
        Ok(())
    });
}

#[test]
fn logs_are_read_and_followed_from_every_host() {
    with_cluster(3, |c| {
        let one = c.host(1);
        busybox(one)?;
        let script = "echo first; echo second >&2; read line; echo got $line; sleep 3600";
        run(
            one,
            "talk",
            1,
            &["-i", "--constraint", ON_TWO, "busybox", "sh", "-c", script],
        )?;
        let mut followers = Vec::new();
        for host in c.hosts() {
            let mut follower = host.ctl_stream(&["logs", "-f", "talk"])?;
            follower.expect("first", SOON)?;
            followers.push(follower);
        }
        let mut attached = c.host(3).ctl_stream(&["attach", "talk.1"])?;
        attached.send("hello\n")?;
        attached.expect("got hello", SOON)?;
        for follower in &mut followers {
            follower.expect("got hello", SOON)?;
        }
        let tail = c.host(3).ok(&["logs", "--tail", "1", "talk.1"])?;
        ensure!(
            tail.lines().count() == 1 && tail.contains("got hello"),
            "{tail}"
        );
        let all = c.host(1).ctl(&["logs", "talk"])?.ok()?;
        ensure!(
            format!("{}{}", all.stdout, all.stderr).contains("second"),
            "{all:?}"
        );
        Ok(())
    });
}

#[test]
fn exec_runs_on_another_host_with_input_output_and_exit_code() {
    with_cluster(3, |c| {
        let one = c.host(1);
        busybox(one)?;
        run(
            one,
            "box",
            1,
            &[
                "--constraint",
                ON_TWO,
                "-e",
                "COLOUR=blue",
                "busybox",
                "sleep",
                "3600",
            ],
        )?;
        for host in c.hosts() {
            let out = host.ctl(&[
                "exec",
                "box.1",
                "sh",
                "-c",
                "echo $COLOUR; echo e >&2; exit 9",
            ])?;
            ensure!(
                out.code == 9 && out.stdout == "blue\n" && out.stderr == "e\n",
                "{out:?}"
            );
        }
        let mut cat = c
            .host(3)
            .ctl_stream(&["exec", "-i", "box.1", "sh", "-c", "cat; exit 3"])?;
        cat.send("through\n")?;
        cat.expect("through", SOON)?;
        cat.close_input();
        ensure!(cat.end(SOON)? == 3);
        let big = c
            .host(3)
            .ctl(&["exec", "box.1", "seq", "1", "200000"])?
            .ok()?;
        ensure!(big.stdout.lines().count() == 200_000 && big.stdout.ends_with("\n200000\n"));
        let missing = c.host(1).ctl(&["exec", "box.1", "no-such-program"])?;
        ensure!(
            missing.code != 0 && missing.stderr.contains("no-such-program"),
            "{missing:?}"
        );
        Ok(())
    });
}

#[test]
fn exec_has_a_real_terminal_that_follows_the_window() {
    with_cluster(2, |c| {
        let one = c.host(1);
        busybox(one)?;
        run(
            one,
            "box",
            1,
            &["--constraint", ON_TWO, "busybox", "sleep", "3600"],
        )?;
        let mut shell = one.ctl_terminal(&["exec", "-it", "box.1", "sh"], 33, 111)?;
        shell.send("stty size; tty\r")?;
        shell.expect("33 111", UP)?;
        shell.expect("/dev/pts/", SOON)?;
        shell.resize(44, 122)?;
        wait_until("the window has grown", SOON, || {
            shell.send("stty size\r")?;
            shell.expect("44 122", std::time::Duration::from_secs(1))
        })?;
        // ^C reaches the program, not swarmctl. The shell reads lines without signals until it starts a program, and
        // forgets what is typed ahead of a ^C: so the program is waited for, and the prompt.
        shell.send("sh -c \"echo go''ing; exec sleep 600\"\r")?;
        shell.expect("going", SOON)?;
        shell.send("\x03")?;
        shell.expect("# ", SOON)?;
        shell.send("echo al''ive\r")?;
        shell.expect("alive", SOON)?;
        shell.send("exit 6\r")?;
        ensure!(shell.end(SOON)? == 6);
        Ok(())
    });
}

#[test]
fn run_it_is_a_shell_on_another_host() {
    with_cluster(2, |c| {
        let one = c.host(1);
        busybox(one)?;
        let args = [
            "run",
            "-it",
            "--rm",
            "--restart",
            "never",
            "--constraint",
            ON_TWO,
            "--name",
            "sh",
            "busybox",
            "sh",
        ];
        let mut shell = one.ctl_terminal(&args, 24, 80)?;
        shell.send("hostname; stty size\r")?;
        shell.expect("sh-1", UP)?;
        shell.expect("24 80", SOON)?;
        shell.send("exit 4\r")?;
        ensure!(shell.end(SOON)? == 4);
        Ok(())
    });
}

#[test]
fn wait_stats_and_events_work_from_every_host() {
    with_cluster(3, |c| {
        let one = c.host(1);
        busybox(one)?;
        let mut events = c.host(3).ctl_stream(&["-o", "json", "events"])?;
        let mut local = c.host(2).ctl_stream(&["events"])?;
        // What happens before a watcher is registered is not its own: make things until it sees one.
        wait_until("the watchers watch", SOON, || {
            one.ok(&["run", "-d", "--name", "probe", "whoami"])?;
            let seen = events.expect("probe", std::time::Duration::from_secs(1));
            let also = local.expect("probe", std::time::Duration::from_secs(1));
            one.ok(&["service", "rm", "probe"])?;
            seen.and(also).map(drop)
        })?;
        let args = [
            "-i",
            "--restart",
            "never",
            "--constraint",
            ON_TWO,
            "busybox",
            "sh",
            "-c",
            "read x; exit 5",
        ];
        run(one, "short", 1, &args)?;
        events.expect("short.1", SOON)?;
        local.expect("short.1", SOON)?;
        for host in c.hosts() {
            let stats = host.json(&["stats", "--no-stream", "short.1"])?;
            ensure!(
                stats[0]["task"] == "short.1" && stats[0]["node_name"] == "host2",
                "{stats}"
            );
            ensure!(
                stats[0]["memory"].as_u64() > Some(0) && stats[0]["pids"] == 1,
                "{stats}"
            );
        }
        let mut waiting = c.host(3).ctl_stream(&["wait", "short.1"])?;
        let mut end = one.ctl_stream(&["attach", "short.1"])?;
        end.send("go\n")?;
        waiting.expect("5", SOON)?;
        events.expect("exit_code", SOON)?;
        Ok(())
    });
}

#[test]
fn signals_reach_the_process() {
    with_cluster(2, |c| -> Result<()> {
        let one = c.host(1);
        busybox(one)?;
        let script = "trap 'echo usr1' USR1; trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.1; done";
        run(
            one,
            "trap",
            1,
            &[
                "--restart",
                "never",
                "--constraint",
                ON_TWO,
                "busybox",
                "sh",
                "-c",
                script,
            ],
        )?;
        let mut log = one.ctl_stream(&["logs", "-f", "trap"])?;
        log.expect("ready", UP)?;
        one.ok(&["kill", "-s", "USR1", "trap.1"])?;
        log.expect("usr1", SOON)?;
        one.ok(&["stop", "trap.1"])?;
        log.expect("bye", SOON)?;
        // A follower ends with the last task.
        ensure!(log.end(SOON)? == 0);
        let mut events = one.ctl_stream(&["events"])?;
        events.signal(Signal::INT)?;
        events.end(SOON)?;
        Ok(())
    });
}
