//! Which objects a user's words mean. Pure: a state and a name in, ids out. What is not there is said by its name.

use swarm_api::model::{Id, Kind, Lookup, NodeId, Object, Task};
use swarm_api::{Error, Result};
use swarm_cluster::State;

/// What a name may mean where both are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A service.
    Service(Id),
    /// One task.
    Task(Id),
}

/// A task: by name, id, unique prefix of an id, or its service's name where that has one.
pub(super) fn task(state: &State, name: &str) -> Result<Task> {
    let found = state.find_task(name).cloned();
    match (found, service_record(state, name)) {
        (Ok(task), _) => Ok(task),
        // All its tasks have ended: with one of them, there is no doubt which is meant.
        (Err(why), Some(service)) => only_task(state, &service).ok_or(why),
        (Err(why), None) => Err(why),
    }
}

/// A task that is there, or nothing where a service is there and is about to get it.
pub(super) fn expected_task(state: &State, name: &str) -> Result<Option<Task>> {
    let why = match task(state, name) {
        Ok(task) => return Ok(Some(task)),
        Err(why) => why,
    };
    let (service, slot) = match name.rsplit_once('.') {
        Some((service, slot)) => (service, slot.parse::<u32>().ok()),
        None => (name, Some(1)),
    };
    let id = service_record(state, service);
    let coming = id.and_then(|id| {
        let record = state.services.get(&id)?;
        let wanted = !record.removing && (1..=record.service.spec.replicas).contains(&slot?);
        let none_yet = !(state.tasks.values()).any(|t| t.service_id == id && Some(t.slot) == slot);
        (wanted && none_yet).then_some(())
    });
    coming.map(|()| None).ok_or(why)
}

/// A service, by name or id.
pub(super) fn service(state: &State, name: &str) -> Result<Id> {
    match state.get(Kind::Service, name)? {
        Object::Service(service) => Ok(service.id),
        _ => Err(missing(Kind::Service, name)),
    }
}

/// A service by its name, or else a task, or else a service by its id.
pub(super) fn service_or_task(state: &State, name: &str) -> Result<Target> {
    if let Some(id) = service_record(state, name) {
        return Ok(Target::Service(id));
    }
    match task(state, name) {
        Ok(task) => Ok(Target::Task(task.id)),
        Err(why) => match service(state, name) {
            Ok(id) => Ok(Target::Service(id)),
            Err(Error::NotFound(_)) => Err(why),
            Err(other) => Err(other),
        },
    }
}

/// A node, by name or id.
pub(super) fn node(state: &State, name: &str) -> Result<NodeId> {
    match state.get(Kind::Node, name)? {
        Object::Node(node) => Ok(node.id),
        _ => Err(missing(Kind::Node, name)),
    }
}

/// A network, by name or id.
pub(super) fn network(state: &State, name: &str) -> Result<Id> {
    match state.get(Kind::Network, name)? {
        Object::Network(network) => Ok(network.id),
        _ => Err(missing(Kind::Network, name)),
    }
}

/// The live tasks behind a name.
pub(super) fn lookup(state: &State, name: &str) -> Result<Lookup> {
    state.lookup(name)
}

fn service_record(state: &State, name: &str) -> Option<Id> {
    let named = |record: &&swarm_cluster::state::ServiceRecord| record.service.spec.name == name;
    (state.services.values().find(named)).map(|record| record.service.id.clone())
}

fn only_task(state: &State, service: &Id) -> Option<Task> {
    let mut tasks = state.tasks.values().filter(|t| t.service_id == *service);
    let only = tasks.next()?;
    tasks.next().is_none().then(|| only.clone())
}

fn missing(kind: Kind, name: &str) -> Error {
    Error::NotFound(format!("there is no {kind} \"{name}\""))
}
