//! Which objects a user's words mean. Pure: a state and a name in, ids out. What is not there is said by its name.

use swarm_api::model::{DesiredState, Id, Kind, Lookup, NodeId, Object, Task};
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
        let none_yet = !(state.tasks.of_service(&id)).any(|t| Some(t.slot) == slot);
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
    let mut services = state.services.values().map(|record| &record.service);
    let named = services.find(|service| service.spec.name == name);
    named.map(|service| service.id.clone())
}

fn only_task(state: &State, service: &Id) -> Option<Task> {
    let shown = |t: &&Task| t.desired < DesiredState::Removed;
    let mut tasks = state.tasks.of_service(service).filter(shown);
    let only = tasks.next()?;
    tasks.next().is_none().then(|| only.clone())
}

fn missing(kind: Kind, name: &str) -> Error {
    Error::NotFound(format!("there is no {kind} \"{name}\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::solo;
    use swarm_api::model::{Node, Restart, Timestamp};
    use swarm_cluster::{Change, Command, PlanItem, orchestrator};

    /// A state with the services `web`, which has tasks, and `new`, which is about to get them.
    struct World(State);

    impl World {
        fn new() -> Self {
            let mut world = Self(State::default());
            let node = Node {
                id: NodeId(7),
                name: "host1".into(),
                ..Node::default()
            };
            world.apply(Change::Init {
                cluster: "c".into(),
                node,
                pool: "10.0.0.0/8".parse().unwrap(),
                sealed: Vec::new(),
            });
            world.apply(Change::PutImage {
                image: solo::whoami(),
                node: NodeId(7),
            });
            world.serve("web", 2);
            let items = orchestrator::plan(&world.0, Timestamp(9)).items;
            world.apply(Change::Plan(items));
            world.serve("new", 2);
            world
        }

        fn apply(&mut self, change: Change) {
            let time = Timestamp(9);
            let index = self.0.index + 1;
            self.0.apply(index, &Command { time, change }).unwrap();
        }

        fn serve(&mut self, name: &str, replicas: u32) {
            self.apply(Change::CreateService(solo::service(
                name,
                replicas,
                Restart::Never,
            )));
        }
    }

    #[test]
    fn a_name_is_a_service_s_first_and_a_task_s_then() {
        let World(state) = World::new();
        let web = service(&state, "web").unwrap();
        assert_eq!(
            service_or_task(&state, "web").unwrap(),
            Target::Service(web.clone())
        );
        assert_eq!(
            service_or_task(&state, web.as_str()).unwrap(),
            Target::Service(web)
        );
        let first = task(&state, "web.1").unwrap();
        for name in ["web.1", first.id.as_str()] {
            assert_eq!(
                service_or_task(&state, name).unwrap(),
                Target::Task(first.id.clone())
            );
        }
        assert_eq!(node(&state, "host1").unwrap(), NodeId(7));
    }

    #[test]
    fn what_is_not_there_is_said_by_its_name() {
        let World(state) = World::new();
        let whys = [
            task(&state, "ghost.1").map(drop),
            expected_task(&state, "ghost.1").map(drop),
            service(&state, "ghost.1").map(drop),
            service_or_task(&state, "ghost.1").map(drop),
            node(&state, "ghost.1").map(drop),
            network(&state, "ghost.1").map(drop),
            lookup(&state, "ghost.1").map(drop),
        ];
        for why in whys {
            assert!(
                matches!(&why, Err(Error::NotFound(m)) if m.contains("ghost.1")),
                "{why:?}"
            );
        }
    }

    #[test]
    fn only_a_task_that_is_about_to_be_made_is_waited_for() {
        let mut world = World::new();
        assert!(expected_task(&world.0, "web.1").unwrap().is_some());
        assert_eq!(expected_task(&world.0, "new.2").unwrap(), None);
        assert!(expected_task(&world.0, "new.3").is_err());
        assert!(expected_task(&world.0, "new.0").is_err());
        assert!(expected_task(&world.0, "web.3").is_err());
        let new = service(&world.0, "new").unwrap();
        world.apply(Change::RemoveService(new.clone()));
        assert!(expected_task(&world.0, "new.2").is_err());
        world.apply(Change::Plan(vec![PlanItem::DropService(new)]));
        assert!(expected_task(&world.0, "new.2").is_err());
    }

    #[test]
    fn a_service_with_one_task_is_name_enough_for_it() {
        let mut world = World::new();
        assert!(task(&world.0, "web").is_err());
        assert_eq!(expected_task(&world.0, "new").unwrap(), None);
        world.serve("one", 1);
        let items = orchestrator::plan(&world.0, Timestamp(9)).items;
        world.apply(Change::Plan(items));
        assert_eq!(task(&world.0, "one").unwrap().name, "one.1");
    }
}
