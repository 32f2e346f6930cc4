//! The containers of a simulated host. They outlast the agent, as those behind shims do, and end with the power; what is
//! known of them is durable.
//!
//! It must not know of clusters: it is asked what a host's runtime is asked.

mod backend;
mod images;

use crate::dice::Dice;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_agent::runtime::Runtime;
use swarm_api::model::{
    ExitStatus, Id, Image, ImageReference, NetworkMode, Task, TaskState, Timestamp,
};
use swarm_api::{BoxStream, Error, Result};
use swarm_member::Clock;
use swarm_runtime::host::{NetworkAttach, TaskOrder};
use tokio::sync::watch;

/// How containers behave, in thousandths and milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// How many of 1000 starts fail.
    pub failing_starts: u64,
    /// How long a start takes, from and to.
    pub start: (u64, u64),
    /// How many of 1000 do not heed the stop signal.
    pub deaf: u64,
    /// A stopped process goes on (a deliberate bug).
    pub zombies: bool,
    /// A started process never runs (a deliberate bug).
    pub stuck: bool,
    /// A start leaves something in memory (a deliberate bug).
    pub leaks: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            failing_starts: 5,
            start: (4, 60),
            deaf: 20,
            zombies: false,
            stuck: false,
            leaks: false,
        }
    }
}

/// A host's containers.
pub struct Machine(Mutex<Inner>);

struct Inner {
    name: String,
    dice: Dice,
    behaviour: Behaviour,
    containers: BTreeMap<Id, Container>,
    /// Processes that go on though their tasks have been removed.
    zombies: Vec<Task>,
    images: BTreeMap<String, Image>,
    layers: BTreeSet<String>,
    pids: i32,
    changed: watch::Sender<u64>,
}

#[derive(Clone)]
struct Container {
    task: Task,
    image: ImageReference,
    stopping: bool,
    network: Option<Arc<dyn NetworkAttach>>,
}

impl Machine {
    /// A host without containers, with the image that comes with the agent.
    #[must_use]
    pub fn new(name: &str, dice: Dice) -> Self {
        let builtin: Vec<Image> = images::builtin().into_iter().collect();
        let images = builtin.into_iter().map(|i| (i.reference.to_string(), i));
        Self(Mutex::new(Inner {
            name: name.to_owned(),
            dice,
            behaviour: Behaviour::default(),
            containers: BTreeMap::new(),
            zombies: Vec::new(),
            images: images.collect(),
            layers: BTreeSet::new(),
            pids: 100,
            changed: watch::Sender::new(0),
        }))
    }

    /// How containers behave from now on.
    pub fn set_behaviour(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.lock().behaviour);
    }

    /// The tasks whose processes run.
    #[must_use]
    pub fn running(&self) -> Vec<Task> {
        let inner = self.lock();
        let runs = |c: &&Container| c.task.status.state == TaskState::Running;
        let running = inner.containers.values().filter(runs);
        let zombies = inner.zombies.iter().cloned();
        running.map(|c| c.task.clone()).chain(zombies).collect()
    }

    /// The process of a running task ends. False if none runs.
    pub fn exit(&self, id: &Id, code: i32, now: Timestamp) -> bool {
        let state = match code {
            0 => TaskState::Complete,
            _ => TaskState::Failed,
        };
        let message = format!("ended with exit code {code}");
        self.lock().finish(id, state, &message, Some(code), now)
    }

    /// The agent has ended: nobody goes on with what was being started.
    pub fn end(&self, now: Timestamp) {
        let mut inner = self.lock();
        inner.changed = watch::Sender::new(0);
        let unfinished: Vec<Id> = (inner.containers.values())
            .filter(|c| c.task.status.state < TaskState::Running)
            .map(|c| c.task.id.clone())
            .collect();
        for id in unfinished {
            let why = "the agent ended while it was started";
            inner.finish(&id, TaskState::Rejected, why, None, now);
        }
        for container in inner.containers.values_mut() {
            container.network = None;
        }
    }

    /// The power is lost, and with it all processes.
    pub fn lose_power(&self, now: Timestamp) {
        self.end(now);
        let mut inner = self.lock();
        let running: Vec<Id> = (inner.containers.values())
            .filter(|c| !c.task.status.state.is_final())
            .map(|c| c.task.id.clone())
            .collect();
        for id in running {
            inner.finish(&id, TaskState::Failed, "the host lost power", None, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touch(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn finish(
        &mut self,
        id: &Id,
        state: TaskState,
        message: &str,
        code: Option<i32>,
        now: Timestamp,
    ) -> bool {
        let Some(container) = self.containers.get_mut(id) else {
            return false;
        };
        let status = &mut container.task.status;
        if status.state.is_final() {
            return false;
        }
        status.state = match (state, container.stopping) {
            (TaskState::Complete | TaskState::Failed, true) => TaskState::Shutdown,
            _ => state,
        };
        status.message = message.to_owned();
        status.exit = code.map(|code| ExitStatus {
            code,
            ..ExitStatus::default()
        });
        status.pid = None;
        status.finished_at = Some(now);
        status.observed_at = now;
        self.touch();
        true
    }

    fn set(&mut self, id: &Id, state: TaskState, now: Timestamp) {
        if let Some(container) = self.containers.get_mut(id) {
            container.task.status.state = state;
            container.task.status.observed_at = now;
            self.touch();
        }
    }
}

/// A host's runtime, as the agent in one life sees it.
#[derive(Clone)]
pub struct SimRuntime {
    machine: Arc<Machine>,
    clock: Clock,
}

impl SimRuntime {
    /// The runtime of this host, with the host's clock.
    #[must_use]
    pub fn new(machine: Arc<Machine>, clock: Clock) -> Self {
        Self { machine, clock }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn state(&self, id: &Id) -> Option<TaskState> {
        let inner = self.machine.lock();
        inner.containers.get(id).map(|c| c.task.status.state)
    }

    /// Waits until the task's state is what is looked for; `None` when the task is gone.
    async fn until(&self, id: &Id, reached: impl Fn(TaskState) -> bool) -> Option<TaskState> {
        let mut changed = Runtime::changes(self);
        loop {
            changed.borrow_and_update();
            let state = self.state(id)?;
            if reached(state) {
                return Some(state);
            }
            if changed.changed().await.is_err() {
                return None;
            }
        }
    }

    async fn start(&self, order: TaskOrder) -> Result<()> {
        let id = order.task.id.clone();
        let behaviour = self.machine.lock().behaviour;
        if behaviour.stuck {
            std::future::pending::<()>().await;
        }
        if behaviour.leaks {
            (0..200).for_each(|_| drop(tokio::spawn(std::future::pending::<()>())));
        }
        let (delay, fails) = {
            let mut inner = self.machine.lock();
            let delay = inner.dice.between(behaviour.start.0, behaviour.start.1);
            (delay, inner.dice.chance(behaviour.failing_starts))
        };
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let started = async {
            if fails {
                return Err(Error::Internal("the container could not be made".into()));
            }
            if let (Some(network), NetworkMode::Cluster(_)) =
                (&order.network, &order.task.spec.network)
            {
                let nowhere =
                    std::fs::File::open("/dev/null").map_err(|e| Error::Internal(e.to_string()))?;
                network.attach(&order.task, nowhere.into()).await?;
            }
            Ok(())
        };
        let outcome = started.await;
        let now = self.now();
        let mut inner = self.machine.lock();
        let Some(container) = inner.containers.get(&id) else {
            return Err(Error::NotFound(format!(
                "the task {id} was removed meanwhile"
            )));
        };
        if container.task.status.state.is_final() {
            return Err(Error::Conflict(
                "it was stopped before it had started".into(),
            ));
        }
        if let Err(why) = outcome {
            inner.finish(&id, TaskState::Rejected, &why.to_string(), None, now);
            return Err(why);
        }
        inner.pids += 1;
        let pid = inner.pids;
        if let Some(container) = inner.containers.get_mut(&id) {
            container.task.status.pid = Some(pid);
            container.task.status.started_at = Some(now);
        }
        inner.set(&id, TaskState::Running, now);
        Ok(())
    }

    async fn stop(&self, id: Id, timeout: Duration) -> Result<()> {
        let patience = {
            let mut inner = self.machine.lock();
            let Some(container) = inner.containers.get_mut(&id) else {
                return Ok(());
            };
            container.stopping = true;
            let behaviour = inner.behaviour;
            if inner.dice.chance(behaviour.deaf) {
                timeout
            } else {
                Duration::from_millis(inner.dice.between(1, 30))
            }
        };
        if self.state(&id).is_some_and(|s| s >= TaskState::Running) {
            tokio::time::sleep(patience).await;
        }
        let now = self.now();
        let mut inner = self.machine.lock();
        inner.finish(&id, TaskState::Shutdown, "stopped as asked", None, now);
        Ok(())
    }
}

#[async_trait]
impl Runtime for SimRuntime {
    async fn run_task(&self, order: TaskOrder) -> Result<()> {
        let id = order.task.id.clone();
        let now = self.now();
        let there = {
            let mut inner = self.machine.lock();
            let there = inner.containers.contains_key(&id);
            if !there {
                let mut task = order.task.clone();
                task.node_name.clone_from(&inner.name);
                task.status.state = TaskState::Starting;
                task.status.observed_at = now;
                let container = Container {
                    task,
                    image: order.image.reference.clone(),
                    stopping: false,
                    network: order.network.clone(),
                };
                inner.containers.insert(id.clone(), container);
                inner.touch();
            }
            there
        };
        if there {
            return match self.until(&id, |s| s >= TaskState::Running).await {
                Some(TaskState::Running) => Ok(()),
                _ => Err(Error::Conflict(format!("the task {id} has ended"))),
            };
        }
        // To its end, whether or not the caller waits for it.
        let this = self.clone();
        tokio::spawn(async move { this.start(order).await })
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
    }

    async fn stop_task(&self, id: &Id, timeout: Duration) -> Result<()> {
        match self.state(id) {
            None => return Err(Error::NotFound(format!("there is no task {id} here"))),
            Some(state) if state.is_final() => return Ok(()),
            Some(_) => {}
        }
        let (this, id) = (self.clone(), id.clone());
        tokio::spawn(async move { this.stop(id, timeout).await })
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
    }

    async fn remove_task(&self, id: &Id) -> Result<()> {
        let network = {
            let now = self.now();
            let mut inner = self.machine.lock();
            inner.finish(id, TaskState::Shutdown, "removed", None, now);
            let gone = inner.containers.remove(id);
            if inner.behaviour.zombies
                && let Some(container) = &gone
            {
                inner.zombies.push(container.task.clone());
            }
            inner.touch();
            gone.and_then(|c| c.network)
        };
        if let Some(network) = network {
            network.detach(id).await;
        }
        Ok(())
    }

    fn cluster_tasks(&self) -> Vec<Task> {
        let inner = self.machine.lock();
        inner.containers.values().map(|c| c.task.clone()).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.machine.lock().changed.subscribe()
    }

    fn image(&self, reference: &ImageReference) -> Option<Image> {
        let inner = self.machine.lock();
        inner.images.get(&reference.to_string()).cloned()
    }

    fn images(&self) -> Vec<Image> {
        self.machine.lock().images.values().cloned().collect()
    }

    fn missing_layers(&self, image: &Image) -> Vec<String> {
        let inner = self.machine.lock();
        if image.builtin {
            return Vec::new();
        }
        let mut missing = image.parts();
        missing.retain(|part| !inner.layers.contains(part));
        missing
    }

    async fn put_layer(&self, digest: &str, archive: BoxStream<Result<Bytes>>) -> Result<()> {
        let pieces: Vec<Bytes> = archive.try_collect().await?;
        if pieces.concat() != images::content(digest) {
            return Err(Error::Invalid(format!("the layer {digest} is damaged")));
        }
        self.machine.lock().layers.insert(digest.to_owned());
        Ok(())
    }

    async fn put_image(&self, image: Image) -> Result<()> {
        if let Some(missing) = self.missing_layers(&image).first() {
            return Err(Error::NotFound(format!("the layer {missing} is not here")));
        }
        let mut inner = self.machine.lock();
        inner.images.insert(image.reference.to_string(), image);
        inner.touch();
        Ok(())
    }

    async fn remove_image(&self, reference: &ImageReference) -> Result<()> {
        let mut inner = self.machine.lock();
        let live = |c: &Container| c.image == *reference && !c.task.status.state.is_final();
        if inner.containers.values().any(live) {
            return Err(Error::Conflict(format!("image {reference} is in use")));
        }
        if inner
            .images
            .get(&reference.to_string())
            .is_some_and(|i| !i.builtin)
        {
            inner.images.remove(&reference.to_string());
            inner.touch();
        }
        Ok(())
    }
}
