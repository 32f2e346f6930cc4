use super::*;
use crate::command::Change;
use crate::testing::{World, spec};
use swarm_api::model::{Health, HealthState, Restart, Task, Timestamp};

fn running() -> (World, Task) {
    let mut w = World::new(1);
    let web = w.create(spec("web", 1, Restart::Never));
    w.settle();
    let task = w.running(&web).remove(0);
    (w, task)
}

fn told(w: &World, local: &[Task]) -> Vec<TaskState> {
    let told = diff(&w.state, NodeId(1), local);
    told.into_iter().map(|(_, status)| status.state).collect()
}

#[test]
fn only_news_are_told() {
    let (w, task) = running();
    let with = |change: &dyn Fn(&mut TaskStatus)| {
        let mut task = task.clone();
        change(&mut task.status);
        vec![task]
    };
    assert!(told(&w, &with(&|_| {})).is_empty());
    assert!(told(&w, &with(&|s| s.observed_at = Timestamp(9))).is_empty());
    assert!(told(&w, &with(&|s| s.state = TaskState::Starting)).is_empty());
    assert_eq!(told(&w, &with(&|s| s.pid = Some(9))), [TaskState::Running]);
    assert_eq!(
        told(&w, &with(&|s| s.state = TaskState::Failed)),
        [TaskState::Failed]
    );
    assert!(told(&w, &[]).is_empty());
}

#[test]
fn a_change_of_health_is_told_once_and_is_an_event() {
    let (mut w, mut task) = running();
    let node = NodeId(1);
    for (state, serves) in [
        (HealthState::Starting, false),
        (HealthState::Healthy, true),
        (HealthState::Unhealthy, false),
    ] {
        task.status.health = Some(Health {
            state,
            output: "x".repeat(9000),
            ..Health::default()
        });
        let statuses = diff(&w.state, node, std::slice::from_ref(&task));
        assert_eq!(statuses.len(), 1, "{state}");
        w.ok(Change::Report { node, statuses });
        assert!(told(&w, std::slice::from_ref(&task)).is_empty());
        let found = w.state.lookup("web").unwrap().endpoints;
        assert_eq!(found.len(), usize::from(serves), "{state}");
        let event = w.state.events.back().unwrap();
        assert_eq!(event.attributes["health"], state.to_string());
    }
}

#[test]
fn a_fenced_node_is_silent_and_then_says_that_what_it_lost_is_gone() {
    let (mut w, mut task) = running();
    task.status.state = TaskState::Failed;
    w.ok(Change::NodeDown(NodeId(1)));
    assert!(told(&w, std::slice::from_ref(&task)).is_empty());
    assert!(told(&w, &[]).is_empty());
    w.ok(Change::NodeUp(NodeId(1)));
    assert!(told(&w, &[task]).is_empty(), "it is still here");
    assert_eq!(told(&w, &[]), [TaskState::Shutdown]);
    w.nodes_work();
    w.nodes_work();
    assert!(told(&w, &[]).is_empty());
}
