use super::*;
use crate::command::Change;
use crate::testing::{World, spec};
use swarm_api::model::Restart;

/// A world where one task of `web` runs on node 1.
fn running() -> (World, Task) {
    let mut w = World::new(1);
    let web = w.create(spec("web", 1, Restart::Never));
    w.settle();
    let task = w.running(&web).remove(0);
    (w, task)
}

fn actions_of(w: &World, local: &[Task]) -> Vec<Action> {
    actions(&w.state, NodeId(1), local, w.now)
}

#[test]
fn a_task_is_run_once_and_never_again() {
    let (w, task) = running();
    assert!(matches!(&actions_of(&w, &[])[..], [Action::Run(t)] if t.id == task.id));
    assert!(actions_of(&w, std::slice::from_ref(&task)).is_empty());
    let mut ended = task;
    ended.status.state = TaskState::Failed;
    assert!(actions_of(&w, &[ended]).is_empty());
}

#[test]
fn a_task_waits_until_its_back_off_is_over() {
    let mut w = World::new(1);
    let bad = w.create(spec("bad", 1, Restart::Always));
    w.settle();
    w.ends(&w.running(&bad)[0].id.clone(), 1);
    w.settle();
    let local = w.local[&NodeId(1)].clone();
    assert!(actions_of(&w, &local).is_empty());
    let due = next(&w.state, NodeId(1), w.now).unwrap();
    w.now = due;
    assert!(matches!(&actions_of(&w, &local)[..], [Action::Run(_)]));
    assert_eq!(next(&w.state, NodeId(1), w.now), None);
}

#[test]
fn a_task_that_is_to_stop_is_stopped_also_when_it_never_started() {
    let (mut w, task) = running();
    w.ok(Change::StopTask(task.id.clone()));
    let stop = Action::Stop {
        id: task.id.clone(),
        timeout: Duration::from_secs(10),
    };
    for local in [&[task.clone()][..], &[]] {
        assert_eq!(actions_of(&w, local), std::slice::from_ref(&stop));
    }
    w.settle();
    let local = w.local[&NodeId(1)].clone();
    assert_eq!(local.len(), 1, "its log stays");
    w.ok(Change::RemoveTask(task.id.clone()));
    assert_eq!(actions_of(&w, &local), [Action::Remove(task.id)]);
}

#[test]
fn what_was_replaced_or_is_not_known_is_removed() {
    let (mut w, task) = running();
    let stranger = Task {
        id: Id::from_u64(77),
        ..task.clone()
    };
    let remove = |t: &Task| Action::Remove(t.id.clone());
    assert_eq!(
        actions_of(&w, &[task.clone(), stranger.clone()]),
        [remove(&stranger)]
    );
    w.ok(Change::NodeDown(NodeId(1)));
    assert_eq!(actions_of(&w, std::slice::from_ref(&task)), [remove(&task)]);
    assert!(actions_of(&w, &[]).is_empty());
}

#[test]
fn an_empty_replica_wants_nothing() {
    let (w, task) = running();
    assert!(actions(&State::default(), NodeId(1), &[task], w.now).is_empty());
}
