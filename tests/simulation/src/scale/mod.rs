//! How a cluster fares as it grows: many hosts joining at once, a minute at rest, a full deployment, a rack lost, the leader
//! lost; what the leader computes, sends and holds meanwhile.
//!
//! Every host is a whole agent. What the simulation shares between hosts so that a thousand fit into one process is said in
//! [`swarm_member::Shared`]: voters share nothing, so that what the leader computes and holds is what it would anywhere.

mod figures;
mod plot;

pub use figures::{Figures, Row, table};
pub use plot::draw;

use crate::host::SimHost;
use crate::network::Traffic;
use crate::simulation::Simulation;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use swarm_api::backend::Create;
use swarm_api::model::{
    NetworkMode, Node, NodeHealth, NodeRole, Restart, RestartPolicy, ServiceSpec, Task, TaskSpec,
    TaskState,
};

/// How long each part may take, in virtual time.
const LIMIT: Duration = Duration::from_secs(900);
/// The most that vote.
const VOTERS: usize = 5;
/// How many join at once.
const AT_ONCE: usize = 100;

/// What is run.
#[derive(Clone, Copy)]
pub struct Scale {
    /// How many hosts, those included that join last.
    pub hosts: usize,
    /// How many tasks on each.
    pub tasks_per_host: usize,
    /// How many bytes this process has on its heap; 0 where that is not counted.
    pub heap: fn() -> usize,
}

struct Run<'a> {
    scale: Scale,
    tell: &'a mut dyn FnMut(&[Row]) -> Result<()>,
    sim: Simulation,
    rows: Vec<Row>,
}

/// Grows a cluster and measures the parts. `tell` is told after each of them what was measured until then.
///
/// # Errors
/// When a part does not come to its end, and those of `tell`.
pub fn run(scale: Scale, tell: &mut dyn FnMut(&[Row]) -> Result<()>) -> Result<Vec<Row>> {
    let mut sim = Simulation::new(1);
    let managers = scale.hosts.min(VOTERS);
    sim.share_replicas_after(managers);
    sim.measure();
    sim.cluster(managers, managers)?;
    let mut run = Run {
        scale,
        tell,
        sim,
        rows: Vec::new(),
    };
    let workers = scale.hosts - managers;
    let last = workers.min(AT_ONCE);
    for first in (0..workers - last).step_by(AT_ONCE) {
        run.join(AT_ONCE.min(workers - last - first))?;
    }
    if last > 0 {
        run.part("join", |run| run.join(last))?;
    }
    run.settle()?;
    run.part("idle", |run| {
        run.sim.run_for(Duration::from_secs(60));
        Ok(())
    })?;
    run.part("deploy", Run::deploy)?;
    let rack = scale.hosts.div_ceil(10).min(workers);
    if rack > 0 {
        run.part("rack", |run| run.lose_rack(rack))?;
    }
    if managers >= 3 {
        run.part("leader", Run::lose_leader)?;
    }
    Ok(run.rows)
}

/// What had been spent at one moment.
struct Spent {
    real: Instant,
    now: Duration,
    computed: Vec<Duration>,
    traffic: Vec<Traffic>,
    applied: u64,
}

impl Run<'_> {
    fn part(&mut self, part: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.spent();
        let outcome = work(self);
        let count = self.sim.hosts.len();
        outcome.with_context(|| format!("{part}, {count} hosts"))?;
        let after = self.spent();
        let leader = self.leader().unwrap_or_default();
        let computed = |host: usize| {
            after.computed[host]
                .saturating_sub(before.computed.get(host).copied().unwrap_or_default())
        };
        let traffic = |host: usize| {
            let before = before.traffic.get(host).copied().unwrap_or_default();
            let after = after.traffic[host];
            (
                after.datagrams - before.datagrams,
                after.segments - before.segments,
                after.bytes - before.bytes,
            )
        };
        let all = (0..count).map(traffic).fold((0, 0, 0), |sum, one| {
            (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2)
        });
        let (datagrams, segments, bytes) = traffic(leader);
        let (encoded, heap) = self.replica();
        let row = Row {
            hosts: self.scale.hosts,
            tasks: self.scale.hosts * self.scale.tasks_per_host,
            part: part.to_owned(),
            took: (after.now - before.now).as_secs_f64(),
            leader_cpu: computed(leader).as_secs_f64(),
            all_cpu: (0..count).map(computed).sum::<Duration>().as_secs_f64(),
            datagrams,
            segments,
            bytes,
            all_datagrams: all.0,
            all_segments: all.1,
            all_bytes: all.2,
            entries: after.applied.saturating_sub(before.applied),
            encoded,
            heap,
            resident: resident(),
            real: (after.real - before.real).as_secs_f64(),
        };
        self.rows.push(row);
        (self.tell)(&self.rows)
    }

    fn spent(&self) -> Spent {
        let hosts = &self.sim.hosts;
        Spent {
            real: Instant::now(),
            now: self.sim.now(),
            computed: (hosts.iter())
                .map(|host| host.computed.unwrap_or_default())
                .collect(),
            traffic: (hosts.iter())
                .map(|host| self.sim.fabric.traffic_of(host.ip))
                .collect(),
            applied: self.applied(),
        }
    }

    /// How many bytes the leader's replica has as a snapshot, and on the heap: what the same replica takes when it is built
    /// anew from that.
    fn replica(&self) -> (usize, usize) {
        let look = |m: &swarm_member::Member| m.state().clone();
        let state = self
            .leader()
            .and_then(|leader| self.sim.hosts[leader].look(look));
        let Some(bytes) = state.and_then(|state| postcard::to_stdvec(&state).ok()) else {
            return (0, 0);
        };
        let before = (self.scale.heap)();
        let again = postcard::from_bytes::<swarm_cluster::State>(&bytes);
        let heap = (self.scale.heap)().saturating_sub(before);
        drop(again);
        (bytes.len(), heap)
    }

    fn leader(&self) -> Option<usize> {
        leader(&self.sim)
    }

    fn applied(&self) -> u64 {
        let leader = self.leader().unwrap_or_default();
        let applied = self.sim.hosts[leader].look(|m| m.status().applied);
        applied.unwrap_or_default()
    }

    /// That many hosts join at once. Done when all of them know that all are ready.
    fn join(&mut self, count: usize) -> Result<()> {
        let first = self.leader().context("nobody leads")?;
        let hosts: Vec<usize> = (0..count)
            .map(|_| self.sim.add_host())
            .collect::<Result<_>>()?;
        let token = self.sim.token(first, NodeRole::Worker)?;
        let calls: Vec<_> = (hosts.iter())
            .map(|host| self.sim.join_with(first, *host, &token))
            .collect();
        for call in &calls {
            self.sim.finish("joining", call)??;
        }
        let all = self.sim.hosts.len();
        self.sim.until("all know of all", LIMIT, |sim| {
            let ready = |m: &swarm_member::Member| {
                let state = m.state();
                let ready = |node: &&Node| node.health == NodeHealth::Ready;
                state.nodes.values().filter(ready).count()
            };
            (sim.hosts.iter()).all(|h| h.look(ready) == Some(all))
        })
    }

    /// Goes on until nothing was written for a while: who has joined tells what images it has.
    fn settle(&mut self) -> Result<()> {
        let end = self.sim.now() + LIMIT;
        loop {
            let before = self.applied();
            self.sim.run_for(Duration::from_secs(10));
            if self.applied() == before {
                return Ok(());
            }
            anyhow::ensure!(self.sim.now() < end, "never quiet within {LIMIT:?}");
        }
    }

    fn deploy(&mut self) -> Result<()> {
        for number in 1..=self.scale.tasks_per_host {
            let replicas = u32::try_from(self.scale.hosts)?;
            self.create(&format!("load{number}"), replicas)?;
        }
        self.all_run()
    }

    fn create(&mut self, name: &str, replicas: u32) -> Result<()> {
        let spec = ServiceSpec {
            name: name.to_owned(),
            task: TaskSpec {
                image: "whoami".into(),
                network: NetworkMode::Host,
                ..TaskSpec::default()
            },
            replicas,
            restart: RestartPolicy {
                condition: Restart::Always,
                ..RestartPolicy::default()
            },
            ..ServiceSpec::default()
        };
        let at = self.leader().context("nobody leads")?;
        let call = self.sim.call(at, |agent| async move {
            agent.backend().create(Create::Service(spec)).await
        });
        self.sim.finish("deploying", &call)??;
        Ok(())
    }

    /// Goes on until all tasks run on hosts that live, as the leader's replica has it.
    fn all_run(&mut self) -> Result<()> {
        let wanted = self.scale.hosts * self.scale.tasks_per_host;
        let end = self.sim.now() + LIMIT;
        let off = self.sim.hosts.iter().filter(|h| h.agent().is_none());
        let off: BTreeSet<String> = off.map(|h| h.name.clone()).collect();
        loop {
            self.sim.run_for(Duration::from_millis(100));
            let states = self.leader().and_then(|leader| {
                self.sim.hosts[leader].look(|m| {
                    let mut states: BTreeMap<TaskState, usize> = BTreeMap::new();
                    let state = m.state();
                    let gone: BTreeSet<_> = (state.nodes.values())
                        .filter(|node| off.contains(&node.name))
                        .map(|node| node.id)
                        .collect();
                    let lives = |t: &&Task| t.node.is_none_or(|node| !gone.contains(&node));
                    for task in state.tasks.values().filter(lives) {
                        *states.entry(task.status.state).or_default() += 1;
                    }
                    states
                })
            });
            let states = states.unwrap_or_default();
            if states.get(&TaskState::Running).copied().unwrap_or_default() >= wanted {
                return Ok(());
            }
            anyhow::ensure!(self.sim.now() < end, "not within {LIMIT:?}: {states:?}");
        }
    }

    /// The last hosts lose power at once. Done when all their tasks run elsewhere.
    fn lose_rack(&mut self, count: usize) -> Result<()> {
        let all = self.sim.hosts.len();
        for host in &mut self.sim.hosts[all - count..] {
            host.lose_power();
        }
        self.all_run()
    }

    /// The leader loses power. Done when a command is carried out again.
    fn lose_leader(&mut self) -> Result<()> {
        let lost = self.leader().context("nobody leads")?;
        self.sim.hosts[lost].lose_power();
        let found = |sim: &Simulation| leader(sim).is_some();
        self.sim.until("another leads", LIMIT, found)?;
        self.create("after", 1)
    }
}

fn leader(sim: &Simulation) -> Option<usize> {
    let leads = |host: &SimHost| host.look(|m| m.status().is_leader) == Some(true);
    sim.hosts.iter().position(leads)
}

/// How many bytes of memory this process has.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = (pages.split(' ').nth(1))
        .and_then(|pages| pages.parse().ok())
        .unwrap_or_default();
    pages * 4096
}
