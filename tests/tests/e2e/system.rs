//! System containers: a distribution with its own init and services, started, entered and shut down.

use crate::{SOON, alone};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use swarm_tests::host::{Host, Task};
use swarm_tests::{images, wait_until, with_hosts};

/// What a distribution boots and shuts down within, on a busy machine.
const BOOT: Duration = Duration::from_secs(90);

fn import(host: &Host) -> Result<()> {
    let archive = images::debian_tar(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    host.local(&["image", "import", "debian", &archive.to_string_lossy()])?
        .ok()?;
    Ok(())
}

/// Starts it and waits until everything in it is up.
fn boot(host: &Host, name: &str, flags: &[&str]) -> Result<()> {
    host.local(
        &[
            &["run", "-d", "--name", name, "--restart", "never"],
            flags,
            &["debian", "/sbin/init"],
        ]
        .concat(),
    )?
    .ok()?;
    wait_until("all services are up", BOOT, || {
        let state = host.local(&[
            "exec",
            &format!("{name}.1"),
            "systemctl",
            "is-system-running",
        ])?;
        ensure!(
            state.stdout == "running\n",
            "{state:?} {}",
            host.local(&["logs", name])?.stdout
        );
        Ok(())
    })?;
    Ok(())
}

fn shared(host: &Host) -> Result<String> {
    let shared = host.scratch()?.join("shared");
    std::fs::create_dir_all(&shared)?;
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    Ok(shared.to_string_lossy().into_owned())
}

fn services_say(shared: &str, word: &str) -> Result<()> {
    for name in images::SERVICES {
        let said = std::fs::read_to_string(Path::new(shared).join(name))?;
        ensure!(said == format!("{word}\n"), "{name}: {said}");
    }
    Ok(())
}

/// Shuts it down and waits until nothing is left.
fn shut_down(host: &Host, name: &str) -> Result<()> {
    host.local(&["stop", "--time", "80s", name])?.ok()?;
    let tasks = Task::all(&host.local_json(&["ps", "-a"])?);
    let task = tasks.iter().find(|t| t.name == format!("{name}.1"));
    let task = task.context("the task is not there")?;
    ensure!(task.state == "shutdown", "{task:?}");
    let whole = host.local_json(&["inspect", &format!("{name}.1")])?;
    // By itself, and not because its time was up.
    ensure!(whole["status"]["exit"]["code"] == 0, "{whole}");
    host.local(&["rm", "-f", name])?.ok()?;
    wait_until("nothing is left", SOON, || {
        let left = host.traces()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })
}

#[test]
fn a_distribution_boots_is_entered_and_shuts_down() {
    with_hosts(alone(1), |c| {
        let host = c.host(1);
        import(host)?;
        let shared = shared(host)?;
        let volume = format!("{shared}:/shared");
        boot(host, "sys", &["--memory", "512m", "-v", &volume])?;
        services_say(&shared, "started")?;
        let exec = |line: &str| host.local(&["exec", "sys.1", "sh", "-c", line]);
        let active =
            exec("systemctl is-active one two dbus systemd-journald systemd-logind")?.ok()?;
        ensure!(active.stdout == "active\n".repeat(5), "{active:?}");
        let parted = exec("cat /proc/$(systemctl show --value -p MainPID one)/cgroup")?.ok()?;
        ensure!(
            parted.stdout.contains("/system.slice/one.service"),
            "{parted:?}"
        );
        // A service is stopped and started without the others.
        exec("systemctl stop two && cat /shared/two && systemctl start two")?.ok()?;
        // Users can be changed, as on any system.
        let nobody = exec("setpriv --reuid 65534 --clear-groups id -u")?.ok()?;
        ensure!(nobody.stdout == "65534\n", "{nobody:?}");
        // Its limits are out of its reach.
        let raised = exec(
            "for file in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do echo 1G > $file; done",
        )?;
        ensure!(raised.code != 0, "{raised:?}");
        // Its console is the task's log.
        wait_until("the console asks for a login", BOOT, || {
            let console = host.local(&["logs", "sys"])?.ok()?.stdout;
            ensure!(
                console.contains("Welcome to") && console.contains("login:"),
                "{console}"
            );
            Ok(())
        })?;
        shut_down(host, "sys")?;
        services_say(&shared, "stopped")
    });
}

#[test]
fn a_distribution_runs_in_a_user_namespace() {
    with_hosts(alone(1), |c| {
        let host = c.host(1);
        import(host)?;
        boot(host, "sys", &["--user-namespace", "--tmpfs", "/shared"])?;
        let map = host
            .local(&["exec", "sys.1", "cat", "/proc/self/uid_map", "/shared/one"])?
            .ok()?;
        let words: Vec<&str> = map.stdout.split_whitespace().collect();
        ensure!(
            words.first() == Some(&"0") && words.get(1) != Some(&"0"),
            "{map:?}"
        );
        ensure!(words.last() == Some(&"started"), "{map:?}");
        shut_down(host, "sys")
    });
}
