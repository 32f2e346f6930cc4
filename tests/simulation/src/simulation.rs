//! The simulation: hosts, the network between them, and time, which goes on in steps. In each step what is due arrives, and
//! then every agent works until the step's end.

use crate::dice::Dice;
use crate::host::{Call, SimHost};
use crate::network::{Fabric, Micros};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use swarm_agent::agent::Agent;
use swarm_api::Control;
use swarm_api::control::{Joined, Token};
use swarm_api::model::NodeRole;
use swarm_member::Shared;

/// How long a step is; nothing that is sent arrives sooner.
pub const STEP: Micros = 2_000;
/// How long something may take that must work.
const PATIENCE: Duration = Duration::from_secs(120);

/// Hosts, the network between them, and time.
pub struct Simulation {
    /// The network.
    pub fabric: Fabric,
    /// The hosts, by number.
    pub hosts: Vec<SimHost>,
    /// Chance, for who drives it.
    pub dice: Dice,
    time: Arc<AtomicU64>,
    now: Micros,
    seed: Dice,
    /// From which host on replicas share what is the same in all.
    sharing: Option<(usize, Shared)>,
    /// Whether what hosts compute is measured.
    measured: bool,
}

impl Simulation {
    /// No hosts yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let seed = Dice::new(seed);
        Self {
            fabric: Fabric::new(seed.fork(1)),
            hosts: Vec::new(),
            dice: seed.fork(2),
            time: Arc::default(),
            now: 0,
            seed,
            sharing: None,
            measured: false,
        }
    }

    /// The replicas of all hosts but the first `count` share from now on what is the same in all. Not for simulations that
    /// compare them.
    pub fn share_replicas_after(&mut self, count: usize) {
        self.sharing = Some((count, Shared::default()));
    }

    /// What the hosts that are added from now on compute is measured, which takes a quarter of a simulation's own time.
    pub fn measure(&mut self) {
        self.measured = true;
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// Adds a host and starts its agent, which is in no cluster.
    ///
    /// # Errors
    /// When the process can have no further runtime.
    pub fn add_host(&mut self) -> anyhow::Result<usize> {
        let number = self.hosts.len();
        let time = Arc::clone(&self.time);
        let mut host = SimHost::new(number, self.fabric.clone(), time, &self.seed);
        host.shared = (self.sharing.as_ref())
            .filter(|(first, _)| number >= *first)
            .map(|(_, shared)| shared.clone());
        host.computed = self.measured.then_some(Duration::ZERO);
        host.start()?;
        self.hosts.push(host);
        Ok(number)
    }

    /// A cluster of that many hosts, `managers` of which may vote.
    ///
    /// # Errors
    /// When it does not come about.
    pub fn cluster(&mut self, hosts: usize, managers: usize) -> anyhow::Result<()> {
        let first = self.add_host()?;
        let ip = self.hosts[first].ip;
        let founded = self.call(
            first,
            move |agent| async move { agent.init(Some(ip)).await },
        );
        self.finish("founding", &founded)??;
        for number in 1..hosts {
            let role = if number < managers {
                NodeRole::Manager
            } else {
                NodeRole::Worker
            };
            let host = self.add_host()?;
            let joined = self.join(first, host, role)?;
            self.finish("joining", &joined)??;
        }
        Ok(())
    }

    /// Has a host join the cluster of another one, with a new token.
    ///
    /// # Errors
    /// When there is no token to be had.
    pub fn join(
        &mut self,
        at: usize,
        host: usize,
        role: NodeRole,
    ) -> anyhow::Result<Call<swarm_api::Result<Joined>>> {
        let token = self.token(at, role)?;
        Ok(self.join_with(at, host, &token))
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn token(&mut self, at: usize, role: NodeRole) -> anyhow::Result<Token> {
        let token = self.call(at, move |agent| async move {
            agent.create_token(role, Duration::from_secs(3600)).await
        });
        Ok(self.finish("making a token", &token)??)
    }

    /// Has a host join the cluster of another one.
    pub fn join_with(
        &self,
        at: usize,
        host: usize,
        token: &Token,
    ) -> Call<swarm_api::Result<Joined>> {
        let peer = self.hosts[at].address().to_string();
        let secret = token.secret.clone().unwrap_or_default();
        self.call(host, move |agent| async move {
            agent.join(peer, secret, None).await
        })
    }

    /// Has an agent do something; see [`SimHost::call`].
    pub fn call<T, F>(&self, host: usize, work: impl FnOnce(Arc<Agent>) -> F) -> Call<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.hosts[host].call(work)
    }

    /// Goes on until a call has come to something.
    ///
    /// # Errors
    /// When it does not within two minutes of virtual time.
    pub fn finish<T>(&mut self, what: &str, call: &Call<T>) -> anyhow::Result<T> {
        let limit = self.now() + PATIENCE;
        while self.now() < limit {
            if let Some(outcome) = call.take() {
                return Ok(outcome);
            }
            self.step();
        }
        anyhow::bail!("{what}: nothing came of it within {PATIENCE:?}")
    }

    /// Goes on until something is so.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut so: impl FnMut(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let end = self.now() + limit;
        loop {
            if so(self) {
                return Ok(());
            }
            anyhow::ensure!(self.now() < end, "{what}: not within {limit:?}");
            self.step();
        }
    }

    /// Goes on for that long.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            self.step();
        }
    }

    /// Time goes on by one step.
    pub fn step(&mut self) {
        self.now += STEP;
        self.time.store(self.now, Ordering::Relaxed);
        self.fabric.advance(self.now);
        for host in &mut self.hosts {
            host.run_until(self.now);
        }
    }
}
