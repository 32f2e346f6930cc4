//! The verbs, answered by one host.

use super::table::{Table, none_of};
use super::{Host, Inner, clock, machine};
use crate::oci;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::time::Duration;
use swarm_api::backend::{
    AttachOptions, CommitOptions, Create, ExecSpec, FileStat, Input, LogOptions, LogRecord, Output,
    PullEvent, PullOptions, PullPolicy, PushEvent, Stats, Update,
};
use swarm_api::model::{
    Answer, DiskUsage, Endpoint, Event, ExitStatus, HistoryEntry, Image, ImageConfig,
    ImageReference, Info, Kind, Lookup, Node, Object, Query, Read, Scope, Task, TaskState,
};
use swarm_api::{Backend, BoxStream, Error, Result};

fn fresh<T>(value: T) -> Answer<T> {
    Answer {
        value,
        freshness: Default::default(),
    }
}

fn no_networks() -> Error {
    Error::Unsupported(
        "one host's runtime has no networks: they need a cluster (swarmctl init)".into(),
    )
}

#[async_trait]
impl Backend for Host {
    async fn info(&self) -> Result<Info> {
        let config = &self.inner.config;
        Ok(Info {
            scope: Scope::Host,
            version: config.version.clone(),
            node: None,
            node_name: config.node_name.clone(),
            cluster: None,
            leader: None,
            term: 0,
            applied: self.inner.lock().index,
            voters: Vec::new(),
            warnings: machine::warnings(config),
        })
    }

    async fn list(&self, query: Query) -> Result<Answer<Vec<Object>>> {
        let config = &self.inner.config;
        let objects = match query.kind {
            Kind::Node => vec![Object::Node(machine::node(config))],
            Kind::Image => self.images().into_iter().map(Object::Image).collect(),
            Kind::Network => Vec::new(),
            Kind::Task => {
                let tasks = self.inner.lock().list_tasks(&query, &config.node_name);
                tasks.into_iter().map(Object::Task).collect()
            }
            Kind::Service => {
                let table = self.inner.lock();
                let mut services: Vec<_> =
                    table.services.values().map(|s| table.counted(s)).collect();
                services.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
                services.into_iter().map(Object::Service).collect()
            }
        };
        Ok(fresh(objects))
    }

    async fn get(&self, kind: Kind, name: String, _read: Read) -> Result<Answer<Object>> {
        let object = match kind {
            Kind::Node => self.inner.this_node(&name).map(Object::Node)?,
            Kind::Image => self
                .inner
                .image_or_error(&name.parse()?)
                .map(Object::Image)?,
            Kind::Network => return Err(none_of(kind, &name)),
            Kind::Task => Object::Task(self.inner.lock().find_task(&name)?.clone()),
            Kind::Service => {
                let table = self.inner.lock();
                let service = table
                    .service(&name)
                    .ok_or_else(|| Table::no_service(&name))?;
                Object::Service(table.counted(service))
            }
        };
        Ok(fresh(object))
    }

    async fn create(&self, what: Create) -> Result<Object> {
        match what {
            Create::Service(spec) => self.inner.create_service(spec).map(Object::Service),
            Create::Network(_) => Err(no_networks()),
        }
    }

    async fn update(&self, what: Update) -> Result<Object> {
        match what {
            Update::Service(name, change) => self
                .inner
                .scale(&name, change.replicas)
                .map(Object::Service),
            Update::Node(name, _) => {
                self.inner.this_node(&name)?;
                Err(Error::Unsupported(
                    "a host alone has neither labels nor availability: they need a cluster (swarmctl init)".into(),
                ))
            }
        }
    }

    async fn remove(&self, kind: Kind, name: String, force: bool) -> Result<()> {
        match kind {
            Kind::Service => self.inner.remove_service(&name, force).await,
            Kind::Task => self.inner.remove_own_task(&name, force).await,
            Kind::Image => {
                let reference: ImageReference = name.parse()?;
                self.inner.refuse_image_in_use(&reference)?;
                self.remove_image(&reference).await
            }
            Kind::Network => Err(none_of(kind, &name)),
            Kind::Node => {
                self.inner.this_node(&name)?;
                Err(Error::Unsupported(
                    "this host cannot be removed from itself; in a cluster, use `swarmctl node rm` without --host".into(),
                ))
            }
        }
    }

    async fn stop(&self, name: String, timeout: Option<Duration>) -> Result<()> {
        self.inner.stop(&name, timeout).await
    }

    async fn kill(&self, task: String, signal: i32) -> Result<()> {
        let task = self.inner.lock().find_task(&task)?.clone();
        if task.status.state != TaskState::Running {
            return Err(Error::Conflict(format!(
                "cannot send a signal to the task {}: it is {}, not running",
                task.name, task.status.state
            )));
        }
        Ok(self.inner.engine.kill(task.id.as_str(), signal).await?)
    }

    async fn wait(&self, task: String) -> Result<ExitStatus> {
        let task = self.inner.lock().find_task(&task)?.clone();
        let status = self
            .inner
            .wait_for(&task.id, |s| s.state.is_final())
            .await?;
        status.exit.ok_or_else(|| {
            Error::Conflict(format!(
                "the task {} never ran: {}",
                task.name, status.message
            ))
        })
    }

    async fn logs(
        &self,
        name: String,
        options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        self.inner.logs(&name, options).await
    }

    async fn attach(
        &self,
        task: String,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.inner.attach(&task, options, input).await
    }

    async fn exec(
        &self,
        task: String,
        spec: ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.inner.exec(&task, &spec, input).await
    }

    async fn stats(
        &self,
        tasks: Vec<String>,
        follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        self.inner.stats(tasks, follow).await
    }

    async fn watch(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        self.inner.watch_events(since)
    }

    async fn lookup(&self, name: String, _read: Read) -> Result<Answer<Lookup>> {
        let table = self.inner.lock();
        let config = &self.inner.config;
        let tasks: Vec<&Task> = if name == config.node_name {
            table.tasks.values().map(|e| &e.record.task).collect()
        } else if table.service(&name).is_some() || !table.tasks_of_service(&name).is_empty() {
            table.tasks_of_service(&name)
        } else {
            vec![table.find_task(&name)?]
        };
        let live = tasks.into_iter().filter(|t| t.status.serves());
        let endpoint = |task: &Task| Endpoint {
            task_id: task.id.clone(),
            task: task.name.clone(),
            service: task.service.clone(),
            node: task.node.unwrap_or_default(),
            node_name: config.node_name.clone(),
            addresses: task.addresses.clone(),
            ports: table
                .services
                .get(&task.service_id)
                .map(|s| s.spec.ports.clone())
                .unwrap_or_default(),
        };
        let endpoints = live.map(endpoint).collect();
        Ok(fresh(Lookup { name, endpoints }))
    }

    async fn import_image(
        &self,
        name: String,
        config: ImageConfig,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image> {
        let reference: ImageReference = name.parse()?;
        if let Some(signal) = &config.stop_signal {
            oci::parse_signal(signal)?;
        }
        let replaces = self.inner.store.image(&reference).is_some();
        let what = format!("cannot import the image {reference}");
        let imported = self
            .inner
            .store
            .import(reference, config, archive, clock::now())
            .await
            .map_err(|e| e.context(what))?;
        if replaces {
            self.inner.collect_layers().await;
        }
        Ok(imported)
    }

    async fn pull_image(
        &self,
        name: String,
        options: PullOptions,
    ) -> Result<BoxStream<Result<PullEvent>>> {
        let reference: ImageReference = name.parse()?;
        let there = self.inner.store.image(&reference);
        if let Some(image) = there
            && options.policy == PullPolicy::Missing
            && self.has_layers(&image).is_empty()
        {
            self.inner.store.use_image(&reference);
            return Ok(stream::iter([Ok(PullEvent::Done(image))]).boxed());
        }
        let wanted = options.digest.as_deref().or(reference.digest());
        if let Some(image) = self.inner.known_by_manifest(&reference, wanted) {
            self.put_image(image.clone()).await?;
            return Ok(stream::iter([Ok(PullEvent::Done(image))]).boxed());
        }
        let events = self
            .inner
            .puller
            .pull(&reference, options.digest, clock::now())?;
        let inner = std::sync::Arc::clone(&self.inner);
        let tidied = events.then(move |event| {
            let inner = std::sync::Arc::clone(&inner);
            async move {
                // The name may have stood for something else before.
                if matches!(event, Ok(PullEvent::Done(_))) {
                    inner.collect_layers().await;
                }
                event
            }
        });
        Ok(tidied.boxed())
    }

    async fn load_images(
        &self,
        name: Option<String>,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Vec<Image>> {
        let name = name.map(|n| n.parse()).transpose()?;
        let loaded = self.inner.store.load(name, archive, clock::now()).await;
        self.inner.collect_layers().await;
        loaded.map_err(|e| e.context("cannot load images"))
    }

    async fn save_images(&self, names: Vec<String>) -> Result<BoxStream<Result<Bytes>>> {
        let names = names
            .iter()
            .map(|n| n.parse())
            .collect::<Result<Vec<ImageReference>>>()?;
        Ok(self.inner.store.save(&names)?)
    }

    async fn image_history(&self, name: String) -> Result<Vec<HistoryEntry>> {
        self.inner.image_history(&name).await
    }

    async fn push_image(
        &self,
        name: String,
        to: Option<String>,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        self.inner.push_image(&name, to.as_deref())
    }

    async fn commit(&self, task: String, name: String, options: CommitOptions) -> Result<Image> {
        self.inner.commit(&task, &name, options).await
    }

    async fn tag_image(&self, name: String, to: String) -> Result<Image> {
        self.inner.tag_image(&name, &to).await
    }

    async fn disk_usage(&self) -> Result<Vec<DiskUsage>> {
        let inner = std::sync::Arc::clone(&self.inner);
        Ok(vec![super::blocking(move || inner.disk_usage()).await?])
    }

    async fn stat_path(&self, task: String, path: String) -> Result<FileStat> {
        self.inner.stat_path(&task, path).await
    }

    async fn copy_out(&self, task: String, path: String) -> Result<BoxStream<Result<Bytes>>> {
        self.inner.copy_out(&task, path).await
    }

    async fn copy_in(
        &self,
        task: String,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        self.inner.copy_in(&task, path, archive).await
    }

    async fn export_layer(&self, digest: String) -> Result<BoxStream<Result<Bytes>>> {
        Ok(self.inner.store.export_layer(&digest)?)
    }
}

impl Inner {
    /// An image that is here under another name, and is what a name with a digest stands for.
    fn known_by_manifest(&self, reference: &ImageReference, wanted: Option<&str>) -> Option<Image> {
        let wanted = wanted?;
        let mut images = self.store.images().into_iter();
        let image = images.find(|i| i.manifest.as_deref() == Some(wanted))?;
        let here = self.store.missing_parts(&image).is_empty();
        here.then(|| Image {
            reference: reference.clone(),
            ..image
        })
    }

    fn this_node(&self, name: &str) -> Result<Node> {
        let node = machine::node(&self.config);
        if name == node.name || name == node.id.to_string() {
            Ok(node)
        } else {
            Err(none_of(Kind::Node, name))
        }
    }

    fn refuse_image_in_use(&self, reference: &ImageReference) -> Result<()> {
        let image = self.image_or_error(reference)?;
        if image.builtin {
            return Err(Error::Conflict(format!(
                "the image {reference} comes with the binary and cannot be removed"
            )));
        }
        let users = self.lock().users_of_image(&image);
        if users.is_empty() {
            return Ok(());
        }
        Err(Error::Conflict(format!(
            "the image {reference} is used by {}; remove that first",
            users.join(", ")
        )))
    }
}
