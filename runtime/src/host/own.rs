//! The host's own services: carries out the plan, and makes, changes and removes services.

use super::plan::{self, NewTask, Plan, View};
use super::table::{Origin, Record, Table};
use super::types::{Dns, TaskOrder};
use super::{Inner, NEVER, clock, service_event};
use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;
use swarm_api::model::{
    DesiredState, EventAction, Id, ImageReference, NetworkMode, Port, Service, ServiceSpec, Task,
    TaskState, TaskStatus, Timestamp,
};
use swarm_api::{Error, Result};
use tokio_util::sync::CancellationToken;

/// How long after a failure of the host (a full disk) something is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Does what is due, whenever something has changed or its time has come.
pub(super) async fn carry_out(inner: Weak<Inner>, stop: CancellationToken) {
    loop {
        let Some(host) = inner.upgrade() else {
            return;
        };
        let wake = Arc::clone(&host.wake);
        let next = host.step();
        drop(host);
        let sleep = async {
            match next {
                Some(time) => tokio::time::sleep(time.since(clock::now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wake.notified() => {}
            () = sleep => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Inner {
    /// Plans, and sets what is due in motion. When to look again, at the latest.
    fn step(self: &Arc<Self>) -> Option<Timestamp> {
        let mut table = self.lock();
        let mut plan = make_plan(&table);
        if !plan.create.is_empty() {
            if let Err(why) = self.create_tasks(&mut table, &plan) {
                tracing::warn!(%why, "tasks cannot be made");
                return Some(clock::now().plus(AGAIN));
            }
            plan = make_plan(&table);
        }
        for id in &plan.start {
            table.busy.insert(id.clone());
            tokio::spawn(Arc::clone(self).start_own(id.clone()));
        }
        for id in &plan.remove {
            table.busy.insert(id.clone());
            tokio::spawn(Arc::clone(self).retire(id.clone(), true));
        }
        for id in &plan.stop {
            table.busy.insert(id.clone());
            tokio::spawn(Arc::clone(self).retire(id.clone(), false));
        }
        for id in &plan.finished {
            if let Err(why) = self.forget_service(&mut table, id) {
                tracing::warn!(%why, "a service that has ended cannot be removed");
                return Some(clock::now().plus(AGAIN));
            }
        }
        drop(table);
        if !plan.finished.is_empty() {
            self.notify();
        }
        plan.next
    }

    fn create_tasks(&self, table: &mut Table, plan: &Plan) -> Result<()> {
        for new in &plan.create {
            if let Some(service) = table.services.get(&new.service) {
                let task = self.new_task(service, new)?;
                let record = Record {
                    origin: Origin::Host,
                    task,
                    image: None,
                    env: Vec::new(),
                    stopping: false,
                };
                self.add(table, record, None)?;
            }
        }
        if !plan.create.is_empty() {
            self.notify();
        }
        Ok(())
    }

    fn new_task(&self, service: &Service, new: &NewTask) -> Result<Task> {
        Ok(Task {
            id: clock::new_id()?,
            name: format!("{}.{}", service.spec.name, new.slot),
            service: service.spec.name.clone(),
            service_id: service.id.clone(),
            slot: new.slot,
            spec: service.spec.task.clone(),
            node: None,
            node_name: self.config.node_name.clone(),
            addresses: Vec::new(),
            desired: DesiredState::Running,
            status: TaskStatus {
                observed_at: clock::now(),
                ..TaskStatus::default()
            },
            attempt: new.attempt,
            not_before: new.not_before,
            created_at: clock::now(),
        })
    }

    /// Starts a task of the host's own. What goes wrong is in its status.
    async fn start_own(self: Arc<Self>, id: Id) {
        let found = {
            let mut table = self.lock();
            table.tasks.get_mut(&id).map(|entry| {
                let reference = entry.record.task.spec.image.parse::<ImageReference>();
                let image = reference.and_then(|r| self.image_or_error(&r));
                if let Ok(image) = &image {
                    // From here on its layers are in use.
                    entry.record.image = Some(image.clone());
                }
                (entry.record.task.clone(), image)
            })
        };
        match found {
            Some((task, Ok(image))) => {
                let order = TaskOrder {
                    task,
                    image,
                    env: Vec::new(),
                    dns: Dns::default(),
                    hosts: Vec::new(),
                    network: None,
                };
                if let Err(why) = self.start_detached(order).await {
                    tracing::info!(%why, "a task did not start");
                }
            }
            Some((_, Err(why))) => self.observe(&id, |task| {
                task.status.state = TaskState::Rejected;
                task.status.message = why.to_string();
                task.status.finished_at = Some(clock::now());
            }),
            None => {}
        }
        self.lock().busy.remove(&id);
        self.notify();
    }

    /// Stops a task if it runs, and removes it if that is wanted.
    async fn retire(self: Arc<Self>, id: Id, remove: bool) {
        let timeout = self.lock().task(&id).map(|t| t.spec.stop_timeout());
        let mut outcome = Ok(());
        if let Some(timeout) = timeout {
            outcome = self.stop_task(&id, timeout).await;
        }
        if outcome.is_ok() && remove {
            outcome = self.remove_task(&id).await;
        }
        if let Err(why) = outcome
            && !matches!(why, Error::NotFound(_))
        {
            tracing::warn!(%why, %id, "a task cannot be removed; trying again");
            tokio::time::sleep(AGAIN).await;
        }
        self.lock().busy.remove(&id);
        self.notify();
    }

    /// An image, or what to do where it is not there.
    pub(super) fn image_or_error(
        &self,
        reference: &ImageReference,
    ) -> Result<swarm_api::model::Image> {
        self.store.image(reference).ok_or_else(|| {
            Error::NotFound(format!(
                "there is no image {reference} on this host: import it with `swarmctl --host image import {} ARCHIVE`, or see `swarmctl --host image ls`",
                reference.name()
            ))
        })
    }

    pub(super) fn create_service(self: &Arc<Self>, spec: ServiceSpec) -> Result<Service> {
        spec.validate()?;
        self.image_or_error(&spec.task.image.parse()?)?;
        self.refuse_what_needs_a_cluster(&spec)?;
        let now = clock::now();
        let service = Service {
            id: clock::new_id()?,
            spec,
            version: 1,
            running: 0,
            created_at: now,
            updated_at: now,
        };
        {
            let mut table = self.lock();
            let name = &service.spec.name;
            let of_cluster = table.tasks_of(Origin::Cluster).any(|t| t.service == *name);
            if of_cluster || table.services.values().any(|s| s.spec.name == *name) {
                return Err(Error::AlreadyExists(format!(
                    "there is a service {name} on this host already; remove it first, or choose another name"
                )));
            }
            self.disk.save_service(&service.id, &service)?;
            table.services.insert(service.id.clone(), service.clone());
            self.tell(&mut table, service_event(&service, EventAction::Created));
            // At once, so that whoever made it finds its tasks.
            let plan = make_plan(&table);
            if let Err(why) = self.create_tasks(&mut table, &plan) {
                let _ = self.forget_service(&mut table, &service.id);
                return Err(why);
            }
        }
        self.notify();
        Ok(service)
    }

    fn refuse_what_needs_a_cluster(&self, spec: &ServiceSpec) -> Result<()> {
        let shared = spec.task.network == NetworkMode::Host;
        let led = |p: &&Port| p.published.is_some_and(|port| !shared || port != p.target);
        if let Some(port) = spec.ports.iter().find(led) {
            return Err(Error::Unsupported(format!(
                "port {port} cannot be published by one host's runtime: published ports need a cluster (swarmctl init) or the host network (--network host), where the program's own ports are the host's"
            )));
        }
        if let NetworkMode::Cluster(name) = &spec.task.network
            && name != "default"
        {
            return Err(Error::Unsupported(format!(
                "the network {name} is not on this host alone: networks need a cluster (swarmctl init)"
            )));
        }
        let node = super::machine::node(&self.config);
        if let Some(unmet) = spec.task.constraints.iter().find(|c| !c.accepts(&node)) {
            return Err(Error::Conflict(format!(
                "this host does not meet the constraint {unmet}; leave it out, or run the service in a cluster"
            )));
        }
        Ok(())
    }

    pub(super) fn scale(self: &Arc<Self>, name: &str, replicas: Option<u32>) -> Result<Service> {
        let changed = {
            let mut table = self.lock();
            let Some(service) = table.service(name).cloned() else {
                return Err(
                    refuse_cluster_service(&table, name).unwrap_or_else(|| Table::no_service(name))
                );
            };
            let mut changed = service;
            changed.spec.replicas = replicas.unwrap_or(changed.spec.replicas);
            changed.spec.validate()?;
            changed.version += 1;
            changed.updated_at = clock::now();
            self.save_changed(&mut table, &changed)?;
            // What was stopped by hand is started anew by asking for it again.
            for entry in table.tasks.values_mut() {
                let task = &mut entry.record.task;
                let stopped =
                    task.desired == DesiredState::Shutdown && task.status.state.is_final();
                if task.service_id == changed.id && stopped {
                    task.desired = DesiredState::Removed;
                }
            }
            let plan = make_plan(&table);
            self.create_tasks(&mut table, &plan)?;
            table.counted(&changed)
        };
        self.notify();
        Ok(changed)
    }

    fn save_changed(&self, table: &mut Table, changed: &Service) -> Result<()> {
        self.disk.save_service(&changed.id, changed)?;
        table.services.insert(changed.id.clone(), changed.clone());
        self.tell(table, service_event(changed, EventAction::Updated));
        Ok(())
    }

    /// Stops a service's tasks and scales it to 0, or stops one task for good.
    pub(super) async fn stop(
        self: &Arc<Self>,
        name: &str,
        timeout: Option<Duration>,
    ) -> Result<()> {
        let stopped: Vec<(Id, Duration)> = {
            let mut table = self.lock();
            let ids: Vec<Id> = if let Some(service) = table.service(name).cloned() {
                let mut changed = service;
                changed.spec.replicas = 0;
                changed.version += 1;
                changed.updated_at = clock::now();
                let own = table.tasks_of(Origin::Host);
                let live = own.filter(|t| t.service_id == changed.id && !t.status.state.is_final());
                let ids: Vec<Id> = live.map(|t| t.id.clone()).collect();
                // First, so that the plan does not take them for surplus.
                mark(&mut table, &ids, DesiredState::Shutdown);
                self.save_changed(&mut table, &changed)?;
                ids
            } else if let Some(refusal) = refuse_cluster_service(&table, name) {
                return Err(refusal);
            } else {
                let id = own_task(&table, name)?;
                mark(
                    &mut table,
                    std::slice::from_ref(&id),
                    DesiredState::Shutdown,
                );
                vec![id]
            };
            table.busy.extend(ids.iter().cloned());
            let of = |id: Id| {
                let own = table.task(&id).map(|t| t.spec.stop_timeout());
                (id, timeout.or(own).unwrap_or_default())
            };
            ids.into_iter().map(of).collect()
        };
        let stops = stopped
            .iter()
            .map(|(id, timeout)| self.stop_task(id, *timeout));
        let outcomes = futures_util::future::join_all(stops).await;
        {
            let mut table = self.lock();
            for (id, _) in &stopped {
                table.busy.remove(id);
            }
        }
        self.notify();
        outcomes.into_iter().collect()
    }

    /// Removes a service with its tasks. With `force` they are killed and gone when this returns, else they are
    /// stopped in their own time.
    pub(super) async fn remove_service(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        let tasks: Vec<Id> = {
            let mut table = self.lock();
            let Some(id) = table.service(name).map(|s| s.id.clone()) else {
                return Err(
                    refuse_cluster_service(&table, name).unwrap_or_else(|| Table::no_service(name))
                );
            };
            let own = table.tasks_of(Origin::Host).filter(|t| t.service_id == id);
            let tasks = own.map(|t| t.id.clone()).collect();
            self.forget_service(&mut table, &id)?;
            if force {
                table.busy.extend(Vec::clone(&tasks));
            }
            tasks
        };
        let mut outcome = Ok(());
        if force {
            let removed =
                futures_util::future::join_all(tasks.iter().map(|id| self.remove_task(id)));
            outcome = removed.await.into_iter().collect();
            let mut table = self.lock();
            for id in &tasks {
                table.busy.remove(id);
            }
        }
        self.notify();
        outcome
    }

    pub(super) async fn remove_own_task(self: &Arc<Self>, name: &str, force: bool) -> Result<()> {
        let id = {
            let table = self.lock();
            let id = own_task(&table, name)?;
            let task = table.task(&id);
            if let Some(task) = task.filter(|t| !t.status.state.is_final() && !force) {
                return Err(Error::Conflict(format!(
                    "the task {} is {}; stop it first, or remove it with --force",
                    task.name, task.status.state
                )));
            }
            id
        };
        self.remove_task(&id).await
    }

    /// The service goes; its tasks follow by the plan.
    fn forget_service(&self, table: &mut Table, id: &Id) -> Result<()> {
        self.disk.remove_service(id)?;
        if let Some(service) = table.services.remove(id) {
            self.tell(table, service_event(&service, EventAction::Removed));
        }
        Ok(())
    }
}

fn make_plan(table: &Table) -> Plan {
    let attached: HashSet<Id> = table.attached.keys().cloned().collect();
    let view = View {
        services: &table.services,
        tasks: table.tasks_of(Origin::Host).collect(),
        busy: &table.busy,
        attached: &attached,
    };
    plan::plan(&view, clock::now().max(NEVER))
}

fn mark(table: &mut Table, ids: &[Id], desired: DesiredState) {
    for id in ids {
        if let Some(entry) = table.tasks.get_mut(id) {
            entry.record.task.desired = desired;
        }
    }
}

fn own_task(table: &Table, name: &str) -> Result<Id> {
    let task = table.find_task(name)?;
    let entry = table.tasks.get(&task.id);
    if entry.is_some_and(|e| e.record.origin == Origin::Cluster) {
        return Err(of_cluster(&task.name, "task"));
    }
    Ok(task.id.clone())
}

fn refuse_cluster_service(table: &Table, name: &str) -> Option<Error> {
    let mut tasks = table.tasks_of(Origin::Cluster);
    tasks
        .any(|t| t.service == name)
        .then(|| of_cluster(name, "service"))
}

fn of_cluster(name: &str, kind: &str) -> Error {
    Error::Conflict(format!(
        "the {kind} {name} belongs to the cluster, which would only make it anew; use the same command without --host"
    ))
}
