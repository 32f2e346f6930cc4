use super::*;
use crate::command::Change;
use crate::testing::{World, spec};
use swarm_api::model::{Availability, NodeChange, NodeId, Restart, TaskState};

fn nodes_of(tasks: &[Task]) -> Vec<u64> {
    let mut nodes: Vec<u64> = tasks.iter().map(|t| t.node.unwrap().0).collect();
    nodes.sort();
    nodes
}

fn availability(world: &mut World, node: u64, to: Availability) {
    let change = NodeChange {
        availability: Some(to),
        ..NodeChange::default()
    };
    world.ok(Change::UpdateNode(NodeId(node), change));
}

#[test]
fn replicas_are_spread_and_scaled_up_and_down() {
    let mut w = World::new(3);
    let web = w.create(spec("web", 3, Restart::OnFailure));
    w.settle();
    assert_eq!(nodes_of(&w.running(&web)), [1, 2, 3]);
    w.scale(&web, 7);
    w.settle();
    assert_eq!(w.running(&web).len(), 7);
    w.scale(&web, 1);
    w.settle();
    let tasks = w.tasks(&web);
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    assert_eq!(
        (tasks[0].slot, tasks[0].status.state),
        (1, TaskState::Running)
    );
    w.ok(Change::RemoveService(web.id.clone()));
    w.settle();
    assert!(w.state.tasks.is_empty() && w.state.services.is_empty());
    assert!(w.local.values().all(Vec::is_empty));
    assert!(w.state.networks.values().all(|n| n.leases.is_empty()));
}

#[test]
fn a_failure_is_tried_again_ever_later_and_an_end_for_good_is_not() {
    let mut w = World::new(2);
    let bad = w.create(spec("bad", 1, Restart::OnFailure));
    let once = w.create(spec("once", 1, Restart::Never));
    let good = w.create(spec("good", 1, Restart::OnFailure));
    w.settle();
    w.ends(&w.running(&once)[0].id.clone(), 1);
    w.ends(&w.running(&good)[0].id.clone(), 0);
    let mut delays = Vec::new();
    for attempt in 1..=8 {
        w.ends(&w.running(&bad)[0].id.clone(), 1);
        w.settle();
        assert!(w.running(&bad).is_empty(), "it is started before its time");
        let tasks = w.tasks(&bad);
        let next = tasks.iter().max_by_key(|t| t.attempt).unwrap();
        assert_eq!(next.attempt, attempt);
        delays.push(next.not_before.0 - w.now.0);
        w.now = next.not_before;
        w.settle();
    }
    assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12800]);
    assert_eq!(w.tasks(&bad).len(), 1 + HISTORY);
    for (service, state) in [(&once, TaskState::Failed), (&good, TaskState::Complete)] {
        let tasks = w.tasks(service);
        assert_eq!(tasks.len(), 1);
        assert_eq!((tasks[0].status.state, tasks[0].attempt), (state, 0));
    }
}

#[test]
fn a_stopped_task_stays_stopped_until_its_service_is_scaled() {
    let mut w = World::new(2);
    let web = w.create(spec("web", 2, Restart::Always));
    w.settle();
    let task = w.running(&web)[0].clone();
    w.ok(Change::StopTask(task.id.clone()));
    w.settle();
    assert_eq!(w.running(&web).len(), 1);
    assert_eq!(w.state.tasks[&task.id].status.state, TaskState::Shutdown);
    w.scale(&web, 2);
    w.settle();
    assert_eq!(w.running(&web).len(), 2);
    // A removed one is replaced, and its record goes.
    let task = w.running(&web)[0].clone();
    w.ok(Change::RemoveTask(task.id.clone()));
    w.settle();
    assert_eq!(w.running(&web).len(), 2);
    assert!(!w.state.tasks.contains_key(&task.id));
}

#[test]
fn a_stopped_service_keeps_its_records_and_starts_again() {
    let mut w = World::new(2);
    let job = w.create(spec("job", 2, Restart::Never));
    w.settle();
    w.ends(&w.running(&job)[0].id.clone(), 0);
    w.settle();
    w.scale(&job, 0);
    w.settle();
    assert!(w.running(&job).is_empty());
    assert_eq!(w.tasks(&job).len(), 2);
    w.scale(&job, 2);
    w.settle();
    assert_eq!(w.running(&job).len(), 2);
}

#[test]
fn a_removed_record_of_work_that_is_done_does_not_have_it_done_again() {
    let mut w = World::new(1);
    let job = w.create(spec("job", 1, Restart::Never));
    w.settle();
    let task = w.running(&job)[0].id.clone();
    w.ends(&task, 0);
    w.settle();
    w.ok(Change::RemoveTask(task));
    w.settle();
    assert!(w.tasks(&job).is_empty());
}

#[test]
fn tasks_of_a_dead_node_are_replaced_and_their_addresses_rest_until_it_is_back() {
    let mut w = World::new(3);
    let web = w.create(spec("web", 3, Restart::OnFailure));
    let once = w.create(spec("once", 3, Restart::Never));
    w.settle();
    w.frozen.push(NodeId(2));
    w.ok(Change::NodeDown(NodeId(2)));
    w.settle();
    assert_eq!(w.running(&web).len(), 3);
    assert!(w.running(&web).iter().all(|t| t.node != Some(NodeId(2))));
    assert_eq!(w.running(&once).len(), 2, "nobody knows how far it got");
    let leases = |w: &World| -> usize { w.state.networks.values().map(|n| n.leases.len()).sum() };
    assert_eq!(leases(&w), 5 + 2);
    assert_eq!(w.local[&NodeId(2)].len(), 2);
    // It hears first that it is fenced, and removes what was replaced.
    w.frozen.clear();
    w.nodes_work();
    assert!(w.local[&NodeId(2)].is_empty());
    assert_eq!(leases(&w), 7, "a fenced node is not heard");
    w.ok(Change::NodeUp(NodeId(2)));
    w.settle();
    assert_eq!(leases(&w), 5);
    assert!(w.local[&NodeId(2)].is_empty(), "nothing runs again");
}

#[test]
fn a_service_on_a_dead_node_can_be_removed_and_leaves_nothing_when_the_node_is_back() {
    let mut w = World::new(2);
    let web = w.create(spec("web", 2, Restart::OnFailure));
    w.settle();
    w.frozen.push(NodeId(2));
    w.ok(Change::NodeDown(NodeId(2)));
    w.ok(Change::RemoveService(web.id.clone()));
    w.settle();
    assert!(w.state.services.is_empty());
    assert_eq!(w.state.tasks.len(), 1, "its address is not free yet");
    w.frozen.clear();
    w.ok(Change::NodeUp(NodeId(2)));
    w.settle();
    assert!(w.state.tasks.is_empty());
    assert!(w.state.networks.values().all(|n| n.leases.is_empty()));
    assert!(w.local.values().all(Vec::is_empty));
}

#[test]
fn a_node_that_is_taken_out_frees_what_its_tasks_had() {
    let mut w = World::new(2);
    let web = w.create(spec("web", 2, Restart::OnFailure));
    w.settle();
    w.ok(Change::RemoveNode {
        id: NodeId(2),
        force: true,
    });
    w.settle();
    assert_eq!(nodes_of(&w.running(&web)), [1, 1]);
    let network = w.state.networks.values().next().unwrap();
    assert_eq!((network.leases.len(), network.gateways.len()), (2, 1));
}

#[test]
fn a_drained_node_is_left_and_a_paused_one_gets_nothing_new() {
    let mut w = World::new(2);
    let web = w.create(spec("web", 4, Restart::Never));
    w.settle();
    availability(&mut w, 2, Availability::Drain);
    w.settle();
    assert_eq!(nodes_of(&w.running(&web)), [1, 1, 1, 1]);
    availability(&mut w, 2, Availability::Active);
    w.scale(&web, 6);
    w.settle();
    assert_eq!(nodes_of(&w.running(&web)), [1, 1, 1, 1, 2, 2]);
    availability(&mut w, 2, Availability::Pause);
    w.scale(&web, 8);
    w.settle();
    assert_eq!(nodes_of(&w.running(&web)), [1, 1, 1, 1, 1, 1, 2, 2]);
}

#[test]
fn tasks_without_a_place_say_why_and_get_one_when_there_is_one() {
    let mut w = World::new(2);
    let mut disk = spec("disk", 1, Restart::OnFailure);
    disk.task.constraints = vec!["node.labels.disk==ssd".parse().unwrap()];
    let disk = w.create(disk);
    w.settle();
    let message = w.tasks(&disk)[0].status.message.clone();
    for word in ["host1", "host2", "disk"] {
        assert!(message.contains(word), "{message}");
    }
    let change = NodeChange {
        set_labels: [("disk".to_owned(), "ssd".to_owned())].into(),
        ..NodeChange::default()
    };
    w.ok(Change::UpdateNode(NodeId(2), change));
    w.settle();
    assert_eq!(nodes_of(&w.running(&disk)), [2]);
    assert_eq!(w.running(&disk)[0].status.message, "");
    // One that waits and is not wanted any more goes at once.
    let mut big = spec("big", 2, Restart::OnFailure);
    big.task.resources.memory = Some(900 << 40);
    let big = w.create(big);
    w.settle();
    assert!(w.tasks(&big)[0].status.message.contains("memory"));
    w.ok(Change::RemoveService(big.id.clone()));
    w.settle();
    assert!(w.tasks(&big).is_empty() && !w.state.services.contains_key(&big.id));
}

#[test]
fn a_service_that_removes_itself_can_be_read_for_a_while_and_runs_once() {
    let mut w = World::new(1);
    let mut job = spec("job", 1, Restart::Never);
    job.auto_remove = true;
    let job = w.create(job);
    w.settle();
    w.ends(&w.running(&job)[0].id.clone(), 3);
    w.settle();
    assert_eq!(w.tasks(&job)[0].status.exit.unwrap().code, 3);
    let next = plan(&w.state, w.now).next.unwrap();
    assert_eq!(next, Timestamp(w.now.0 + READABLE_MS));
    w.now = next;
    w.settle();
    assert!(w.state.services.is_empty() && w.state.tasks.is_empty());
    assert!(w.local.values().all(Vec::is_empty));
}

#[test]
fn a_plan_never_promises_more_than_a_node_has() {
    let mut w = World::new(3);
    let mut web = spec("web", 40, Restart::OnFailure);
    web.task.resources.memory = Some(crate::testing::MEMORY / 4);
    let web = w.create(web);
    w.settle();
    assert_eq!(
        nodes_of(&w.running(&web)),
        [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    );
}

#[test]
fn a_large_cluster_is_planned_in_one_go() {
    let mut w = World::new(200);
    for n in 0..60 {
        w.create(spec(&format!("s{n}"), 100, Restart::OnFailure));
    }
    let plan = super::plan(&w.state, w.now);
    assert_eq!(plan.items.len(), 6000);
    w.ok(Change::Plan(plan.items));
    assert!(super::plan(&w.state, w.now).items.is_empty());
    let mut on: BTreeMap<NodeId, usize> = BTreeMap::new();
    for task in w.state.tasks.values() {
        *on.entry(task.node.unwrap()).or_default() += 1;
    }
    // The one that has the image gets one more.
    assert!(
        on.len() == 200 && on.values().all(|n| (29..=31).contains(n)),
        "{on:?}"
    );
}
