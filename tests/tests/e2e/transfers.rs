//! Layers on their way from host to host while one of the two dies, and how fast they may go.

use crate::registry::{Registry, hosts, version};
use crate::{UP, run};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use swarm_tests::host::{Host, SOON};
use swarm_tests::{Cluster, wait_until, with_hosts};

/// What a transfer ends within whose other side has lost its power, on a busy machine.
const RECOVERED: Duration = Duration::from_secs(90);
/// So slow that a transfer of some MiB is under way for a while.
const RATE: &str = "--image-rate=1MiB";

/// The layers of a host that are not whole yet.
fn unfinished(host: &Host) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(host.data_dir().join("layers"))?;
    let paths = entries.map(|e| Ok(e?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>()?;
    paths.retain(|p| {
        p.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(".new-"))
    });
    Ok(paths)
}

/// Bytes that a host has sent to others so far.
fn sent(host: &Host) -> Result<u64> {
    let mut ip = Command::new("ip");
    ip.args(["-s", "-j", "link", "show", "eth0"]);
    let links = host.run(&mut ip, SOON)?.json()?;
    links[0]["stats64"]["tx"]["bytes"]
        .as_u64()
        .with_context(|| format!("no count in {links}"))
}

/// Puts an image of five layers there, 6 MiB of files in all, and has these hosts get it: the first from the registry.
fn put(registry: &Registry<'_>, holders: &[&Host]) -> Result<String> {
    registry.put_sized("team/web:1", "moved", 4, 1 << 20)?;
    let name = registry.name("team/web:1");
    for host in holders {
        host.ok(&["image", "pull", &name])?;
        // Where the cluster knows it already, a task brings it to the host.
        let place = format!("node.name=={}", host.name);
        host.ok(&["run", "--rm", "--constraint", &place, &name, "true"])?;
    }
    Ok(name)
}

/// Asks for a task on host 2, and waits until the host gets the image of a peer: the first of `peers` that is seen to send it.
fn begin<'a>(c: &'a Cluster, peers: &[usize], name: &str) -> Result<&'a Host> {
    let peers: Vec<&Host> = peers.iter().map(|n| c.host(*n)).collect();
    let before: Vec<u64> = peers.iter().map(|h| sent(h)).collect::<Result<_>>()?;
    let args = ["run", "-d", "--name", "web", "--constraint"];
    c.host(2)
        .ok(&[&args[..], &["node.name==host2", name]].concat())?;
    wait_until("a peer sends it", UP, || {
        ensure!(!unfinished(c.host(2))?.is_empty(), "nothing has begun");
        for (peer, before) in peers.iter().zip(&before) {
            if sent(peer)? > before + (256 << 10) {
                return Ok(*peer);
            }
        }
        anyhow::bail!("nobody sends")
    })
}

/// The task runs on host 2, and every byte of its image is what its digests say.
fn arrived(c: &Cluster, name: &str) -> Result<()> {
    let two = c.host(2);
    let tasks = two.wait_running("web", 1, RECOVERED)?;
    ensure!(tasks[0].node == "host2", "{tasks:?}");
    ensure!(version(two, &tasks[0].name)? == "moved");
    let file = two.scratch()?.join("saved.tar");
    // Reads each layer back, and compares it with its digest.
    two.ok(&["image", "save", "-f", &file.to_string_lossy(), name])?;
    let left = unfinished(two)?;
    ensure!(left.is_empty(), "{left:?} stay");
    Ok(())
}

#[test]
fn an_image_whose_giver_loses_power_comes_from_another_host() {
    with_hosts(hosts(4).argument(RATE), |c| {
        c.form()?;
        let registry = Registry::start(c.host(4))?;
        let name = put(&registry, &[c.host(1), c.host(3)])?;
        // None but the two hosts can give it from here on.
        drop(registry);
        let giver = begin(c, &[1, 3], &name)?;
        giver.power_off()?;
        arrived(c, &name)
    });
}

#[test]
fn an_image_whose_only_giver_dies_comes_from_the_registry() {
    with_hosts(hosts(3).argument(RATE), |c| {
        c.form()?;
        let registry = Registry::start(c.host(3))?;
        let name = put(&registry, &[c.host(1)])?;
        ensure!(registry.fetched()?.values().all(|n| *n == 1));
        begin(c, &[1], &name)?.kill_all()?;
        arrived(c, &name)?;
        let fetched = registry.fetched()?;
        ensure!(
            fetched.values().any(|n| *n == 2) && fetched.values().all(|n| *n <= 2),
            "{fetched:?}"
        );
        Ok(())
    });
}

#[test]
fn a_host_that_is_killed_while_it_gets_an_image_has_all_of_it_after_its_next_start() {
    with_hosts(hosts(3).argument(RATE), |c| {
        c.form()?;
        let registry = Registry::start(c.host(3))?;
        let name = put(&registry, &[c.host(1)])?;
        drop(registry);
        begin(c, &[1], &name)?;
        let two = c.host(2);
        two.kill_agent()?;
        ensure!(
            !unfinished(two)?.is_empty(),
            "it was killed in the middle of it"
        );
        two.start_agent()?;
        arrived(c, &name)
    });
}

#[test]
fn what_a_host_gets_from_its_peers_keeps_to_the_rate_and_stands_in_nobodys_way() {
    const RATE: u64 = 256 << 10;
    with_hosts(hosts(2).argument("--image-rate=256KiB"), |c| {
        c.form()?;
        let (one, two) = (c.host(1), c.host(2));
        let registry = Registry::start(one)?;
        // More than a minute's worth, which the registry gives as fast as it can.
        registry.put_sized("team/web:1", "slow", 4, 5 << 20)?;
        let name = registry.name("team/web:1");
        one.ok(&["image", "pull", &name])?;
        let before = sent(one)?;
        let begun = Instant::now();
        let file = two.scratch()?.join("saved.tar");
        let mut save = two.ctl_command(&["image", "save", "-f", &file.to_string_lossy(), &name])?;
        let mut save = two.spawn_inside(save.stdin(Stdio::null()))?;
        let outcome = (|| {
            wait_until("it has begun", UP, || {
                ensure!(!unfinished(two)?.is_empty());
                Ok(())
            })?;
            // Commands and tasks do not wait for it, and it is not done before them.
            run(two, "web", 2, &["--replicas", "2", "whoami"])?;
            ensure!(save.try_wait()?.is_none(), "it was not held back");
            ensure!(!unfinished(two)?.is_empty(), "its layers are all there");
            let came = sent(one)? - before;
            // Besides, what agents tell each other all the time.
            let most = RATE * (begun.elapsed().as_secs() + 2) + (2 << 20);
            ensure!(came <= most, "{came} bytes came, of {most} at most");
            Ok(())
        })();
        save.kill()?;
        save.wait()?;
        outcome?;
        wait_until("what nobody waits for any more ends", UP, || {
            let left = unfinished(two)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    });
}
