//! How a cluster fares as it grows: a full deployment, a rack lost, the leader lost, many hosts joining at once; what the
//! leader computes and sends meanwhile.

use crate::simulation::Simulation;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::time::Duration;
use swarm_api::backend::Create;
use swarm_api::model::{NodeRole, Restart, RestartPolicy, ServiceSpec, TaskSpec, TaskState};

/// How long each part may take, in virtual time.
const LIMIT: Duration = Duration::from_secs(900);
/// The most tasks that one service may have.
const MOST: u32 = ServiceSpec::MAX_REPLICAS;

/// One part, measured.
#[derive(Debug, Clone)]
pub struct Part {
    /// What.
    pub what: &'static str,
    /// How long it took, in virtual time.
    pub took: Duration,
    /// What the leader's agent computed meanwhile, in real time.
    pub leader_cpu: Duration,
    /// What all agents computed meanwhile.
    pub all_cpu: Duration,
    /// Messages that the leader sent.
    pub messages: u64,
    /// Bytes that the leader sent.
    pub bytes: u64,
}

struct Scale {
    sim: Simulation,
    parts: Vec<Part>,
}

/// Grows a cluster to that many hosts, with so many tasks on each, and measures the parts.
///
/// # Errors
/// When a part does not come to its end.
pub fn run(hosts: usize, tasks_per_host: u32) -> Result<Vec<Part>> {
    let mut scale = Scale {
        sim: Simulation::new(1),
        parts: Vec::new(),
    };
    let managers = hosts.min(5);
    scale.sim.cluster(managers, managers)?;
    let joining = hosts - managers;
    scale.part("hosts join", |scale| scale.join(joining))?;
    scale.part("idle for a minute", |scale| {
        scale.sim.run_for(Duration::from_secs(60));
        Ok(())
    })?;
    let tasks = tasks_per_host * u32::try_from(hosts)?;
    scale.part("all tasks run", |scale| scale.deploy(tasks))?;
    let rack: Vec<usize> = (hosts - (hosts / 10).max(1)..hosts)
        .filter(|host| *host >= managers)
        .collect();
    if !rack.is_empty() {
        scale.part("a tenth of the hosts is lost", |scale| {
            for host in &rack {
                scale.sim.hosts[*host].lose_power();
            }
            scale.all_run(tasks)
        })?;
    }
    if managers >= 3 {
        scale.part("the leader is lost", Scale::lose_leader)?;
    }
    Ok(scale.parts)
}

impl Scale {
    fn part(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let leader = self.leader().unwrap_or_default();
        let before = self.sim.fabric.traffic_of(self.sim.hosts[leader].ip);
        let cpu = |sim: &Simulation| -> Vec<Duration> {
            sim.hosts
                .iter()
                .map(crate::host::SimHost::computed)
                .collect()
        };
        let (start, computed) = (self.sim.now(), cpu(&self.sim));
        work(self).context(what)?;
        let after = self.sim.fabric.traffic_of(self.sim.hosts[leader].ip);
        let spent = cpu(&self.sim);
        let of = |host: usize| {
            spent[host].saturating_sub(computed.get(host).copied().unwrap_or_default())
        };
        self.parts.push(Part {
            what,
            took: self.sim.now() - start,
            leader_cpu: of(leader),
            all_cpu: (0..spent.len()).map(of).sum(),
            messages: (after.datagrams + after.segments) - (before.datagrams + before.segments),
            bytes: after.bytes - before.bytes,
        });
        Ok(())
    }

    fn leader(&self) -> Option<usize> {
        let leads = |host: &crate::host::SimHost| host.look(|m| m.status().is_leader) == Some(true);
        self.sim.hosts.iter().position(leads)
    }

    fn join(&mut self, count: usize) -> Result<()> {
        let first = self.leader().context("nobody leads")?;
        let mut calls = Vec::new();
        for _ in 0..count {
            let host = self.sim.add_host()?;
            calls.push(self.sim.join(first, host, NodeRole::Worker)?);
            // A hundred at once.
            if calls.len() == 100 {
                for call in calls.drain(..) {
                    self.sim.finish("joining", &call)??;
                }
            }
        }
        for call in calls {
            self.sim.finish("joining", &call)??;
        }
        Ok(())
    }

    fn deploy(&mut self, tasks: u32) -> Result<()> {
        let (mut left, mut number) = (tasks, 0);
        while left > 0 {
            let replicas = left.min(MOST);
            left -= replicas;
            number += 1;
            let spec = ServiceSpec {
                name: format!("load{number}"),
                task: TaskSpec {
                    image: "whoami".into(),
                    network: swarm_api::model::NetworkMode::Host,
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
        }
        self.all_run(tasks)
    }

    /// Goes on until that many tasks run, as the leader's replica has it.
    fn all_run(&mut self, tasks: u32) -> Result<()> {
        let end = self.sim.now() + LIMIT;
        loop {
            self.sim.run_for(Duration::from_millis(100));
            let states = self.leader().and_then(|leader| {
                self.sim.hosts[leader].look(|m| {
                    let mut states: BTreeMap<TaskState, usize> = BTreeMap::new();
                    for task in m.state().tasks.values() {
                        *states.entry(task.status.state).or_default() += 1;
                    }
                    states
                })
            });
            let states = states.unwrap_or_default();
            if states.get(&TaskState::Running).copied().unwrap_or_default() >= tasks as usize {
                return Ok(());
            }
            anyhow::ensure!(self.sim.now() < end, "not within {LIMIT:?}: {states:?}");
        }
    }

    fn lose_leader(&mut self) -> Result<()> {
        let lost = self.leader().context("nobody leads")?;
        self.sim.hosts[lost].lose_power();
        self.sim.until("another leads", LIMIT, |sim| {
            sim.hosts
                .iter()
                .any(|h| h.look(|m| m.status().is_leader) == Some(true))
        })
    }
}

/// A table for people, in Markdown.
#[must_use]
pub fn table(hosts: usize, parts: &[Part]) -> String {
    let mut text = String::new();
    for part in parts {
        text += &format!(
            "| {hosts} | {} | {:.1} s | {:.2} s | {:.2} s | {} | {:.1} MB |\n",
            part.what,
            part.took.as_secs_f64(),
            part.leader_cpu.as_secs_f64(),
            part.all_cpu.as_secs_f64(),
            part.messages,
            part.bytes as f64 / 1e6,
        );
    }
    text
}
