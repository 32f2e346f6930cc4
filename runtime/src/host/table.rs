//! What the host knows: its services, and all tasks with what was observed of them. Pure: no I/O, no clock.

use super::types::NetworkAttach;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use swarm_api::model::{DesiredState, Event, Id, Image, Kind, Query, Service, Task, TaskState};
use swarm_api::{Error, Result};

/// Events that are kept for watchers that come back.
const KEPT_EVENTS: usize = 1024;

/// Who wants a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    /// The cluster.
    Cluster,
    /// One of the host's own services.
    Host,
}

/// A task as it is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) origin: Origin,
    pub(super) task: Task,
    /// The image that it was started with.
    pub(super) image: Option<Image>,
    /// What the cluster adds to its environment.
    pub(super) env: Vec<String>,
    /// Whether it was asked to stop.
    pub(super) stopping: bool,
}

/// A task in memory.
pub(super) struct Entry {
    pub(super) record: Record,
    /// Held while it is started, stopped or removed.
    pub(super) work: Arc<tokio::sync::Mutex<()>>,
    pub(super) network: Option<Arc<dyn NetworkAttach>>,
    /// Its folder is being removed: nothing is written there any more.
    pub(super) leaving: bool,
}

impl Entry {
    pub(super) fn new(record: Record) -> Self {
        Self {
            record,
            work: Arc::default(),
            network: None,
            leaving: false,
        }
    }
}

/// Everything the host knows.
#[derive(Default)]
pub(super) struct Table {
    pub(super) services: BTreeMap<Id, Service>,
    pub(super) tasks: BTreeMap<Id, Entry>,
    /// Host tasks that something is being done with.
    pub(super) busy: HashSet<Id>,
    /// How many streams hold a task.
    pub(super) attached: HashMap<Id, usize>,
    /// The last ones, in their order.
    pub(super) events: VecDeque<Event>,
    pub(super) index: u64,
}

impl Table {
    pub(super) fn task(&self, id: &Id) -> Option<&Task> {
        self.tasks.get(id).map(|e| &e.record.task)
    }

    pub(super) fn tasks_of(&self, origin: Origin) -> impl Iterator<Item = &Task> {
        let of = move |e: &&Entry| e.record.origin == origin;
        self.tasks.values().filter(of).map(|e| &e.record.task)
    }

    fn all(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().map(|e| &e.record.task)
    }

    /// A service by name, id or unique prefix of an id.
    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        let by_name = self.services.values().find(|s| s.spec.name == name);
        by_name.or_else(|| unique(&self.services, name))
    }

    /// The service with how many of its tasks run.
    pub(super) fn counted(&self, service: &Service) -> Service {
        let running = self
            .all()
            .filter(|t| t.service_id == service.id && t.status.state == TaskState::Running)
            .count();
        Service {
            running: u32::try_from(running).unwrap_or(u32::MAX),
            ..service.clone()
        }
    }

    /// The tasks behind the name of a service, of the host or of the cluster; none if it is no service's.
    pub(super) fn tasks_of_service(&self, name: &str) -> Vec<&Task> {
        let id = self.service(name).map(|s| &s.id);
        let mut tasks: Vec<&Task> = self
            .all()
            .filter(|t| t.service == name || Some(&t.service_id) == id)
            .collect();
        tasks.sort_by_key(|t| (t.slot, t.created_at, t.attempt));
        tasks
    }

    /// A task by name, id, unique prefix of an id, or its service's name where that has one live task.
    pub(super) fn find_task(&self, name: &str) -> Result<&Task> {
        let named = self.all().filter(|t| t.name == name);
        // The one that lives, or else the last that did.
        if let Some(task) =
            named.max_by_key(|t| (!t.status.state.is_final(), t.created_at, t.attempt))
        {
            return Ok(task);
        }
        if let Some(entry) = unique(&self.tasks, name) {
            return Ok(&entry.record.task);
        }
        let of_service = self.tasks_of_service(name);
        let live: Vec<&Task> = of_service
            .iter()
            .copied()
            .filter(|t| !t.status.state.is_final())
            .collect();
        match (live.as_slice(), of_service.as_slice()) {
            ([one], _) | ([], [.., one]) => Ok(one),
            ([], []) if self.service(name).is_some() => Err(Error::Conflict(format!(
                "the service {name} has no task now"
            ))),
            ([], []) => Err(self.no_task(name)),
            (several, _) => {
                let names: Vec<&str> = several.iter().map(|t| t.name.as_str()).collect();
                Err(Error::Conflict(format!(
                    "the service {name} has {} tasks; name one of {}",
                    several.len(),
                    names.join(", ")
                )))
            }
        }
    }

    fn no_task(&self, name: &str) -> Error {
        let alike = self
            .tasks
            .keys()
            .filter(|id| id.as_str().starts_with(name))
            .count();
        if alike > 1 && !name.is_empty() {
            return Error::Conflict(format!(
                "\"{name}\" is the start of {alike} tasks' ids; give more of it"
            ));
        }
        Error::NotFound(format!(
            "there is no task or service \"{name}\" on this host; `swarmctl --host ps -a` shows those that there are"
        ))
    }

    pub(super) fn no_service(name: &str) -> Error {
        Error::NotFound(format!(
            "there is no service \"{name}\" of this host; `swarmctl --host service ls` shows those that there are"
        ))
    }

    /// The tasks that `query` asks for, in the order of their names.
    pub(super) fn list_tasks(&self, query: &Query, node_name: &str) -> Vec<Task> {
        if query.node.as_ref().is_some_and(|n| n != node_name) {
            return Vec::new();
        }
        let mut tasks: Vec<&Task> = match &query.service {
            Some(service) => self.tasks_of_service(service),
            None => self.all().collect(),
        };
        tasks.retain(|t| query.all || !t.status.state.is_final());
        tasks.sort_by(|a, b| {
            let key = |t: &Task| (t.slot, t.created_at, t.attempt);
            (&a.service, key(a)).cmp(&(&b.service, key(b)))
        });
        tasks.into_iter().cloned().collect()
    }

    /// Every layer that a task's container may stand on, and the documents that describe it.
    pub(super) fn layers(&self) -> HashSet<String> {
        let images = self.tasks.values().filter_map(|e| e.record.image.as_ref());
        images.flat_map(Image::parts).collect()
    }

    /// Who uses an image, by name: services of the host, and tasks that have not ended.
    pub(super) fn users_of_image(&self, image: &Image) -> Vec<String> {
        let is = |text: &str| {
            text.parse::<swarm_api::model::ImageReference>()
                .is_ok_and(|r| r == image.reference)
        };
        let services = self.services.values().filter(|s| is(&s.spec.task.image));
        let mut names: Vec<String> = services.map(|s| s.spec.name.clone()).collect();
        for task in self.all() {
            let live = !task.status.state.is_final() && task.desired == DesiredState::Running;
            if live && is(&task.spec.image) && !names.contains(&task.service) {
                names.push(task.service.clone());
            }
        }
        names
    }

    /// Notes an event; its index is set here.
    pub(super) fn note(&mut self, mut event: Event) -> Event {
        self.index += 1;
        event.index = self.index;
        if self.events.len() == KEPT_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        event
    }

    /// The events after `index`, or why they are not there.
    pub(super) fn events_since(&self, index: u64) -> Result<Vec<Event>> {
        let first = self.events.front().map_or(self.index + 1, |e| e.index);
        if index + 1 < first {
            return Err(Error::NotFound(format!(
                "the events after {index} are not kept any more; the oldest is {first}"
            )));
        }
        let later = self.events.iter().filter(|e| e.index > index);
        Ok(later.cloned().collect())
    }
}

fn unique<'a, T>(objects: &'a BTreeMap<Id, T>, prefix: &str) -> Option<&'a T> {
    if prefix.is_empty() {
        return None;
    }
    let start = Id::from_text(prefix);
    let mut found = objects
        .range(start..)
        .take_while(|(id, _)| id.as_str().starts_with(prefix));
    let (id, first) = found.next()?;
    (id.as_str() == prefix || found.next().is_none()).then_some(first)
}

/// Attributes of an event that tell of a task.
pub(super) fn task_attributes(task: &Task) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([
        ("service".to_owned(), task.service.clone()),
        ("state".to_owned(), task.status.state.to_string()),
        ("node".to_owned(), task.node_name.clone()),
    ]);
    if let Some(exit) = task.status.exit {
        attributes.insert("exit_code".into(), exit.code.to_string());
        if exit.oom_killed {
            attributes.insert("oom_killed".into(), "true".into());
        }
    }
    if task.status.oom_kills > 0 {
        let kills = task.status.oom_kills.to_string();
        attributes.insert("oom_kills".into(), kills);
    }
    if let Some(health) = &task.status.health {
        attributes.insert("health".into(), health.state.to_string());
    }
    if !task.status.message.is_empty() {
        attributes.insert("message".into(), task.status.message.clone());
    }
    attributes
}

/// A name for an error about `kind`.
pub(super) fn none_of(kind: Kind, name: &str) -> Error {
    Error::NotFound(format!("there is no {kind} \"{name}\" on this host"))
}
