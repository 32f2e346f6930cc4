//! The commands by hand.

use crate::{
    SOON,
    bundle::{Bundle, collect},
};
use anyhow::{Context, Result, ensure};
use nix::sys::{signal::Signal, wait::WaitStatus};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IoSliceMut, Read},
    mem::MaybeUninit,
    os::unix::net::UnixListener,
    process::Stdio,
};
use swarm_tests::{pty::Terminal, wait_until};

#[test]
fn a_container_is_created_started_and_deleted_by_separate_commands() -> Result<()> {
    let bundle = Bundle::new(&["sh", "-c", "echo $$ at $HOME; exit 7"], |_| {})?;
    let pid_file = bundle.file("pid");
    bundle.create("one", &["--pid-file", &pid_file.to_string_lossy()])?;
    let state = bundle.state("one")?;
    ensure!(state["status"] == "created", "{state}");
    ensure!(state["bundle"] == bundle.path(), "{state}");
    ensure!(state["ociVersion"] == "1.2.0", "{state}");
    let pid = bundle.pid("one")?;
    ensure!(fs::read_to_string(&pid_file)? == pid.to_string());
    ensure!(bundle.out()?.is_empty(), "nothing runs before `start`");
    ensure!(!bundle.cgroups().is_empty());

    let taken = bundle.run(&["create", "--bundle", &bundle.path(), "one"])?;
    ensure!(taken.refusal()?.contains("already exists"));
    bundle.ok(&["start", "one"])?;
    ensure!(matches!(collect(pid)?, WaitStatus::Exited(_, 7)));
    ensure!(bundle.out()? == "1 at /root\n", "{}", bundle.out()?);
    let state = bundle.state("one")?;
    ensure!(state["status"] == "stopped" && state["pid"] == 0, "{state}");
    let again = bundle.run(&["start", "one"])?;
    ensure!(again.refusal()?.contains("stopped"));
    let gone = bundle.run(&["kill", "one", "TERM"])?;
    ensure!(gone.refusal()?.contains("container not running"));

    bundle.ok(&["delete", "one"])?;
    ensure!(bundle.cgroups().is_empty(), "{:?}", bundle.cgroups());
    ensure!(fs::read_dir(bundle.state_root())?.next().is_none());
    let missing = bundle.run(&["state", "one"])?;
    ensure!(missing.refusal()?.contains("does not exist"));
    ensure!(bundle.run(&["delete", "one"])?.code == 1);
    bundle.ok(&["delete", "--force", "one"])?;
    Ok(())
}

#[test]
fn run_ends_as_its_process_does_and_leaves_nothing() -> Result<()> {
    let bundle = Bundle::new(&["sh", "-c", "echo out; echo err >&2; exit 5"], |_| {})?;
    let done = bundle.run(&["run", "--bundle", &bundle.path(), "one"])?;
    ensure!(done.code == 5, "{done:?}");
    ensure!(done.stdout == "out\n" && done.stderr == "err\n", "{done:?}");
    ensure!(bundle.cgroups().is_empty());
    ensure!(bundle.ok(&["list", "--quiet"])?.is_empty());

    let killed = Bundle::new(&["sh", "-c", "kill -USR1 $$; sleep 60"], |spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .into_iter()
            .for_each(|all| all.retain(|n| n["type"] != "pid"));
    })?;
    let done = killed.run(&["run", "--bundle", &killed.path(), "one"])?;
    ensure!(done.code == 128 + 10, "{done:?}");
    ensure!(killed.cgroups().is_empty());
    Ok(())
}

#[test]
fn a_signal_to_a_run_in_the_foreground_reaches_the_container() -> Result<()> {
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 1; done";
    let bundle = Bundle::new(&["sh", "-c", script], |_| {})?;
    let mut run = bundle.command(&["run", "--bundle", &bundle.path(), "one"])?;
    let mut run = swarm_tests::command::Spawned::start(&mut run)?;
    run.expect("ready", SOON)?;
    run.signal(rustix::process::Signal::TERM)?;
    ensure!(run.end(SOON)? == 9);
    Ok(())
}

#[test]
fn more_processes_are_run_in_a_container_and_listed() -> Result<()> {
    let bundle = Bundle::new(&["sleep", "1000"], |_| {})?;
    bundle.create("one", &[])?;
    bundle.ok(&["start", "one"])?;
    let pid = bundle.pid("one")?;
    let ran = bundle.run(&[
        "exec",
        "--env",
        "A=b",
        "--cwd",
        "/tmp",
        "--user",
        "1000:1000",
        "one",
        "sh",
        "-c",
        "echo $A $PWD; id -u; exit 3",
    ])?;
    ensure!(ran.code == 3 && ran.stdout == "b /tmp\n1000\n", "{ran:?}");
    let missing = bundle.run(&["exec", "one", "nothing"])?;
    ensure!(missing.code == 255, "{missing:?}");
    ensure!(missing.refusal()?.contains("executable file not found"));

    let file = bundle.file("process.json");
    let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "1000"], "env": ["PATH=/bin"]});
    fs::write(&file, process.to_string())?;
    let second = bundle.file("second");
    let status = bundle
        .command(&[
            "exec",
            "--detach",
            "--process",
            &file.to_string_lossy(),
            "--pid-file",
            &second.to_string_lossy(),
            "one",
        ])?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success());
    let second: i32 = fs::read_to_string(second)?.parse()?;
    let listed = bundle.run(&["ps", "--format", "json", "one"])?.json()?;
    let mut wanted = [pid, second];
    wanted.sort_unstable();
    ensure!(listed == json!(wanted), "{listed}");
    ensure!(bundle.ok(&["ps", "one"])?.contains("sleep 1000"));

    let running = bundle.run(&["delete", "one"])?;
    ensure!(running.refusal()?.contains("not stopped"));
    bundle.ok(&["kill", "one", "SIGKILL"])?;
    // The first one of a pid namespace is not gone before all others have been collected.
    for pid in [second, pid] {
        ensure!(matches!(
            collect(pid)?,
            WaitStatus::Signaled(_, Signal::SIGKILL, _)
        ));
    }
    bundle.ok(&["delete", "one"])?;
    Ok(())
}

#[test]
fn a_container_is_paused_limited_and_watched() -> Result<()> {
    let bundle = Bundle::new(&["sleep", "1000"], |_| {})?;
    bundle.create("one", &[])?;
    bundle.ok(&["start", "one"])?;
    bundle.ok(&["pause", "one"])?;
    ensure!(bundle.state("one")?["status"] == "paused");
    let paused = bundle.run(&["exec", "one", "true"])?;
    ensure!(paused.refusal()?.contains("paused"));
    bundle.ok(&["resume", "one"])?;
    ensure!(bundle.state("one")?["status"] == "running");
    bundle.ok(&["update", "--memory", "64m", "--pids-limit", "50", "one"])?;
    let stats = bundle.run(&["events", "--stats", "one"])?.json()?;
    ensure!(
        stats["data"]["memory"]["usage"]["limit"] == 64 << 20,
        "{stats}"
    );
    ensure!(
        stats["data"]["pids"] == json!({"current": 1, "limit": 50}),
        "{stats}"
    );
    let total = stats["data"]["cpu"]["usage"]["total"].as_u64();
    ensure!(total > Some(0), "{stats}");
    let memory = &stats["data"]["memory"];
    ensure!(
        memory["usage"]["usage"].as_u64() <= memory["usage"]["max"].as_u64(),
        "{stats}"
    );
    ensure!(
        memory["raw"].as_object().is_some_and(|raw| raw.len() > 10),
        "{stats}"
    );
    // Also one that runs, and is paused, goes when it must.
    bundle.ok(&["pause", "one"])?;
    bundle.ok(&["delete", "--force", "one"])?;
    ensure!(bundle.cgroups().is_empty());
    Ok(())
}

#[test]
fn events_tell_at_once_that_a_process_was_killed_for_memory() -> Result<()> {
    let eats = "read x; x=0123456789abcdef; while true; do x=$x$x; done";
    let script = format!("sh -c '{eats}' </go; sleep 1000");
    let bundle = Bundle::new(&["sh", "-c", &script], |spec| {
        spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
        spec["root"]["readonly"] = json!(false);
    })?;
    let go = bundle.file("rootfs/go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU)?;
    bundle.create("one", &[])?;
    bundle.ok(&["start", "one"])?;
    let mut events = bundle
        .command(&["events", "--interval", "600s", "one"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(events.stdout.take().context("no output")?).lines();
    let mut next = || -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&lines.next().context("no more")??)?)
    };
    ensure!(next()?["type"] == "stats");
    fs::write(&go, "go\n")?;
    let told = next()?;
    ensure!(told == json!({"type": "oom", "id": "one"}), "{told}");
    bundle.ok(&["delete", "--force", "one"])?;
    ensure!(events.wait()?.success());
    Ok(())
}

#[test]
fn the_terminal_is_sent_to_the_console_socket() -> Result<()> {
    let bundle = Bundle::new(&["sh", "-c", "tty; stty size"], |spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 11, "width": 44});
    })?;
    let without = bundle.run(&["create", "--bundle", &bundle.path(), "one"])?;
    ensure!(without.refusal()?.contains("--console-socket"));
    let socket = bundle.file("console");
    let listener = UnixListener::bind(&socket)?;
    bundle.create("one", &["--console-socket", &socket.to_string_lossy()])?;
    let (connection, _) = listener.accept()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    recvmsg(
        &connection,
        &mut [IoSliceMut::new(&mut name)],
        &mut extra,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let master = extra
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .context("no terminal came")?;
    bundle.ok(&["start", "one"])?;
    let mut text = String::new();
    // It ends with an error when the last one on the other side has gone.
    let _ = File::from(master).read_to_string(&mut text);
    ensure!(text == "/dev/pts/0\r\n11 44\r\n", "{text:?}");
    Ok(())
}

#[test]
fn a_foreground_terminal_is_the_callers() -> Result<()> {
    let bundle = Bundle::new(&["sh"], |spec| spec["process"]["terminal"] = json!(true))?;
    let run = bundle.command(&["run", "--bundle", &bundle.path(), "one"])?;
    let mut terminal = Terminal::start(&run, 33, 99)?;
    terminal.send("stty size; echo so-$((40+2))\n")?;
    terminal.expect("33 99", SOON)?;
    terminal.expect("so-42", SOON)?;
    terminal.send("exit 6\n")?;
    ensure!(terminal.end(SOON)? == 6);
    Ok(())
}

#[test]
fn what_cannot_be_run_is_told_at_create_and_leaves_nothing() -> Result<()> {
    let bundle = Bundle::new(&["nothing"], |_| {})?;
    let log = bundle.file("log.json");
    let path = bundle.path();
    let refused = bundle.run(&[
        "--log",
        &log.to_string_lossy(),
        "--log-format",
        "json",
        "create",
        "--bundle",
        &path,
        "one",
    ])?;
    ensure!(refused.refusal()?.contains("executable file not found"));
    let line: serde_json::Value = serde_json::from_str(&fs::read_to_string(log)?)?;
    ensure!(line["level"] == "error", "{line}");
    ensure!(
        line["msg"]
            .as_str()
            .is_some_and(|m| m.contains("executable file not found")),
        "{line}"
    );
    ensure!(bundle.cgroups().is_empty());
    ensure!(bundle.run(&["state", "one"])?.code == 1);

    let systemd = bundle.run(&["--systemd-cgroup", "create", "--bundle", &path, "one"])?;
    ensure!(systemd.refusal()?.contains("cgroupfs"));
    ensure!(
        bundle
            .run(&["create", "--no-such", "one"])?
            .refusal()?
            .contains("--no-such")
    );
    ensure!(
        bundle
            .run(&["create", "--bundle", &path, "../one"])?
            .refusal()?
            .contains("id")
    );
    Ok(())
}

#[test]
fn given_descriptors_come_through_and_no_others_do() -> Result<()> {
    let bundle = Bundle::new(&["sh", "-c", "cat <&3; ls /proc/self/fd"], |_| {})?;
    fs::write(bundle.file("given"), "given\n")?;
    // Of the two only the first is passed on; the last one in the list is that of `ls` itself.
    let script = "exec \"$@\" 3<given 4<given";
    let mut run = std::process::Command::new("sh");
    run.current_dir(bundle.path())
        .args(["-c", script, "sh"])
        .arg(crate::swarm_oci()?)
        .arg("--root")
        .arg(bundle.state_root())
        .args(["run", "--preserve-fds", "1", "one"]);
    let done = swarm_tests::command::run(&mut run, SOON)?.ok()?;
    ensure!(done.stdout == "given\n0\n1\n2\n3\n4\n", "{done:?}");
    let target = Bundle::new(&["ls", "-l", "/proc/self/fd"], |_| {})?;
    let done = target
        .run(&["run", "--bundle", &target.path(), "one"])?
        .ok()?;
    ensure!(
        !done.stdout.contains("given") && !done.stdout.contains("socket"),
        "{done:?}"
    );
    Ok(())
}

#[test]
fn hooks_see_the_states_of_a_container_in_their_order() -> Result<()> {
    let bundle = Bundle::new(&["true"], |_| {})?;
    let log = bundle.file("hooks");
    let config = bundle.file("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config)?)?;
    for moment in ["prestart", "createRuntime", "poststart", "poststop"] {
        let script = format!(
            "echo {moment} $(sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/') >>{}",
            log.display()
        );
        spec["hooks"][moment] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    }
    fs::write(config, spec.to_string())?;
    bundle.create("one", &[])?;
    let pid = bundle.pid("one")?;
    bundle.ok(&["start", "one"])?;
    collect(pid)?;
    bundle.ok(&["delete", "one"])?;
    let seen = wait_until("all hooks have run", SOON, || Ok(fs::read_to_string(&log)?))?;
    ensure!(
        seen == "prestart creating\ncreateRuntime creating\npoststart running\npoststop stopped\n",
        "{seen}"
    );
    Ok(())
}

#[test]
fn a_network_device_of_the_host_becomes_the_containers_with_its_addresses() -> Result<()> {
    let script = "ip -o addr show dev eth7; ip -o link show dev eth7; ls /sys/class/net";
    let bundle = Bundle::new(&["sh", "-c", script], |spec| {
        spec["linux"]["netDevices"] = json!({"given": {"name": "eth7"}});
    })?;
    // Everything happens in a network namespace that ends with this command.
    let run = bundle.command(&["run", "--bundle", &bundle.path(), "one"])?;
    let host = "ip link add given mtu 1400 type veth peer name kept && ip addr add 10.9.8.7/24 dev given \
         && ip addr add fd00::7/64 dev given nodad && ip link set kept up && \"$@\" && ip -o link show given";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--net", "sh", "-c", host, "sh"])
        .arg(run.get_program())
        .args(run.get_args());
    let done = swarm_tests::command::run(&mut command, SOON)?;
    for wanted in ["10.9.8.7/24", "fd00::7/64", "mtu 1400", "UP,LOWER_UP"] {
        ensure!(done.stdout.contains(wanted), "{wanted}: {done:?}");
    }
    // It has left the host.
    ensure!(done.code != 0 && done.stderr.contains("given"), "{done:?}");
    let missing = bundle.run(&["run", "--bundle", &bundle.path(), "one"])?;
    ensure!(missing.refusal()?.contains("no network device given"));
    Ok(())
}

#[test]
fn a_memory_policy_is_the_programs() -> Result<()> {
    let bundle = Bundle::new(&["cat", "/proc/self/numa_maps"], |spec| {
        spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    })?;
    let maps = bundle.ok(&["run", "--bundle", &bundle.path(), "one"])?;
    ensure!(maps.contains(" bind:0 "), "{maps}");
    Ok(())
}
