//! The soak: hosts that work for long under faults and give everything back. After each spell of work everything is
//! removed, and what is left is compared with what was left the first times; then the same services as always are made,
//! and what that takes is compared with what it took the first times.

mod report;
mod sample;
mod work;

pub use report::Table;
pub use sample::Sample;

use crate::histories::dice::Dice;
use crate::histories::faults::{Faults, Kind};
use crate::{Cluster, Host, images, wait_until};
use anyhow::{Context, Result, bail, ensure};
use std::time::{Duration, Instant};

/// What is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// All that is random follows from it.
    pub seed: u64,
    /// For how long; four spells at the least.
    pub time: Duration,
    /// How long one spell of work and faults is, more or less.
    pub spell: Duration,
}

/// Spells before what is left is compared: caches fill, the log is cut for the first time.
const WARM_UP: usize = 2;
/// What a cluster that is left alone gives everything back within.
const CALM: Duration = Duration::from_secs(90);
/// Tasks on each host while it is measured at work.
const STEADY: u32 = 2;

/// Measured after a spell of work.
#[derive(Debug, Clone)]
pub struct Round {
    /// How long the soak was going on.
    pub at: Duration,
    /// Each host without any service.
    pub empty: Vec<Sample>,
    /// Each host with the same tasks as always.
    pub loaded: Vec<Sample>,
}

/// Works, and says what was measured; the first hosts' agent is never ended, so that what it keeps is seen.
///
/// # Errors
/// Where something is not given back, the cluster does not calm down, or an agent ends by itself.
pub fn soak(cluster: &Cluster, plan: Plan, say: &dyn Fn(&str)) -> Result<Table> {
    let mut dice = Dice::new(plan.seed);
    let archive = images::busybox_tar(&cluster.host(1).scratch()?)?;
    let archive = archive.to_string_lossy().into_owned();
    let host = cluster.host(1);
    host.ok(&["image", "import", "busybox", &archive])?;
    let kinds = Kind::ALL.to_vec();
    let mut faults = Faults::new(cluster, kinds, dice.fork()).sparing(report::WITNESS);
    let started = Instant::now();
    let mut table = Table::new(WARM_UP);
    for spell in 0.. {
        let left = plan.time.saturating_sub(started.elapsed());
        if left.is_zero() && spell > WARM_UP + 1 {
            break;
        }
        let time = dice.time(plan.spell * 2 / 3, plan.spell * 4 / 3);
        work::work(cluster, &mut faults, &mut dice, time, &archive, say)
            .with_context(|| format!("spell {spell}"))?;
        let empty = emptied(cluster, table.rounds())?;
        let loaded = loaded(cluster)?;
        let round = Round {
            at: started.elapsed(),
            empty,
            loaded,
        };
        say(&format!("spell {spell}: {}", report::line(&round)));
        table.add(round);
    }
    table.judge().map(|()| table)
}

/// Removes everything, and measures when all that was counted the first time is as it was then.
fn emptied(cluster: &Cluster, before: &[Round]) -> Result<Vec<Sample>> {
    cluster.wait_ready()?;
    let host = cluster.host(1);
    wait_until("everything is removed", CALM, || {
        for (list, remove) in [
            (["service", "ls"], &["rm", "-f"][..]),
            (["network", "ls"], &["network", "rm"][..]),
        ] {
            let all = host.json(&list)?;
            for object in all.as_array().into_iter().flatten() {
                let name = object["name"].as_str().or(object["spec"]["name"].as_str());
                let name = name.with_context(|| format!("no name in {object}"))?;
                if name != "default" {
                    host.ctl_within(CALM, &[remove, &[name]].concat())?.ok()?;
                }
            }
        }
        let tasks = host.tasks(None)?;
        ensure!(tasks.is_empty(), "{tasks:?}");
        Ok(())
    })?;
    let images = host.json(&["image", "ls"])?;
    for image in images.as_array().into_iter().flatten() {
        let name = image["reference"].as_str().unwrap_or_default();
        if name.starts_with("tmp") {
            host.ok(&["image", "rm", name])?;
        }
    }
    let all = cluster.hosts().iter().enumerate();
    all.map(|(n, host)| {
        let first = before.get(WARM_UP - 1).map(|r| &r.empty[n]);
        let what = format!("{} has given back everything", host.name);
        wait_until(&what, CALM, || {
            let sample = Sample::of(host)?;
            ensure!(sample.shims + sample.containers == 0, "{}", left(host));
            if let Some(first) = first {
                let more = sample.more_than(first);
                ensure!(more.is_empty(), "{}: {}", more.join(", "), left(host));
            }
            Ok(sample)
        })
    })
    .collect()
}

fn left(host: &Host) -> String {
    match host.traces() {
        Ok(traces) => traces.join("; "),
        Err(why) => format!("{why:#}"),
    }
}

/// Where the service is published whose tasks are on that host.
fn port(host: usize) -> u16 {
    9001 + u16::try_from(host).unwrap_or_default()
}

/// Makes the same services as always, and measures when their tasks run and every host leads their ports to them.
fn loaded(cluster: &Cluster) -> Result<Vec<Sample>> {
    let first = cluster.host(1);
    for (n, host) in cluster.hosts().iter().enumerate() {
        let (name, port) = (format!("steady-{}", n + 1), format!("{}:80", port(n)));
        let there = format!("node.name=={}", host.name);
        let replicas = STEADY.to_string();
        let words = ["run", "-d", "--name", &name, "--replicas", &replicas];
        let more = ["--constraint", &there, "-p", &port, "whoami"];
        first.ok(&[&words[..], &more[..]].concat())?;
    }
    for n in 1..=cluster.hosts().len() {
        first.wait_running(&format!("steady-{n}"), STEADY as usize, CALM)?;
    }
    for host in cluster.hosts() {
        for n in 0..cluster.hosts().len() {
            let at = (host.address, port(n)).into();
            let what = format!("{at} leads to a task");
            wait_until(&what, CALM, || cluster.outside(at, "/").map(drop))?;
        }
    }
    let hosts = cluster.hosts().iter();
    let measured: Result<Vec<Sample>> = hosts.map(Sample::of).collect();
    let measured = measured?;
    for (host, sample) in cluster.hosts().iter().zip(&measured) {
        if sample.containers != STEADY as usize {
            bail!(
                "{} runs {} containers, not {STEADY}: {}",
                host.name,
                sample.containers,
                left(host)
            );
        }
    }
    Ok(measured)
}
