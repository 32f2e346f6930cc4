//! Named cases: clusters in which what matters happens at the moment that is asked for.
#![allow(clippy::unwrap_used)]

mod disks;
mod leaving;

use std::time::Duration;
use swarm_api::model::NodeRole;
use swarm_member::Member;
use swarm_simulation::invariants::Invariants;
use swarm_simulation::simulation::Simulation;

/// What must come within it does so in a few seconds; this is for retries and elections.
const SOON: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// A cluster, and what must be so in it all the time. Host 0 leads first.
struct Cluster {
    sim: Simulation,
    invariants: Invariants,
}

impl Cluster {
    fn new(seed: u64, hosts: usize, managers: usize) -> Self {
        // What agents log, with RUST_LOG: each line says when and where.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let told = tracing_subscriber::fmt().with_env_filter(filter);
        let _ = told
            .with_test_writer()
            .with_ansi(false)
            .without_time()
            .try_init();
        let mut sim = Simulation::new(seed);
        sim.cluster(hosts, managers).unwrap();
        let mut cluster = Self {
            sim,
            invariants: Invariants::default(),
        };
        cluster.until("all vote", |c| {
            let voters = c.look(0, |m| m.status().voters.len());
            voters == Some(managers)
                && c.look(0, |m| m.status().is_leader && !m.status().voters_change) == Some(true)
        });
        cluster
    }

    fn look<T>(&self, host: usize, at: impl FnOnce(&Member) -> T) -> Option<T> {
        self.sim.hosts[host].look(at)
    }

    fn go_on(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for(LOOK.min(end - self.sim.now()));
            self.invariants.check(&self.sim).unwrap();
        }
    }

    fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let end = self.sim.now() + SOON;
        while !so(self) {
            if self.sim.now() >= end {
                let told = self
                    .sim
                    .hosts
                    .iter()
                    .map(|h| (h.trouble(), h.look(Member::status)));
                panic!(
                    "{what}: not within {SOON:?}: {:#?}",
                    told.collect::<Vec<_>>()
                );
            }
            self.go_on(LOOK);
        }
    }

    /// A change that is acknowledged, through that host: a token, by its id.
    fn change(&mut self, host: usize) -> String {
        self.sim.token(host, NodeRole::Worker).unwrap().id
    }
}
