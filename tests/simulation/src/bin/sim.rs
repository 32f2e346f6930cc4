//! Runs simulations by seed.

use anyhow::Result;
use std::time::{Duration, Instant};
use swarm_simulation::Simulation;

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_ansi(false).init();
    let hosts = std::env::args().nth(1).and_then(|t| t.parse().ok()).unwrap_or(3);
    let start = Instant::now();
    let mut sim = Simulation::new(1);
    sim.cluster(hosts, 3)?;
    println!("cluster of {hosts} after {:?} virtual, {:?} real", sim.now(), start.elapsed());
    let start = Instant::now();
    sim.run_for(Duration::from_secs(60));
    println!("60 s in {:?}", start.elapsed());
    for host in &sim.hosts {
        println!("{}: {:?}", host.name, host.look(|m| m.status()));
    }
    Ok(())
}
