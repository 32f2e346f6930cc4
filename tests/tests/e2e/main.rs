//! Every promise, end to end: real binaries, several hosts, only what a user can type and see.

mod bad_input;
mod copy;
mod dns;
mod faults;
mod forming;
mod health;
mod histories;
mod host_scope;
mod images;
mod making;
mod network;
mod pressure;
mod registry;
mod rootless;
mod running;
mod share;
mod soak;
mod streams;
mod system;
mod transfers;
mod workloads;

use anyhow::{Result, ensure};
use std::time::Duration;
use swarm_tests::host::{Host, SOON};
use swarm_tests::{Cluster, images as tarballs, wait_until};

/// What a task that was asked for runs within, on a busy machine.
const UP: Duration = Duration::from_secs(30);
/// What a lost host's tasks run elsewhere within, on a busy machine (the figures are `make bench`'s matter).
const FAILOVER: Duration = Duration::from_secs(30);

/// Imports busybox through `host`.
fn busybox(host: &Host) -> Result<()> {
    let archive = tarballs::busybox_tar(&host.scratch()?)?;
    host.ok(&["image", "import", "busybox", &archive.to_string_lossy()])?;
    Ok(())
}

/// Runs `args` with `run -d` in front through `host` and waits for `count` tasks.
fn run(
    host: &Host,
    name: &str,
    count: usize,
    args: &[&str],
) -> Result<Vec<swarm_tests::host::Task>> {
    host.ok(&[&["run", "-d", "--name", name], args].concat())?;
    host.wait_running(name, count, UP)
}

/// Waits until every one of `hosts` says that these addresses, and no others, stand behind `name`.
fn wait_dns<'a>(
    hosts: impl IntoIterator<Item = &'a Host>,
    name: &str,
    tasks: &[swarm_tests::host::Task],
) -> Result<()> {
    let wanted = addresses(tasks);
    for host in hosts {
        wait_until(&format!("{}'s DNS knows {name}", host.name), SOON, || {
            let found = host.dig(&[name])?;
            ensure!(found == wanted, "it says {found:?}, not {wanted:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The addresses of these tasks as DNS gives them: sorted.
fn addresses(tasks: &[swarm_tests::host::Task]) -> Vec<String> {
    let all = tasks.iter().flat_map(|t| &t.addresses);
    let mut addresses: Vec<String> = all.map(ToString::to_string).collect();
    addresses.sort();
    addresses
}

/// The names of the nodes that `host` shows, with this field's value.
fn nodes(host: &Host, field: &str) -> Result<Vec<(String, String)>> {
    let nodes = host.json(&["node", "ls"])?;
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<(String, String)> = nodes
        .as_array()
        .into_iter()
        .flatten()
        .map(|n| (text(&n["name"]), text(&n[field])))
        .collect();
    found.sort();
    Ok(found)
}

/// Refuses to be anything but one clear line that has all of `words` in it.
fn refused(host: &Host, args: &[&str], words: &[&str]) -> Result<()> {
    let message = host.ctl(args)?.refusal()?;
    for word in words {
        ensure!(
            message.to_lowercase().contains(&word.to_lowercase()),
            "`swarmctl {}` was refused with {message:?}, which does not speak of {word:?}",
            args.join(" ")
        );
    }
    Ok(())
}

/// Hosts that are not in a cluster yet.
fn alone(hosts: usize) -> swarm_tests::Builder {
    Cluster::builder().hosts(hosts)
}
