//! Starts, stops and removes one task. What is started is either running when this returns, or nothing is left of it.

use super::types::TaskOrder;
use super::{Inner, blocking, clock, files, health, machine, netns, task_event, volumes};
use crate::container::rootless;
use crate::engine::{ContainerState, quota};
use crate::image;
use crate::oci::{self, Accounts};
use crate::shim::launch::Launch;
use oci_spec::runtime::{Process, Spec};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use swarm_api::backend::ExecSpec;
use swarm_api::model::{
    DesiredState, EventAction, Id, ImageConfig, NetworkMode, Task, TaskState, format_bytes,
};
use swarm_api::{Error, Result};

/// Bytes of a container's log before it is rotated.
const LOG_MAX: u64 = 16 << 20;
/// The largest /etc/passwd that is read.
const ACCOUNTS_MAX: u64 = 4 << 20;
/// How long a killed process may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(30);

impl Inner {
    /// Starts a task to its end, whether or not the caller waits for it.
    pub(super) async fn start_detached(self: &Arc<Self>, order: TaskOrder) -> Result<()> {
        let inner = Arc::clone(self);
        tokio::spawn(async move { inner.start(order).await })
            .await
            .map_err(|e| Error::Internal(format!("the start of a task ended: {e}")))?
    }

    async fn start(self: &Arc<Self>, order: TaskOrder) -> Result<()> {
        let id = order.task.id.clone();
        let Some(work) = self.lock().tasks.get(&id).map(|e| Arc::clone(&e.work)) else {
            return Ok(());
        };
        let _work = work.lock().await;
        let outcome = if self.is_stopping(&id) {
            Err(Error::Conflict(
                "it was stopped before it had started".into(),
            ))
        } else {
            self.make(&order).await
        };
        let Err(why) = outcome else {
            if let Some(state) = self.engine.state(id.as_str()) {
                self.running(&id, &state);
            }
            self.watch_health(&id);
            self.watch_memory(&id);
            // Asked again: an end that was told before the task was known to run was not heard.
            if let Some(state) = self.engine.state(id.as_str()) {
                self.ended(&id, &state);
            }
            return Ok(());
        };
        match self.engine.delete(id.as_str(), true).await {
            Ok(()) | Err(crate::Error::NotFound(_)) => {}
            Err(why) => tracing::warn!(%why, %id, "cannot remove a container that did not start"),
        }
        if let Some(network) = &order.network {
            network.detach(&id).await;
        }
        let stopping = self.is_stopping(&id);
        self.observe(&id, |task| {
            task.status.state = if stopping {
                TaskState::Shutdown
            } else {
                TaskState::Rejected
            };
            task.status.message = why.to_string();
            task.status.finished_at = Some(clock::now());
        });
        Err(why.context(format!("cannot start the task {}", order.task.name)))
    }

    async fn make(self: &Arc<Self>, order: &TaskOrder) -> Result<()> {
        let task = &order.task;
        let state = |state| self.observe(&task.id, |task| task.status.state = state);
        state(TaskState::Preparing);
        health::plan(task, &order.image.config)?;
        let (inner, prepared) = (Arc::clone(self), order.clone());
        let (spec, launch) = blocking(move || inner.prepare(&prepared)).await?;
        state(TaskState::Starting);
        let created = self.engine.create(task.id.as_str(), &spec, launch).await?;
        if let (Some(network), NetworkMode::Cluster(_)) = (&order.network, &task.spec.network) {
            network.attach(task, created.netns).await?;
        } else if task.spec.network != NetworkMode::Host {
            let up = netns::within(created.netns, netns::loopback_up).await;
            up.map_err(|e| crate::Error::io("set the container's loopback interface up", e))?;
        }
        self.engine.start(task.id.as_str()).await?;
        Ok(())
    }

    /// Everything that must be on the disk before the container is made.
    fn prepare(&self, order: &TaskOrder) -> crate::Result<(Spec, Launch)> {
        let task = &order.task;
        let lower = self.store.layer_dirs(&order.image.layers)?;
        self.store.use_image(&order.image.reference);
        let dir = self.disk.task_dir(&task.id);
        files::write(&dir, task, &order.dns, &order.hosts)?;
        let config = &order.image.config;
        volumes::make_ready(task, config, &lower, &dir, &self.volumes())?;
        let accounts = accounts(&lower);
        let spec = self.spec(task, &order.image.config, &order.env, &accounts)?;
        let storage = task.spec.resources.storage;
        if storage.is_some() {
            quota::check(&self.config.data_dir)?;
        }
        let launch = Launch {
            storage,
            lower,
            log_max_bytes: LOG_MAX,
            stdin: task.spec.stdin,
            size: None,
        };
        Ok((spec, launch))
    }

    fn spec(
        &self,
        task: &Task,
        image: &ImageConfig,
        env: &[String],
        accounts: &Accounts,
    ) -> crate::Result<Spec> {
        let mut all = vec![
            format!("SWARM_SERVICE={}", task.service),
            format!("SWARM_TASK_NAME={}", task.name),
            format!("SWARM_TASK_ID={}", task.id),
            format!("SWARM_NODE={}", self.config.node_name),
        ];
        // Who gives the order knows better: a cluster may call this host otherwise.
        all.extend_from_slice(env);
        let mut spec = oci::spec(&oci::Order {
            task,
            image,
            env: &all,
            accounts,
            cgroup: &self.cgroup(&task.id),
            files: &self.disk.task_dir(&task.id),
            volumes: &self.volumes(),
            unnamed: &volumes::unnamed(&task.spec, image, &self.disk.task_dir(&task.id)),
            open_files: machine::open_files(),
            seccomp: crate::container::default_seccomp(),
        })?;
        if rootless::has_one_id()
            && let Some(process) = spec.process_mut()
        {
            // The image's groups are not there.
            process.user_mut().set_additional_gids(None);
        }
        Ok(spec)
    }

    fn cgroup(&self, id: &Id) -> String {
        format!("{}/{id}", self.config.cgroup_parent.trim_end_matches('/'))
    }

    pub(super) fn is_stopping(&self, id: &Id) -> bool {
        self.lock().tasks.get(id).is_none_or(|e| e.record.stopping)
    }

    /// What the image says that a task was started with.
    pub(super) fn image_config(&self, id: &Id) -> Option<ImageConfig> {
        let table = self.lock();
        let image = table.tasks.get(id)?.record.image.as_ref()?;
        Some(image.config.clone())
    }

    fn running(&self, id: &Id, state: &ContainerState) {
        let (pid, since) = match state {
            ContainerState::Running { pid, started_at } => (Some(*pid), Some(*started_at)),
            ContainerState::Stopped { started_at, .. } => (None, *started_at),
            ContainerState::Created { .. } => return,
        };
        let image = self.image_config(id);
        self.observe(id, |task| {
            self.set_unchecked(task, image.as_ref());
            task.status.state = TaskState::Running;
            task.status.message.clear();
            task.status.pid = pid;
            task.status.started_at = since;
        });
    }

    /// Notes that a running task's container has ended, if `state` says so.
    pub(super) fn ended(&self, id: &Id, state: &ContainerState) {
        let ContainerState::Stopped {
            exit,
            started_at,
            finished_at,
            message,
        } = state
        else {
            return;
        };
        let stopping = self.is_stopping(id);
        self.observe(id, |task| {
            // One that is being started is told of by whoever starts it.
            if task.status.state != TaskState::Running {
                return;
            }
            let status = &mut task.status;
            let complaint = health::complaint(status).filter(|_| !stopping);
            status.state = match exit.code {
                _ if stopping => TaskState::Shutdown,
                _ if complaint.is_some() => TaskState::Failed,
                0 if !exit.oom_killed => TaskState::Complete,
                _ => TaskState::Failed,
            };
            status.message = match (exit.oom_killed, exit.signal) {
                (true, _) => match task.spec.resources.memory {
                    Some(limit) => format!(
                        "out of memory: killed by the kernel at its limit of {}",
                        format_bytes(limit)
                    ),
                    None => "out of memory: killed by the kernel".into(),
                },
                _ if stopping => "stopped as asked".into(),
                _ if complaint.is_some() => complaint.unwrap_or_default(),
                (_, Some(signal)) => format!("killed by {}", oci::name_of_signal(signal)),
                _ if exit.code != 0 => format!("ended with exit code {}", exit.code),
                _ => String::new(),
            };
            if !message.is_empty() {
                status.message = if status.message.is_empty() || !exit.oom_killed {
                    message.clone()
                } else {
                    format!("{}; {message}", status.message)
                };
            }
            if exit.oom_killed {
                status.oom_kills = status.oom_kills.max(1);
            }
            status.exit = Some(*exit);
            status.pid = None;
            status.started_at = status.started_at.or(*started_at);
            status.finished_at = Some(*finished_at);
        });
    }

    /// Waits until a task's process runs or ran.
    pub(super) async fn wait_started(&self, id: &Id) -> Result<()> {
        let status = self.wait_for(id, |s| s.state >= TaskState::Running).await?;
        if status.started_at.is_none() && status.state.is_final() {
            return Err(Error::Conflict(format!(
                "the task could not be started: {}",
                status.message
            )));
        }
        Ok(())
    }

    pub(super) async fn stop_task(self: &Arc<Self>, id: &Id, timeout: Duration) -> Result<()> {
        let (work, signal) = {
            let mut table = self.lock();
            let Some(entry) = table.tasks.get_mut(id) else {
                return Err(Error::NotFound(format!(
                    "there is no task {id} on this host"
                )));
            };
            if entry.record.task.status.state.is_final() {
                return Ok(());
            }
            entry.record.stopping = true;
            if !entry.leaving
                && let Err(why) = self.disk.save_task(id, &entry.record)
            {
                tracing::warn!(%why, %id, "a task's record cannot be written");
            }
            let record = &entry.record;
            let config = record
                .image
                .as_ref()
                .map(|i| i.config.clone())
                .unwrap_or_default();
            let signal = oci::stop_signal(&record.task.spec, &config);
            (Arc::clone(&entry.work), signal.unwrap_or(libc::SIGTERM))
        };
        let inner = Arc::clone(self);
        let id = id.clone();
        // To its end, whether or not the caller waits for it.
        tokio::spawn(async move { inner.stop_now(&id, &work, signal, timeout).await })
            .await
            .map_err(|e| Error::Internal(format!("the stop of a task ended: {e}")))?
    }

    async fn stop_now(
        self: &Arc<Self>,
        id: &Id,
        work: &tokio::sync::Mutex<()>,
        signal: i32,
        timeout: Duration,
    ) -> Result<()> {
        let _work = work.lock().await;
        let state = match self.lock().task(id) {
            Some(task) => task.status.state,
            None => return Ok(()),
        };
        if state < TaskState::Running {
            // Nobody starts it now: whoever does holds the lock, and finds that it is to stop.
            self.observe(id, |task| {
                task.status.state = TaskState::Shutdown;
                task.status.message = "stopped before it had started".into();
                task.status.finished_at = Some(clock::now());
            });
            return Ok(());
        }
        self.end_process(id, signal, timeout).await
    }

    /// Ends a task's process: the signal, and SIGKILL after `timeout`. Returns when it has ended.
    pub(super) async fn end_process(
        self: &Arc<Self>,
        id: &Id,
        signal: i32,
        timeout: Duration,
    ) -> Result<()> {
        let ended = || async {
            match self.wait_for(id, |s| s.state.is_final()).await {
                Ok(_) | Err(Error::NotFound(_)) => Ok(()),
                Err(e) => Err(e),
            }
        };
        for (signal, patience) in [(signal, timeout), (libc::SIGKILL, KILL_WAIT)] {
            if let Err(why) = self.engine.kill(id.as_str(), signal).await {
                tracing::debug!(%why, %id, signal, "a signal was not delivered");
            }
            if let Ok(outcome) = tokio::time::timeout(patience, ended()).await {
                return outcome;
            }
        }
        Err(Error::Internal(format!(
            "the task {id} is still there {} s after SIGKILL: its process may hang in the kernel",
            KILL_WAIT.as_secs()
        )))
    }

    pub(super) async fn remove_task(self: &Arc<Self>, id: &Id) -> Result<()> {
        let inner = Arc::clone(self);
        let id = id.clone();
        tokio::spawn(async move { inner.remove_now(&id).await })
            .await
            .map_err(|e| Error::Internal(format!("the removal of a task ended: {e}")))?
    }

    async fn remove_now(self: &Arc<Self>, id: &Id) -> Result<()> {
        let (work, network) = {
            let mut table = self.lock();
            let Some(entry) = table.tasks.get_mut(id) else {
                return Ok(());
            };
            entry.record.stopping = true;
            entry.record.task.desired = DesiredState::Removed;
            if !entry.leaving
                && let Err(why) = self.disk.save_task(id, &entry.record)
            {
                tracing::warn!(%why, %id, "a task's record cannot be written");
            }
            (Arc::clone(&entry.work), entry.network.clone())
        };
        let _work = work.lock().await;
        match self.engine.delete(id.as_str(), true).await {
            Ok(()) | Err(crate::Error::NotFound(_)) => {}
            Err(e) => return Err(Error::from(e).context(format!("cannot remove the task {id}"))),
        }
        let later = || {
            self.network
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        if let Some(network) = network.or_else(later) {
            network.detach(id).await;
        }
        if let Some(entry) = self.lock().tasks.get_mut(id) {
            entry.leaving = true;
        }
        let inner = Arc::clone(self);
        let gone = id.clone();
        blocking(move || inner.disk.remove_task(&gone)).await?;
        {
            let mut table = self.lock();
            if let Some(entry) = table.tasks.remove(id) {
                let event = task_event(&entry.record.task, EventAction::Removed);
                self.tell(&mut table, event);
            }
        }
        self.notify();
        Ok(())
    }

    /// A further process for a task's container, like its first one. Users are those that the container has now.
    pub(super) fn further_process(&self, task: &Task, exec: &ExecSpec) -> crate::Result<Process> {
        let record = self.lock().tasks.get(&task.id).map(|e| e.record.clone());
        let Some((image, env)) = record.and_then(|r| Some((r.image?, r.env))) else {
            return Err(crate::Error::Conflict(format!(
                "the task {} was removed meanwhile",
                task.name
            )));
        };
        let mut dirs = vec![self.container_dir(&task.id).join("upper")];
        dirs.extend(self.store.layer_dirs(&image.layers)?);
        let accounts = accounts(&dirs);
        let spec = self.spec(task, &image.config, &env, &accounts)?;
        let first = spec.process().as_ref().ok_or_else(|| {
            crate::Error::Internal(format!("the task {} has no process in its spec", task.name))
        })?;
        oci::exec(first, &accounts, exec)
    }
}

fn accounts(layers: &[PathBuf]) -> Accounts {
    let read = |name| image::read_file(layers, "etc", name, ACCOUNTS_MAX);
    Accounts::new(read("passwd"), read("group"))
}
