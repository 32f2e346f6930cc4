//! Nothing is kept of what is over. `make soak` does the same for an hour.

use std::time::Duration;
use swarm_tests::histories::dice;
use swarm_tests::soak::{Plan, soak};
use swarm_tests::{Cluster, with_hosts};

/// Each host's disk.
const DISK: u64 = 256 << 20;

#[test]
fn hosts_give_everything_back_after_work_under_faults() {
    with_hosts(Cluster::builder().hosts(3).disk(DISK), |c| {
        c.form()?;
        let plan = Plan {
            seed: dice::seed(),
            time: Duration::ZERO,
            spell: Duration::from_secs(5),
        };
        eprintln!(
            "seed {} (same actions again: SEED={})",
            plan.seed, plan.seed
        );
        let table = soak(c, plan, &|what| eprintln!("{what}"))?;
        eprintln!("{table}");
        Ok(())
    });
}
