//! What users and watchers are told is consistent, whatever befalls the hosts meanwhile. `make torture` does the same
//! for as long as one likes.

use anyhow::{Result, ensure};
use std::time::Duration;
use swarm_tests::histories::{Plan, dice, faults, run};
use swarm_tests::{Cluster, with_cluster, with_hosts};

#[test]
fn what_users_and_watchers_are_told_is_consistent_while_agents_die_and_links_are_cut() {
    let mut kinds = faults::Kind::QUICK.to_vec();
    kinds.push(faults::Kind::FillDisk);
    with_hosts(Cluster::builder().hosts(3).disk(DISK), |c| {
        c.form()?;
        let report = run(
            c,
            &Plan {
                seed: dice::seed(),
                time: Duration::from_secs(25),
                users: 6,
                faults: kinds,
            },
        )?;
        eprintln!("{report}");
        ensure!(report.acknowledged > 20 && report.compared > 20, "{report}");
        Ok(())
    });
}

/// Enough for the built-in image and a log.
const DISK: u64 = 128 << 20;

#[test]
fn what_users_and_watchers_are_told_is_consistent_on_a_calm_day() {
    with_cluster(3, |c| -> Result<()> {
        let report = run(
            c,
            &Plan {
                seed: dice::seed(),
                time: Duration::from_secs(5),
                users: 6,
                faults: Vec::new(),
            },
        )?;
        eprintln!("{report}");
        // Nothing befell, so that everything has an answer.
        ensure!(report.unknown + report.not_done == 0, "{report}");
        Ok(())
    });
}
