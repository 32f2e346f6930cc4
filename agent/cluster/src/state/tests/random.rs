//! Whatever happens in whatever order, what must hold, holds.

use crate::command::{Change, Command};
use crate::state::{State, is_gone};
use crate::testing::{MEMORY, World, node, spec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::{
    Availability, DesiredState, Id, NetworkMode, NodeChange, NodeId, Restart, Service,
    ServiceChange, TaskState,
};

const NODES: u64 = 4;

#[derive(Debug, Clone)]
enum Step {
    Create(u8, u32, Restart, bool, u64, bool),
    Scale(u8, u32),
    RemoveService(u8),
    StopTask(u8),
    RemoveTask(u8),
    Ends(u8, i32),
    Down(u64),
    Up(u64),
    RemoveNode(u64),
    Join(u64),
    Availability(u64, Availability),
    Plan,
    Work(Vec<u64>),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let restart = prop_oneof![
        Just(Restart::Never),
        Just(Restart::OnFailure),
        Just(Restart::Always)
    ];
    let availability = prop_oneof![
        Just(Availability::Active),
        Just(Availability::Pause),
        Just(Availability::Drain)
    ];
    let node = || 1..=NODES;
    let step = prop_oneof![
        3 => (0u8..5, 0u32..6, restart, any::<bool>(), 0u64..4, any::<bool>())
            .prop_map(|(n, r, p, a, m, h)| Step::Create(n, r, p, a, m, h)),
        3 => (0u8..5, 0u32..6).prop_map(|(n, r)| Step::Scale(n, r)),
        1 => (0u8..5).prop_map(Step::RemoveService),
        1 => any::<u8>().prop_map(Step::StopTask),
        1 => any::<u8>().prop_map(Step::RemoveTask),
        3 => (any::<u8>(), 0i32..2).prop_map(|(n, c)| Step::Ends(n, c)),
        1 => node().prop_map(Step::Down),
        2 => node().prop_map(Step::Up),
        1 => node().prop_map(Step::RemoveNode),
        1 => node().prop_map(Step::Join),
        1 => (node(), availability).prop_map(|(n, a)| Step::Availability(n, a)),
        6 => Just(Step::Plan),
        6 => prop::collection::vec(node(), 0..2).prop_map(Step::Work),
        2 => (1u64..8000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

fn take(world: &mut World, step: &Step) {
    let service = |w: &World, n: u8| -> Option<Service> {
        let name = format!("s{n}");
        let mut all = w.state.services.values();
        all.find(|r| r.service.spec.name == name)
            .map(|r| r.service.clone())
    };
    let task = |w: &World, n: u8| -> Option<Id> {
        let count = w.state.tasks.len().max(1);
        w.state.tasks.keys().nth(usize::from(n) % count).cloned()
    };
    let change = match step {
        Step::Create(n, replicas, restart, auto_remove, quarters, host) => {
            let mut spec = spec(&format!("s{n}"), *replicas, *restart);
            spec.auto_remove = *auto_remove;
            spec.task.resources.memory = (*quarters > 0).then(|| MEMORY / 4 * quarters);
            spec.ports = vec![format!("{}:80", 8000 + u32::from(*n % 3)).parse().unwrap()];
            if *host {
                spec.task.network = NetworkMode::Host;
            }
            Some(Change::CreateService(spec))
        }
        Step::Scale(n, replicas) => service(world, *n).map(|s| {
            let replicas = Some(*replicas);
            Change::UpdateService(s.id, ServiceChange { replicas })
        }),
        Step::RemoveService(n) => service(world, *n).map(|s| Change::RemoveService(s.id)),
        Step::StopTask(n) => task(world, *n).map(Change::StopTask),
        Step::RemoveTask(n) => task(world, *n).map(Change::RemoveTask),
        Step::Ends(n, code) => {
            if let Some(task) = task(world, *n) {
                world.ends(&task, *code);
            }
            None
        }
        Step::Down(n) => Some(Change::NodeDown(NodeId(*n))),
        Step::Up(n) => Some(Change::NodeUp(NodeId(*n))),
        Step::RemoveNode(n) => {
            world.local.remove(&NodeId(*n));
            let (id, force) = (NodeId(*n), true);
            Some(Change::RemoveNode { id, force })
        }
        Step::Join(n) => {
            world.local.remove(&NodeId(*n));
            let (node, token) = (node(*n), None);
            Some(Change::AddNode { node, token })
        }
        Step::Availability(n, availability) => {
            let change = NodeChange {
                availability: Some(*availability),
                ..NodeChange::default()
            };
            Some(Change::UpdateNode(NodeId(*n), change))
        }
        Step::Plan => {
            world.plan();
            None
        }
        Step::Work(frozen) => {
            world.frozen = frozen.iter().map(|n| NodeId(*n)).collect();
            world.nodes_work();
            world.frozen.clear();
            None
        }
        Step::Wait(time) => {
            world.wait(*time);
            None
        }
    };
    if let Some(change) = change {
        let mut before = world.state.clone();
        if world.apply(change).is_err() {
            before.index = world.state.index;
            assert_eq!(before, world.state, "a refused change changed something");
        }
    }
}

fn check(state: &State, before: &State) {
    for (id, task) in before.tasks.iter() {
        if let Some(now) = state.tasks.get(id) {
            assert!(now.desired >= task.desired, "{now:?}");
            assert!(now.status.state >= task.status.state, "{now:?}");
            assert!(!task.status.state.is_final() || now.status.state == task.status.state);
        }
    }
    assert!(state.counter >= before.counter && state.vni >= before.vni);
    assert!(state.events.len() <= State::EVENTS);
    for task in state.tasks.values() {
        let gone = is_gone(task);
        if !state.services.contains_key(&task.service_id) {
            assert_eq!(task.desired, DesiredState::Removed, "{task:?}");
            assert!(task.status.state.is_final(), "{task:?}");
        }
        let in_network = task.spec.network == NetworkMode::default();
        let network = state.networks.values().next().unwrap();
        let leased = network.leases.values().filter(|id| **id == task.id).count();
        let wanted = usize::from(in_network && task.node.is_some() && !gone);
        assert_eq!(leased, wanted, "{task:?}");
        let is = task.status.state;
        match task.node {
            None => assert!(matches!(is, TaskState::Pending | TaskState::Shutdown)),
            Some(node) => assert!(is.is_final() || state.nodes.contains_key(&node)),
        }
    }
    for network in state.networks.values() {
        let mut all: BTreeSet<_> = network.leases.keys().collect();
        all.extend(network.gateways.values());
        assert_eq!(all.len(), network.leases.len() + network.gateways.len());
        assert!(all.iter().all(|a| network.network.subnet.contains(*a)));
        assert!(
            network
                .leases
                .values()
                .all(|id| state.tasks.contains_key(id))
        );
    }
    resources_are_kept(state);
}

fn resources_are_kept(state: &State) {
    let mut memory: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut ports: BTreeSet<(NodeId, u16)> = BTreeSet::new();
    for task in state.tasks.values().filter(|t| !t.status.state.is_final()) {
        let Some(node) = task.node else { continue };
        *memory.entry(node).or_default() += task.spec.resources.memory.unwrap_or(0);
        if task.spec.network == NetworkMode::Host {
            assert!(ports.insert((node, 80)), "port 80 of {node} is taken twice");
        }
    }
    assert!(memory.values().all(|m| *m <= MEMORY), "{memory:?}");
    let mut published = BTreeSet::new();
    for port in state.services.values().flat_map(|r| &r.service.spec.ports) {
        assert!(published.insert((port.published, port.protocol)));
    }
}

/// What another replica comes to by the same entries, with a snapshot in the middle.
fn replay(log: &[Command]) -> State {
    let mut state = State::default();
    for (index, command) in log.iter().enumerate() {
        if index == log.len() / 2 {
            let bytes = postcard::to_stdvec(&state).unwrap();
            state = postcard::from_bytes(&bytes).unwrap();
        }
        let command = postcard::to_stdvec(command).unwrap();
        let command: Command = postcard::from_bytes(&command).unwrap();
        let _ = state.apply(index as u64 + 1, &command);
    }
    state
}

/// Once nothing happens any more, every service has what it asks for, as far as it fits.
fn comes_to_rest(world: &mut World) {
    for id in 1..=NODES {
        let _ = world.apply(Change::NodeUp(NodeId(id)));
    }
    for _ in 0..4 {
        world.settle();
        world.wait(40_000);
    }
    world.settle();
    let state = &world.state;
    for record in state.services.values() {
        assert!(!record.removing);
        for slot in 1..=record.service.spec.replicas {
            let newest = record.newest.get(&slot).map(|id| &state.tasks[id]);
            let has_one = newest.is_some_and(|t| {
                let state = t.status.state;
                state == TaskState::Running || state == TaskState::Pending || state.is_final()
            });
            assert!(has_one || record.closed.contains(&slot));
        }
    }
    for task in state.tasks.values() {
        let slots = state.services[&task.service_id].service.spec.replicas;
        let is_live = !task.status.state.is_final();
        assert!(!is_live || (task.slot <= slots && task.desired == DesiredState::Running));
    }
    for (node, local) in &world.local {
        for task in local {
            assert!(
                state
                    .tasks
                    .get(&task.id)
                    .is_some_and(|t| t.node == Some(*node))
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_must_hold_holds_after_every_entry(steps in steps()) {
        let mut world = World::new(NODES);
        for step in &steps {
            let before = world.state.clone();
            take(&mut world, step);
            check(&world.state, &before);
        }
        prop_assert_eq!(&replay(&world.log), &world.state);
        comes_to_rest(&mut world);
    }
}
