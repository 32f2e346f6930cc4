//! A distribution with its own init, by the command line alone.

use crate::{SOON, bundle::Bundle};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{fs, path::Path, process::Command, time::Duration};
use swarm_tests::{command, images, pty::Terminal, wait_until};

/// What a distribution boots and shuts down within, on a busy machine.
const BOOT: Duration = Duration::from_secs(90);

#[test]
fn a_distribution_boots_is_entered_and_shuts_down() -> Result<()> {
    let bundle = Bundle::new(&[], |_| {})?;
    let archive = images::debian_tar(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let mut tar = Command::new("tar");
    let root = bundle.file("rootfs");
    fs::remove_dir_all(&root)?;
    fs::create_dir(&root)?;
    tar.args(["--numeric-owner", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(&root);
    command::run(&mut tar, SOON)?.ok()?;
    let config = bundle.file("config.json");
    let name: Value =
        serde_json::from_slice::<Value>(&fs::read(&config)?)?["linux"]["cgroupsPath"].clone();
    fs::remove_file(&config)?;
    bundle.ok(&["spec", "--system", "--bundle", &bundle.path()])?;
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    spec["linux"]["cgroupsPath"] = name;
    fs::write(&config, spec.to_string())?;

    let run = bundle.command(&["run", "--bundle", &bundle.path(), "sys"])?;
    let mut console = Terminal::start(&run, 24, 80)?;
    wait_until("all services are up", BOOT, || {
        let state = bundle.run(&["exec", "sys", "systemctl", "is-system-running"])?;
        ensure!(state.stdout == "running\n", "{state:?}");
        Ok(())
    })?;
    console.expect("login:", BOOT)?;
    for name in images::SERVICES {
        ensure!(fs::read_to_string(root.join("shared").join(name))? == "started\n");
    }
    let ps: Value = serde_json::from_str(&bundle.ok(&["ps", "--format", "json", "sys"])?)?;
    ensure!(ps.as_array().context("no list")?.len() > 5, "{ps}");
    bundle.ok(&["kill", "sys", "SIGRTMIN+3"])?;
    ensure!(console.end(BOOT)? == 0);
    for name in images::SERVICES {
        ensure!(fs::read_to_string(root.join("shared").join(name))? == "stopped\n");
    }
    ensure!(bundle.cgroups().is_empty(), "{:?}", bundle.cgroups());
    Ok(())
}
