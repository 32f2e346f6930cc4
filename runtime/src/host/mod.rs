//! One host as a `Backend`: its own services, the tasks that a cluster wants here, their containers, and images.
//! Must not know how a cluster decides.
//!
//! `table` and `plan` are pure: what is known, and what the host's own services need next. `run` starts, stops and
//! removes one task, for the cluster and for the host's services alike; `own` carries the plan out; `backend` answers
//! the verbs; `streams` is what flows; `disk`, `files`, `machine` and `clock` are the host's sides of it.

mod backend;
mod clock;
mod copy;
mod disk;
mod files;
mod gc;
mod health;
mod images;
mod machine;
mod memory;
mod netns;
mod own;
mod plan;
mod run;
mod streams;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod usage;
mod volumes;

use crate::engine::{ContainerState, Engine, EngineConfig};
use crate::image::Store;
use crate::image::neighbours::Neighbours;
use crate::image::pull::Puller;
use crate::image::push::Pusher;
use crate::registry::Registry;
use bytes::Bytes;
use disk::Disk;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use swarm_api::model::{
    Event, EventAction, Id, Image, ImageReference, Kind, Task, TaskState, TaskStatus, Timestamp,
};
use swarm_api::{BoxStream, Error, Result};
use table::{Entry, Origin, Record, Table, task_attributes};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use gc::GcPolicy;
pub use types::{BuiltinImage, Dns, HostConfig, NetworkAttach, TaskOrder};
pub(crate) use usage::on_disk;

/// One host's runtime. Its containers outlive it.
pub struct Host {
    inner: Arc<Inner>,
    _stop: DropGuard,
}

pub(crate) struct Inner {
    config: HostConfig,
    store: Store,
    puller: Puller,
    pusher: Pusher,
    engine: Engine,
    disk: Disk,
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    /// Wakes the loop that carries out what the host's own services need.
    wake: Arc<Notify>,
    /// What disconnects tasks of an earlier life.
    network: Mutex<Option<Arc<dyn NetworkAttach>>>,
    /// Ends what goes on in the background.
    stop: CancellationToken,
}

impl Host {
    /// Opens what is below the data directory: images, records, and the containers that still run.
    ///
    /// # Errors
    /// Where the data directory cannot be used.
    pub async fn open(config: HostConfig) -> Result<Arc<Self>> {
        let engine = Engine::open(EngineConfig {
            state_dir: config.data_dir.join("containers"),
            run_dir: config.run_dir.join("containers"),
            shim: config.shim.clone(),
        })
        .await?;
        let ended = engine.subscribe();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let inner = blocking(move || Inner::open(config, engine, stopped)).await?;
        let host = Arc::new(Self {
            inner: Arc::new(inner),
            _stop: stop.clone().drop_guard(),
        });
        host.inner.recover().await;
        tokio::spawn(follow_engine(
            Arc::downgrade(&host.inner),
            ended,
            stop.clone(),
        ));
        tokio::spawn(own::carry_out(Arc::downgrade(&host.inner), stop));
        Ok(host)
    }

    /// Makes and starts one container for the cluster. Does nothing more for a task that is here already. Returns when
    /// its process runs.
    ///
    /// # Errors
    /// Why it could not be made or started; nothing is left of it then but its record, which says so as well.
    pub async fn run_task(&self, order: TaskOrder) -> Result<()> {
        let id = order.task.id.clone();
        if id.as_str().is_empty() || !id.as_str().bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::Invalid(format!("\"{id}\" is not a task's id")));
        }
        if !self.inner.add_of_cluster(&order)? {
            return self.inner.wait_started(&id).await;
        }
        self.inner.start_detached(order).await
    }

    /// Stops a task: its stop signal, SIGKILL after `timeout`. Returns when it has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such task.
    pub async fn stop_task(&self, id: &Id, timeout: Duration) -> Result<()> {
        self.inner.stop_task(id, timeout).await
    }

    /// Removes a task: kills what runs, disconnects it, and removes everything of it. No error if it is not there.
    ///
    /// # Errors
    /// Where something of it cannot be removed.
    pub async fn remove_task(&self, id: &Id) -> Result<()> {
        self.inner.remove_task(id).await
    }

    /// The tasks that came by [`Host::run_task`], as they were last observed.
    #[must_use]
    pub fn cluster_tasks(&self) -> Vec<Task> {
        self.inner
            .lock()
            .tasks_of(Origin::Cluster)
            .cloned()
            .collect()
    }

    /// What disconnects tasks that were started in an earlier life of this program.
    pub fn set_network(&self, network: Arc<dyn NetworkAttach>) {
        *self
            .inner
            .network
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(network);
    }

    /// A number that changes whenever any task does.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// One image that is here.
    #[must_use]
    pub fn image(&self, reference: &ImageReference) -> Option<Image> {
        self.inner.store.image(reference)
    }

    /// All images that are here.
    #[must_use]
    pub fn images(&self) -> Vec<Image> {
        self.inner.store.images()
    }

    /// The digests of the image's parts that are not here: layers, and the documents that describe it.
    #[must_use]
    pub fn has_layers(&self, image: &Image) -> Vec<String> {
        self.inner.store.missing_parts(image)
    }

    /// Takes one part of an image in, a layer's archive or a document, and checks its digest.
    ///
    /// # Errors
    /// See [`Store::put_layer`].
    pub async fn put_layer(&self, digest: &str, archive: BoxStream<Result<Bytes>>) -> Result<()> {
        self.inner.store.put_layer(digest, archive).await
    }

    /// One part of an image for one who checks its digest; see [`Store::give_layer`].
    ///
    /// # Errors
    /// See there.
    pub fn give_layer(&self, digest: &str) -> Result<BoxStream<Result<Bytes>>> {
        Ok(self.inner.store.give_layer(digest)?)
    }

    /// Asks these before a registry from now on.
    pub fn share(&self, neighbours: Option<Arc<dyn Neighbours>>) {
        self.inner.puller.share(neighbours);
    }

    /// Adds an image whose parts are here, in place of one of that name.
    ///
    /// # Errors
    /// See [`Store::put_image`].
    pub async fn put_image(&self, image: Image) -> Result<()> {
        let store = self.inner.store.clone();
        Ok(blocking(move || store.put_image(image)).await?)
    }

    /// How often [`Host::overdue_images`] is to be asked.
    #[must_use]
    pub fn collect_interval(&self) -> Option<Duration> {
        self.inner.config.gc.interval
    }

    /// The names of images that may go because nobody has used them for long, or because the disk is full, and when each was
    /// used last. `wanted` says what must stay although nothing here uses it, `elsewhere` what can be had from others
    /// again; what came from a registry always can.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn overdue_images(
        &self,
        wanted: impl Fn(&Image) -> bool + Send + 'static,
        elsewhere: impl Fn(&Image) -> bool + Send + 'static,
    ) -> Result<Vec<(ImageReference, Timestamp)>> {
        let inner = Arc::clone(&self.inner);
        let found = blocking(move || inner.overdue(&wanted, &elsewhere)).await;
        Ok(found?)
    }

    /// Removes an image unless it was used after `used_at`, or is now. Whether it did.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn evict_image(
        &self,
        reference: &ImageReference,
        used_at: Timestamp,
    ) -> Result<bool> {
        let Some(image) = self.inner.store.image(reference) else {
            return Ok(true);
        };
        if !self.inner.lock().users_of_image(&image).is_empty() {
            return Ok(false);
        }
        let (store, reference) = (self.inner.store.clone(), reference.clone());
        let gone = blocking(move || store.remove_unused(&reference, used_at)).await?;
        if gone {
            self.inner.collect_layers().await;
        }
        Ok(gone)
    }

    /// Removes an image, and its layers where nothing else uses them. Containers that use it go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not here.
    pub async fn remove_image(&self, reference: &ImageReference) -> Result<()> {
        let (store, reference) = (self.inner.store.clone(), reference.clone());
        blocking(move || store.remove_image(&reference)).await?;
        self.inner.collect_layers().await;
        Ok(())
    }
}

/// Runs what may wait for the disk in a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> crate::Result<T> + Send + 'static,
) -> crate::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| crate::Error::Internal(format!("a thread of the host ended: {e}")))?
}

impl Inner {
    fn open(config: HostConfig, engine: Engine, stop: CancellationToken) -> crate::Result<Self> {
        let store = Store::open(&config.data_dir)?;
        for image in &config.builtin {
            store.add_builtin(&image.reference, &image.config, &image.files, clock::now())?;
        }
        let disk = Disk::open(&config.data_dir)?;
        let mut table = Table::default();
        for service in disk.services::<swarm_api::model::Service>()? {
            table.services.insert(service.id.clone(), service);
        }
        for record in disk.tasks::<Record>()? {
            table
                .tasks
                .insert(record.task.id.clone(), Entry::new(record));
        }
        // Layers of images that came only by half.
        store.collect(|| table.layers())?;
        let registry = Registry::new(config.registry.clone());
        Ok(Self {
            puller: Puller::new(store.clone(), registry.clone()),
            pusher: Pusher::new(store.clone(), registry),
            store,
            engine,
            disk,
            table: Mutex::new(table),
            changes: watch::Sender::new(0),
            events: broadcast::Sender::new(256),
            wake: Arc::default(),
            network: Mutex::default(),
            stop,
            config,
        })
    }

    /// Brings the records and the containers of an earlier life together.
    async fn recover(self: &Arc<Self>) {
        let records: Vec<(Id, TaskState)> = {
            let table = self.lock();
            let of = |e: &Entry| (e.record.task.id.clone(), e.record.task.status.state);
            table.tasks.values().map(of).collect()
        };
        for (id, _) in self.engine.list() {
            if !records.iter().any(|(known, _)| known.as_str() == id) {
                tracing::warn!(id, "a container without a record is removed");
                if let Err(why) = self.engine.delete(&id, true).await {
                    tracing::warn!(%why, id, "cannot remove a container");
                }
            }
        }
        for (id, state) in records {
            match self.engine.state(id.as_str()) {
                Some(ContainerState::Running { pid, started_at }) => {
                    let image = self.image_config(&id);
                    self.observe(&id, |task| {
                        if !task.status.state.is_final() {
                            self.set_unchecked(task, image.as_ref());
                            task.status.state = TaskState::Running;
                            task.status.pid = Some(pid);
                            task.status.started_at = Some(started_at);
                            task.status.message.clear();
                        }
                    });
                    self.watch_health(&id);
                    self.watch_memory(&id);
                }
                // It ended while nobody looked, or was about to be started and never was.
                Some(
                    stopped @ ContainerState::Stopped {
                        started_at: Some(_),
                        ..
                    },
                ) => {
                    self.ended(&id, &stopped);
                }
                _ if state == TaskState::Pending || state.is_final() => {}
                None if state == TaskState::Running => self.observe(&id, |task| {
                    task.status.state = TaskState::Failed;
                    task.status.message = "its container is not there any more".into();
                    task.status.pid = None;
                    task.status.finished_at = Some(clock::now());
                }),
                _ => self.start_over(&id).await,
            }
        }
    }

    /// A task whose start was cut off: the cluster's is forgotten, so that it is asked for again; the host's own waits
    /// anew.
    async fn start_over(self: &Arc<Self>, id: &Id) {
        if let Err(why) = self.engine.delete(id.as_str(), true).await
            && !matches!(why, crate::Error::NotFound(_))
        {
            tracing::warn!(%why, %id, "cannot remove a container that was not started");
        }
        let own = {
            let mut table = self.lock();
            let own = table
                .tasks
                .get_mut(id)
                .filter(|e| e.record.origin == Origin::Host);
            own.map(|entry| entry.record.task.status = TaskStatus::default())
                .is_some()
        };
        if !own && let Err(why) = self.remove_task(id).await {
            tracing::warn!(%why, %id, "cannot remove a task that was not started");
        }
    }

    fn overdue(
        &self,
        wanted: &dyn Fn(&Image) -> bool,
        elsewhere: &dyn Fn(&Image) -> bool,
    ) -> crate::Result<Vec<(ImageReference, Timestamp)>> {
        let images = self.store.images();
        let held = self.lock().layers();
        let candidate = |image: &Image| gc::Candidate {
            reference: image.reference.clone(),
            digest: image.digest.clone(),
            layers: image.layers.clone(),
            used_at: self.store.used_at(&image.reference),
            kept: image.builtin
                || held.contains(&image.digest)
                || wanted(image)
                || !self.lock().users_of_image(image).is_empty(),
            elsewhere: image.manifest.is_some() || elsewhere(image),
        };
        let candidates: Vec<gc::Candidate> = images.iter().map(candidate).collect();
        let disk = usage::disk(&self.config.data_dir)?;
        let layers = self.store.layer_sizes()?;
        Ok(gc::doomed(
            &self.config.gc,
            disk,
            &candidates,
            &layers,
            &held,
            clock::now(),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changes.send_modify(|n| *n += 1);
        self.wake.notify_one();
    }

    /// Adds a task; it is on the disk when this returns.
    fn add(
        &self,
        table: &mut Table,
        record: Record,
        network: Option<Arc<dyn NetworkAttach>>,
    ) -> Result<()> {
        self.disk.save_task(&record.task.id, &record)?;
        let event = task_event(&record.task, EventAction::Created);
        let mut entry = Entry::new(record);
        entry.network = network;
        table.tasks.insert(entry.record.task.id.clone(), entry);
        self.tell(table, event);
        Ok(())
    }

    /// Adds a task of the cluster; whether it is new.
    fn add_of_cluster(&self, order: &TaskOrder) -> Result<bool> {
        let mut task = order.task.clone();
        task.node_name.clone_from(&self.config.node_name);
        task.status = TaskStatus {
            state: TaskState::Preparing,
            observed_at: clock::now(),
            ..TaskStatus::default()
        };
        let record = Record {
            origin: Origin::Cluster,
            task,
            image: Some(order.image.clone()),
            env: order.env.clone(),
            stopping: false,
        };
        {
            let mut table = self.lock();
            if table.tasks.contains_key(&order.task.id) {
                return Ok(false);
            }
            self.add(&mut table, record, order.network.clone())?;
        }
        self.notify();
        Ok(true)
    }

    fn tell(&self, table: &mut Table, event: Event) {
        let event = table.note(event);
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Changes what is known of a task, and tells of it where that is something new.
    fn observe(&self, id: &Id, change: impl FnOnce(&mut Task)) {
        let mut table = self.lock();
        let Some(entry) = table.tasks.get_mut(id) else {
            return;
        };
        let before = entry.record.task.clone();
        if before.status.state.is_final() {
            return;
        }
        change(&mut entry.record.task);
        if entry.record.task == before {
            return;
        }
        entry.record.task.status.observed_at = clock::now();
        if !entry.leaving
            && let Err(why) = self.disk.save_task(id, &entry.record)
        {
            tracing::warn!(%why, task = before.name, "a task's record cannot be written");
        }
        let event = task_event(&entry.record.task, EventAction::Updated);
        self.tell(&mut table, event);
        drop(table);
        self.notify();
    }

    /// Waits until `done` says so of a task's status.
    async fn wait_for(&self, id: &Id, done: impl Fn(&TaskStatus) -> bool) -> Result<TaskStatus> {
        let mut changes = self.changes.subscribe();
        loop {
            match self.lock().task(id) {
                Some(task) if done(&task.status) => return Ok(task.status.clone()),
                Some(_) => {}
                None => {
                    return Err(Error::NotFound(format!(
                        "the task {id} was removed from this host meanwhile"
                    )));
                }
            }
            if changes.changed().await.is_err() {
                return Err(Error::Unavailable("this host's runtime is ending".into()));
            }
        }
    }

    /// Removes the layers that nothing uses.
    async fn collect_layers(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        let collected = blocking(move || inner.store.collect(|| inner.lock().layers())).await;
        if let Err(why) = collected {
            tracing::warn!(%why, "layers that nothing uses cannot be removed");
        }
    }
}

/// Passes on what the engine sees.
async fn follow_engine(
    inner: Weak<Inner>,
    mut ended: broadcast::Receiver<(String, ContainerState)>,
    stop: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            event = ended.recv() => event,
            () = stop.cancelled() => return,
        };
        let Some(inner) = inner.upgrade() else {
            return;
        };
        match event {
            Ok((id, state)) => inner.ended(&Id::from_text(id), &state),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                for (id, state) in inner.engine.list() {
                    inner.ended(&Id::from_text(id), &state);
                }
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn task_event(task: &Task, action: EventAction) -> Event {
    Event {
        index: 0,
        time: clock::now(),
        kind: Kind::Task,
        id: task.id.clone(),
        name: task.name.clone(),
        action,
        attributes: task_attributes(task),
    }
}

fn service_event(service: &swarm_api::model::Service, action: EventAction) -> Event {
    let replicas = service.spec.replicas.to_string();
    Event {
        index: 0,
        time: clock::now(),
        kind: Kind::Service,
        id: service.id.clone(),
        name: service.spec.name.clone(),
        action,
        attributes: [("replicas".to_owned(), replicas)].into(),
    }
}

/// Where a path of the data directory is.
impl Inner {
    fn volumes(&self) -> PathBuf {
        self.config.data_dir.join("volumes")
    }

    fn container_dir(&self, id: &Id) -> PathBuf {
        self.config.data_dir.join("containers").join(id.as_str())
    }
}

/// A time that is not known.
const NEVER: Timestamp = Timestamp(0);
