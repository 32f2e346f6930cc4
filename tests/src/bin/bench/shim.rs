//! What a running container costs its host beside its own processes: the shim's memory, and the agent's time for measuring it once a second.

use crate::idle::{Usage, field};
use crate::sample::Samples;
use anyhow::{Result, ensure};
use std::time::Duration;
use swarm_tests::host::Host;
use swarm_tests::{Cluster, images, processes};

/// How many containers.
pub(crate) const CONTAINERS: usize = 50;
/// How long the agent is watched, once without and once with somebody who follows their stats.
const WATCHED: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);

/// What was found out.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Of each shim, KiB: what is its alone with its share of what it has with others (PSS), that alone, and the most that was ever
    /// resident, pages shared with the agent's other processes included.
    pub(crate) pss: Samples,
    pub(crate) private: Samples,
    pub(crate) peak: Samples,
    /// Percent of one core that one second's stats of one container take: the agent's time, spread over them.
    pub(crate) stats: Samples,
}

/// Measures everything, on a cluster of one host.
pub(crate) fn measure() -> Result<Figures> {
    let mut figures = Figures::default();
    let cluster = Cluster::builder().hosts(1).start()?;
    let outcome = cluster
        .form()
        .and_then(|()| on(cluster.host(1), &mut figures));
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    cluster.stop()?;
    outcome.map(|()| figures)
}

fn on(host: &Host, figures: &mut Figures) -> Result<()> {
    let archive = images::busybox_tar(&host.scratch()?)?;
    host.ok(&["image", "import", "busybox", &archive.to_string_lossy()])?;
    let count = CONTAINERS.to_string();
    let run = [
        "run",
        "-d",
        "--name",
        "many",
        "--stop-signal",
        "KILL",
        "--replicas",
    ];
    host.ok(&[&run[..], &[&count, "busybox", "sleep", "3600"]].concat())?;
    host.wait_running("many", CONTAINERS, LONG)?;

    let shims: Vec<i32> = host
        .processes()
        .into_iter()
        .filter(|pid| processes::command_line(*pid).contains("shim"))
        .collect();
    ensure!(shims.len() == CONTAINERS, "{} shims are there", shims.len());
    for shim in shims {
        let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup"))?;
        figures.pss.push(field(&rollup, "Pss:")?);
        figures
            .private
            .push(field(&rollup, "Private_Clean:")? + field(&rollup, "Private_Dirty:")?);
        let status = std::fs::read_to_string(format!("/proc/{shim}/status"))?;
        figures.peak.push(field(&status, "VmHWM:")?);
    }

    let agent: Vec<i32> = host.agent_pid().into_iter().collect();
    // The figure is what happens in this time: nothing is waited for.
    std::thread::sleep(WATCHED / 3);
    let share = || -> Result<f64> {
        let before = Usage::of(&agent)?;
        std::thread::sleep(WATCHED);
        Ok(Usage::of(&agent)?.share_since(&before, WATCHED))
    };
    let without = share()?;
    let follower = host.ctl_stream(&["stats"])?;
    let with = share()?;
    drop(follower);
    #[allow(clippy::cast_precision_loss)]
    figures
        .stats
        .push((with - without).max(0.0) / CONTAINERS as f64);
    Ok(())
}
