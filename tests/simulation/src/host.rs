//! One simulated host: its disk, kernel, clock and containers, which outlast the agent, and the agent while it lives, on a
//! runtime of its own. To end an agent at any point is to drop its runtime.

use crate::dice::Dice;
use crate::disk::SimDisk;
use crate::kernel::SimKernel;
use crate::machine::{Machine, SimRuntime};
use crate::network::{Fabric, Micros};
use crate::pace::Pace;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_agent::agent::{Agent, AgentConfig};
use swarm_api::model::{Capacity, Cpus, Timestamp};
use swarm_member::{Clock, Entropy, Shared, World};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// The port that agents listen on.
pub const PORT: u16 = 7946;
/// The wall clock's time when a simulation begins: 2026-01-01.
pub const BEGIN: u64 = 1_767_225_600_000;

/// One host.
pub struct SimHost {
    /// From 0.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its disk.
    pub disk: SimDisk,
    /// Its kernel.
    pub kernel: Arc<SimKernel>,
    /// Its containers.
    pub machine: Arc<Machine>,
    /// How far its wall clock is ahead, in milliseconds.
    pub skew: Arc<AtomicI64>,
    /// How fast its time goes.
    pace: Pace,
    /// The version of the program that is installed.
    pub version: String,
    /// What its replica shares with those of other hosts, if so.
    pub shared: Option<Shared>,
    /// How much processor time its agents have had, where that is measured.
    pub computed: Option<Duration>,
    fabric: Fabric,
    time: Arc<AtomicU64>,
    dice: Dice,
    lives: u64,
    life: Option<Life>,
}

/// An agent that lives.
struct Life {
    agent: Arc<Agent>,
    // By the host's own time.
    began: Micros,
    origin: Instant,
    trouble: Arc<Mutex<Option<String>>>,
    // Last, so that nothing of the agent outlives it in use.
    runtime: Runtime,
}

/// What a call to an agent came to, once it has.
pub struct Call<T>(Arc<Mutex<Option<T>>>);

impl<T> Call<T> {
    /// Takes the outcome, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl SimHost {
    /// A host that is switched off. `time` is the simulation's.
    #[must_use]
    pub fn new(number: usize, fabric: Fabric, time: Arc<AtomicU64>, dice: &Dice) -> Self {
        let dice = dice.fork(1000 + number as u64);
        let [high, low] = u16::try_from(number + 1).unwrap_or_default().to_be_bytes();
        let ip = IpAddr::from([10, 1, high, low]);
        let name = format!("host{}", number + 1);
        let capacity = Capacity {
            cpus: Cpus::whole(8),
            memory: 16 << 30,
        };
        Self {
            number,
            ip,
            disk: SimDisk::new(dice.fork(1)),
            kernel: Arc::new(SimKernel::new(ip, capacity)),
            machine: Arc::new(Machine::new(&name, dice.fork(2))),
            skew: Arc::default(),
            pace: Pace::default(),
            version: "1".into(),
            shared: None,
            computed: None,
            name,
            fabric,
            time,
            dice: dice.fork(3),
            lives: 0,
            life: None,
        }
    }

    /// How many times its agent was started.
    #[must_use]
    pub fn lives(&self) -> u64 {
        self.lives
    }

    /// Where its agent is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT)
    }

    /// The agent, while it lives.
    #[must_use]
    pub fn agent(&self) -> Option<Arc<Agent>> {
        self.life.as_ref().map(|life| Arc::clone(&life.agent))
    }

    /// What kept the agent from taking up its place, or ended it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let life = self.life.as_ref()?;
        let trouble = life.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clone()
    }

    /// The time by its wall clock.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        wall(self.local(), &self.skew)
    }

    /// Its time goes that much faster from now on, of 1000.
    pub fn set_pace(&mut self, ahead: i16) {
        let now = self.time.load(Ordering::Relaxed);
        self.pace.change(now, ahead);
    }

    /// Its time goes as the simulation's from now on, and its wall clock is right.
    pub fn set_clock_right(&mut self) {
        self.set_pace(0);
        let behind = self.time.load(Ordering::Relaxed) as i64 - self.local() as i64;
        self.skew.store(behind / 1000, Ordering::Relaxed);
    }

    fn local(&self) -> Micros {
        self.pace.local(self.time.load(Ordering::Relaxed))
    }

    /// Starts the agent, which takes up the place in the cluster that it had.
    ///
    /// # Errors
    /// When the process can have no further runtime.
    pub fn start(&mut self) -> io::Result<()> {
        self.end();
        self.lives += 1;
        let mut dice = self.dice.fork(self.lives);
        let runtime = runtime(&mut dice)?;
        let began = self.local();
        let origin = runtime.block_on(async { Instant::now() });
        let clock = {
            let skew = Arc::clone(&self.skew);
            // Within a step time goes on by the agent's own timers.
            let clock = move || {
                let age = Instant::now().saturating_duration_since(origin);
                wall(
                    began + u64::try_from(age.as_micros()).unwrap_or_default(),
                    &skew,
                )
            };
            Arc::new(clock) as Clock
        };
        let world = World {
            network: Arc::new(self.fabric.boot(self.ip)),
            storage: Arc::new(self.disk.clone()),
            clock: Arc::clone(&clock),
            entropy: Arc::new(Chance(Mutex::new(dice.fork(7)))),
            shared: self.shared.clone(),
        };
        let config = AgentConfig {
            name: self.name.clone(),
            version: self.version.clone(),
            listen: self.address(),
            advertise: Some(self.ip),
            dns_listen: (SocketAddr::new(self.ip, 53), false),
        };
        let machine = SimRuntime::new(Arc::clone(&self.machine), clock);
        let kernel: Arc<SimKernel> = Arc::clone(&self.kernel);
        let agent = Arc::new(Agent::new(config, world, kernel, Arc::new(machine)));
        let trouble: Arc<Mutex<Option<String>>> = Arc::default();
        runtime.spawn({
            let (agent, trouble) = (Arc::clone(&agent), Arc::clone(&trouble));
            async move {
                if let Err(why) = agent.resume().await {
                    *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
                }
            }
        });
        self.life = Some(Life {
            agent,
            began,
            origin,
            trouble,
            runtime,
        });
        Ok(())
    }

    /// The agent ends at once, as by SIGKILL; the host and its containers go on.
    pub fn kill(&mut self) {
        self.fabric.end(self.ip);
        self.end();
    }

    /// The host loses power.
    pub fn lose_power(&mut self) {
        self.fabric.power_off(self.ip);
        self.end();
        self.disk.lose_power();
        self.kernel.lose_power();
        let now = self.wall();
        self.machine.lose_power(now);
    }

    fn end(&mut self) {
        if let Some(life) = self.life.take() {
            // Its name server has the member.
            self.kernel.end();
            drop(life);
            self.disk.end();
            let now = self.wall();
            self.machine.end(now);
        }
    }

    /// Lets the agent work until the simulation's time is `now`.
    pub fn run_until(&mut self, now: Micros) {
        if let Some(life) = &self.life {
            let start = self.computed.map(|_| processor_time());
            let local = self.pace.local(now);
            let until = life.origin + Duration::from_micros(local.saturating_sub(life.began));
            // What is logged says when and where.
            let _at = tracing::error_span!("", ms = now / 1000, host = self.name).entered();
            // Made within the runtime, whose clock it is to follow.
            (life.runtime).block_on(async move { tokio::time::sleep_until(until).await });
            if let (Some(computed), Some(start)) = (&mut self.computed, start) {
                *computed += processor_time().saturating_sub(start);
            }
        }
    }

    /// Has the agent do something; what it comes to is there later. Nothing comes of it where the agent ends before.
    pub fn call<T, F>(&self, work: impl FnOnce(Arc<Agent>) -> F) -> Call<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        if let Some(life) = &self.life {
            let work = work(Arc::clone(&life.agent));
            let outcome = Arc::clone(&slot);
            life.runtime.spawn(async move {
                let done = work.await;
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
            });
        }
        Call(slot)
    }

    /// Looks at what the agent's member knows, if the agent lives and is in a cluster.
    pub fn look<T>(&self, look: impl FnOnce(&swarm_member::Member) -> T) -> Option<T> {
        let life = self.life.as_ref()?;
        let member = life.agent.try_member()?;
        let _entered = life.runtime.enter();
        Some(look(&member))
    }

    /// How many tasks the agent's async runtime has.
    #[must_use]
    pub fn async_tasks(&self) -> usize {
        let life = self.life.as_ref();
        life.map_or(0, |life| life.runtime.metrics().num_alive_tasks())
    }

    /// Whether its agent was told that it was taken out of the cluster.
    #[must_use]
    pub fn is_taken_out(&self) -> bool {
        self.look(|m| *m.watch_taken_out().borrow())
            .unwrap_or_default()
    }
}

/// What this thread has computed.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn wall(time: Micros, skew: &AtomicI64) -> Timestamp {
    let now = BEGIN + time / 1000;
    Timestamp(now.saturating_add_signed(skew.load(Ordering::Relaxed)))
}

/// A runtime whose clock goes on when nothing is left to do, and only then.
fn runtime(dice: &mut Dice) -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    let seed = dice.draw();
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = seed;
    builder.build()
}

/// Random numbers by seed.
struct Chance(Mutex<Dice>);

impl Entropy for Chance {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill(bytes);
        Ok(())
    }
}
