//! The agent's side of the shims: creates, finds again, drives and removes containers. Must not know of tasks.
//!
//! One connection stands to each shim: requests go over it, and what happens to the container comes back over it,
//! so that nothing is polled. Streams have connections of their own. The engine holds nothing that cannot be found
//! again: containers go on without it, and `open` finds them.

mod cleanup;
mod connection;
mod container;
mod logs;
mod memory;
pub(crate) mod quota;
mod recover;
mod root;
mod spawn;
mod streams;
mod types;

use crate::container::Cgroup;
use crate::shim::launch::Launch;
use crate::shim::protocol::{Kill, ToShim};
use crate::{Error, Result};
use bytes::Bytes;
use container::{Container, Shared};
use oci_spec::runtime::{Process, Spec};
use std::{
    collections::HashMap,
    fs::DirBuilder,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use swarm_api::BoxStream;
use swarm_api::backend::{AttachOptions, Input, LogOptions, LogStream, Output, WindowSize};
use swarm_api::model::Timestamp;
use tokio::sync::broadcast;

pub use memory::OomWatch;
pub(crate) use root::Root;
pub use types::{ContainerState, CreatedContainer, EngineConfig, Usage};

/// How long a shim may take to end its container before it is killed itself.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How long a shim may stay after its container for clients that have not taken all its output.
const FAREWELL: Duration = Duration::from_secs(1);

/// Changes that a subscriber may be behind before it misses some.
const EVENTS: usize = 4096;

/// All containers of one host. Cheap to clone. Dropping the last clone leaves the containers running.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: EngineConfig,
    boot: String,
    /// The agent's own file, where that is what shims are started from.
    sealed: Option<OwnedFd>,
    containers: Mutex<HashMap<String, Entry>>,
    events: broadcast::Sender<(String, ContainerState)>,
}

#[derive(Debug, Clone)]
enum Entry {
    /// It is being made.
    Reserved,
    Known(Arc<Container>),
}

impl Engine {
    /// Finds the containers of an earlier life again. Those that ended without a record of it are `Stopped`, with
    /// an explanation.
    ///
    /// # Errors
    /// The directories cannot be made or read.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let config = cleanup::blocking(move || {
            Ok(EngineConfig {
                state_dir: directory(&config.state_dir)?,
                run_dir: directory(&config.run_dir)?,
                ..config
            })
        })
        .await?;
        let boot = recover::boot();
        let (events, _) = broadcast::channel(EVENTS);
        let recovering = recover::ids(&config)?.into_iter().map(|id| {
            let (dir, run) = (config.state_dir.join(&id), config.run_dir.join(&id));
            let (boot, events) = (&boot, events.clone());
            async move {
                let container = recover::recover(&id, dir, run, boot, events).await?;
                Ok::<_, Error>((id, Entry::Known(Arc::new(container))))
            }
        });
        let found = futures_util::future::try_join_all(recovering).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                sealed: spawn::seal(&config),
                config,
                boot,
                containers: Mutex::new(found.into_iter().collect()),
                events,
            }),
        })
    }

    /// Makes a container; its process waits for `start`. With layers in `launch` their overlay is the root, and
    /// what is written stays with the container; else the spec's `root.path` is.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; or what the spec, the host or the shim did not allow: nothing is left of it then.
    pub async fn create(&self, id: &str, spec: &Spec, launch: Launch) -> Result<CreatedContainer> {
        check_id(id)?;
        {
            let mut containers = self.containers();
            if containers.contains_key(id) {
                return Err(Error::AlreadyExists(format!(
                    "there is a container {id} already"
                )));
            }
            containers.insert(id.to_owned(), Entry::Reserved);
        }
        let (engine, id, mut spec) = (self.clone(), id.to_owned(), spec.clone());
        // Named here, so that it is found again also where the shim is no more.
        if let Some(linux) = spec.linux_mut()
            && linux.cgroups_path().is_none()
        {
            linux.set_cgroups_path(Some(format!("/swarm/{id}").into()));
        }
        // A task of its own: it is made or not, also if nobody waits for it any more.
        run(async move { engine.make(&id, &spec, launch).await }).await
    }

    async fn make(&self, id: &str, spec: &Spec, launch: Launch) -> Result<CreatedContainer> {
        let config = &self.inner.config;
        let (dir, run) = (self.dir(id), config.run_dir.join(id));
        let boot = self.inner.boot.clone();
        let program = spawn::program(config, self.inner.sealed.as_ref());
        match spawn::spawn(program, &dir, &run, spec, launch, boot).await {
            Ok(spawned) => {
                let state: ContainerState = spawned.opened.phase.into();
                let events = self.inner.events.clone();
                let shared = Shared::new(id, dir, run, state.clone(), events);
                // Told before the shim is listened to, so that a later state cannot come first; and under the
                // lock, so that who hears of it finds it.
                let mut containers = self.containers();
                let _ = self.inner.events.send((id.to_owned(), state));
                let container = Container::connected(
                    shared,
                    spawned.opened.shim,
                    spawned.reader,
                    spawned.writer,
                    Some(spawned.child),
                );
                containers.insert(id.to_owned(), Entry::Known(Arc::new(container)));
                Ok(CreatedContainer {
                    pid: spawned.pid,
                    netns: spawned.netns,
                })
            }
            Err(error) => {
                let removed = self.removed(id);
                if let Err(left) = cleanup::remove_directories(&dir, &run, &removed).await {
                    tracing::warn!(container = id, error = %left, "something of a container that could not be made is left");
                }
                self.containers().remove(id);
                Err(error)
            }
        }
    }

    /// Lets a created container's process run. Returns when its program does.
    ///
    /// # Errors
    /// The program cannot be run: the error names it, and the container is `Stopped`.
    pub async fn start(&self, id: &str) -> Result<()> {
        let container = self.known(id)?;
        if container.state().is_stopped() {
            return Err(Error::Conflict(format!(
                "container {id} cannot be started: it has ended"
            )));
        }
        container.request(ToShim::Start).await
    }

    /// What is known of a container; nothing while it is being made.
    #[must_use]
    pub fn state(&self, id: &str) -> Option<ContainerState> {
        self.known(id).ok().map(|container| container.state())
    }

    /// All containers, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<(String, ContainerState)> {
        let containers = self.containers();
        let known = containers.iter().filter_map(|(id, entry)| match entry {
            Entry::Known(container) => Some((id.clone(), container.state())),
            Entry::Reserved => None,
        });
        known.collect()
    }

    /// Changes of state from now on. Who is too far behind misses some and has to look at `list`.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<(String, ContainerState)> {
        self.inner.events.subscribe()
    }

    /// Waits for a container's end, and returns that state.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn wait(&self, id: &str) -> Result<ContainerState> {
        let container = self.known(id)?;
        Ok(container.shared.stopped().await)
    }

    /// Sends a signal (signal(7)) to a container's first process.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it has ended.
    pub async fn kill(&self, id: &str, signal: i32) -> Result<()> {
        let container = self.known(id)?;
        if container.state().is_stopped() {
            return Err(Error::Conflict(format!(
                "container {id} has ended; no signal can be sent to it"
            )));
        }
        container
            .request(ToShim::Kill(Kill { signal, exec: None }))
            .await
    }

    /// Removes everything of a container: processes, cgroup, what it wrote, its log.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it runs, unless `force`.
    pub async fn delete(&self, id: &str, force: bool) -> Result<()> {
        let container = self.known(id)?;
        let engine = self.clone();
        run(async move { engine.remove(container, force).await }).await
    }

    async fn remove(&self, container: Arc<Container>, force: bool) -> Result<()> {
        let _one = container.removal.lock().await;
        let id = container.id();
        if !self
            .known(id)
            .is_ok_and(|known| Arc::ptr_eq(&known, &container))
        {
            // Another call was faster.
            return Ok(());
        }
        let state = container.state();
        if matches!(state, ContainerState::Running { .. }) && !force {
            return Err(Error::Conflict(format!(
                "container {id} runs; stop it first, or remove it with force"
            )));
        }
        // A shim that has ended need not be asked.
        let _ = container.request(ToShim::Shutdown).await;
        let patience = if state.is_stopped() {
            FAREWELL
        } else {
            SHUTDOWN
        };
        if tokio::time::timeout(patience, container.shared.shim_gone())
            .await
            .is_err()
        {
            if !state.is_stopped() {
                tracing::warn!(
                    container = id,
                    "a shim does not end its container; it is killed"
                );
            }
            // Its connection stands, so the number is still its own.
            if let Some(shim) = container.shim.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(shim, rustix::process::Signal::KILL);
            }
            container.shared.shim_gone().await;
        }
        let Shared { dir, run, .. } = &*container.shared;
        cleanup::remove(id, dir, run, &self.removed(id)).await?;
        self.containers().remove(id);
        Ok(())
    }

    /// Joins the streams of a container's first process. With `replay` all earlier output comes first, from the
    /// log, without gap or double, also where it has ended.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it has ended and no replay is wanted.
    pub async fn attach(
        &self,
        id: &str,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<swarm_api::Result<Output>>> {
        streams::attach(self.known(id)?, options, input).await
    }

    /// Runs a further process in a container and joins its streams. It goes on when the stream is dropped, unless
    /// it has a terminal.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the container does not run; or why the program cannot be run.
    pub async fn exec(
        &self,
        id: &str,
        process: &Process,
        stdin: bool,
        size: Option<WindowSize>,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<swarm_api::Result<Output>>> {
        streams::exec(self.known(id)?, process, stdin, size, input).await
    }

    /// A container's log, line by line. With `follow` it ends when the container has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`]; or the log cannot be read.
    pub async fn logs(
        &self,
        id: &str,
        options: LogOptions,
    ) -> Result<BoxStream<swarm_api::Result<(Timestamp, LogStream, Bytes)>>> {
        logs::logs(self.known(id)?, options).await
    }

    /// Has everything of a container stand still. Returns when it does.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it has ended; or its cgroup cannot be frozen.
    pub async fn pause(&self, id: &str) -> Result<()> {
        self.on_cgroup(id, Cgroup::freeze).await
    }

    /// Has a container that stands still go on. Nothing happens to one that does not.
    ///
    /// # Errors
    /// See [`Engine::pause`].
    pub async fn resume(&self, id: &str) -> Result<()> {
        self.on_cgroup(id, Cgroup::thaw).await
    }

    async fn on_cgroup(&self, id: &str, act: fn(&Cgroup) -> Result<()>) -> Result<()> {
        let container = self.known(id)?;
        let dir = container.shared.dir.clone();
        let ended = Error::Conflict(format!("container {id} has ended"));
        cleanup::blocking(move || match cleanup::cgroup(&dir) {
            Some(cgroup) => act(&cgroup),
            None => Err(ended),
        })
        .await
    }

    /// What a container uses now.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it has ended.
    pub async fn stats(&self, id: &str) -> Result<Usage> {
        let cgroup = self.cgroup(id).await?;
        cleanup::blocking(move || Usage::of(&cgroup)).await
    }

    /// Follows what the kernel kills of a container for want of memory.
    ///
    /// # Errors
    /// When it has ended, or its cgroup does not tell.
    pub async fn oom_watch(&self, id: &str) -> Result<OomWatch> {
        OomWatch::new(self.cgroup(id).await?)
    }

    async fn cgroup(&self, id: &str) -> Result<Cgroup> {
        let container = self.known(id)?;
        let ended = Error::Conflict(format!("container {id} has ended; it uses nothing"));
        if container.state().is_stopped() {
            return Err(ended);
        }
        let dir = container.shared.dir.clone();
        cleanup::blocking(move || cleanup::cgroup(&dir).ok_or(ended)).await
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // A map is whole after every one of its operations.
        self.inner
            .containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, id: &str) -> Result<Arc<Container>> {
        match self.containers().get(id) {
            Some(Entry::Known(container)) => Ok(container.clone()),
            Some(Entry::Reserved) => Err(Error::Conflict(format!(
                "container {id} is still being made"
            ))),
            None => Err(Error::NotFound(format!("there is no container {id}"))),
        }
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.inner.config.state_dir.join(id)
    }

    /// What its directory is called while it is removed.
    fn removed(&self, id: &str) -> PathBuf {
        self.dir(&format!("{}{id}", recover::REMOVED))
    }
}

/// Carries something through, also if its caller has gone.
async fn run<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(e) => Err(Error::Internal(format!("a task of the engine ended: {e}"))),
    }
}

/// Makes a directory for root alone to change and others to pass through, and returns its whole path.
fn directory(path: &Path) -> Result<PathBuf> {
    let made = DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.and_then(|()| path.canonicalize())
        .map_err(|e| Error::io(format!("make the directory {}", path.display()), e))
}

/// An id is one component of a path.
fn check_id(id: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.chars().all(fits) {
        return Err(Error::Invalid(format!(
            "{id:?} cannot be a container's id; use 1 to 128 of the characters a-z, A-Z, 0-9, ., _, - and +, not . at the front"
        )));
    }
    Ok(())
}
