//! `swarm-torture soak`.

use crate::arguments::Arguments;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use swarm_tests::Cluster;
use swarm_tests::soak::{self, Plan};

/// Each host's disk: for images, containers and a log that grows until it is cut.
const DISK: u64 = 512 << 20;

/// Between two measurements.
const SPELL: Duration = Duration::from_secs(30);

pub(crate) fn soak(arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed;
    eprintln!("seed {seed} (same actions again: SEED={seed})");
    let cluster = Cluster::builder()
        .hosts(arguments.hosts)
        .disk(DISK)
        .start()?;
    let started = Instant::now();
    let say = |what: &str| eprintln!("{:>9.3} {what}", started.elapsed().as_secs_f64());
    let plan = Plan {
        seed,
        time: arguments.time,
        spell: SPELL,
    };
    let soaked = cluster
        .form()
        .and_then(|()| soak::soak(&cluster, plan, &say));
    match soaked {
        Ok(table) => print!("{table}"),
        Err(why) => {
            eprintln!("{}", cluster.logs());
            return Err(why).context(format!("seed {seed}"));
        }
    }
    cluster.stop()
}
