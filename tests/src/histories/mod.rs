//! Histories of the real API: users on several hosts at once make, change, read and remove objects through real agents
//! while faults befall the hosts; what they were answered is judged afterwards.
//!
//! What is judged: each object's history is linearizable ([`crate::linearizability`]); answers that say they are fresh
//! never go back in the log, whoever gives them; stale ones show a state that there was; watchers see every write once
//! and in order, also where they go on elsewhere.
//!
//! Everything that is random comes from one seed. Real time does not, so that a seed repeats what is done, not always
//! what comes of it.

mod answers;
pub mod dice;
pub mod faults;
mod judge;
mod record;
mod users;
mod watchers;

pub use judge::Report;

use crate::{Cluster, Host};
use anyhow::{Context, Result, bail, ensure};
use dice::Dice;
use record::{Clock, Key, Lives, Recorder};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What users do it with.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All that is random follows from it.
    pub seed: u64,
    /// How long users work and faults befall.
    pub time: Duration,
    /// Users, spread over the hosts.
    pub users: usize,
    /// The faults to choose from; none for a calm history.
    pub faults: Vec<faults::Kind>,
}

/// What a cluster is given to settle in after the last fault.
const SETTLE: Duration = Duration::from_secs(90);

/// Lets users work through a formed cluster while faults befall its hosts, and judges what they saw.
///
/// # Errors
/// Where something was seen that cannot be, or the cluster does not settle afterwards; the message has the seed.
pub fn run(cluster: &Cluster, plan: &Plan) -> Result<Report> {
    eprintln!(
        "seed {} (same actions again: SEED={})",
        plan.seed, plan.seed
    );
    recorded(cluster, plan).with_context(|| format!("seed {}", plan.seed))
}

fn recorded(cluster: &Cluster, plan: &Plan) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut dice = Dice::new(plan.seed);
    let keys: Arc<[Key]> = Key::some(cluster).into();
    let lives = Lives::of(cluster.hosts().len());
    let recorder = Arc::new(Recorder::new(Arc::clone(&keys), lives.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let clock = recorder.clock;
    let places: Vec<users::Place> = cluster.hosts().iter().map(users::Place::of).collect();

    let start = runtime.block_on(users::index(&places[0]))?;
    let watchers: Vec<_> = (0..=places.len())
        .map(|n| {
            // One for each host, and one that goes from host to host.
            let hops = n == places.len();
            let at = n % places.len();
            runtime.spawn(watchers::watch(
                places.clone(),
                start,
                at,
                hops,
                dice.fork(),
            ))
        })
        .collect();
    let users: Vec<_> = (0..plan.users)
        .map(|n| {
            let user = users::User::new(n, places.clone(), Arc::clone(&recorder), dice.fork());
            runtime.spawn(user.work(Arc::clone(&stop)))
        })
        .collect();

    let mut faults = faults::Faults::telling(cluster, plan.faults.clone(), dice.fork(), lives);
    let befell = faults.befall(plan.time, &|what| say(clock, what));
    let healed = faults.heal_all();
    stop.store(true, Ordering::SeqCst);
    befell?;
    healed?;
    for user in users {
        runtime.block_on(user)?;
    }
    say(clock, "the users have ended, the cluster settles");
    settle(cluster)?;
    let marker = format!("end-{}", plan.seed);
    runtime.block_on(users::look_everywhere(&places, &recorder, &marker))?;
    let mut seen = Vec::new();
    for watcher in watchers {
        let sequence = runtime
            .block_on(async { tokio::time::timeout(SETTLE, watcher).await })
            .context("a watcher never saw the last change")??;
        seen.push(sequence);
    }
    let records = recorder.take();
    judge::judge(&keys, &records, &seen).map_err(|why| match write_down(plan.seed, &records) {
        Ok(file) => why.context(format!("all operations are in {}", file.display())),
        Err(_) => why,
    })
}

/// Everything that users did, one line each, for who has to find out why it is wrong.
fn write_down(seed: u64, records: &[record::Record]) -> Result<PathBuf> {
    let file = std::env::temp_dir().join(format!("swarm-history-{seed}.txt"));
    let lines: Vec<String> = records.iter().map(|r| format!("{r:?}")).collect();
    std::fs::write(&file, lines.join("\n"))?;
    Ok(file)
}

fn say(clock: Clock, what: &str) {
    eprintln!("{:>9.3} {what}", clock.now() as f64 / 1e6);
}

/// Waits until every host sees all as ready. An agent that has ended by itself is a failure.
fn settle(cluster: &Cluster) -> Result<()> {
    let until = Instant::now() + SETTLE;
    loop {
        for host in cluster.hosts() {
            alive(host)?;
        }
        match cluster.wait_ready() {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() > until => {
                return Err(why).context("the cluster does not settle after the last fault");
            }
            Err(_) => {}
        }
    }
}

/// Whether the agent runs, as nobody ended it.
pub(crate) fn alive(host: &Host) -> Result<()> {
    let Some(pid) = host.agent_pid() else {
        bail!("{}'s agent was not started again", host.name);
    };
    ensure!(
        crate::processes::is_alive(pid),
        "{}'s agent ended by itself: {}",
        host.name,
        host.log_tail(20)
    );
    Ok(())
}
