use super::plan::{NewTask, Plan, View, plan};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use swarm_api::model::{
    DesiredState, Id, Restart, RestartPolicy, Service, ServiceSpec, Task, TaskSpec, TaskState,
    TaskStatus, Timestamp,
};

const NOW: Timestamp = Timestamp(1_000_000);

fn service(replicas: u32, restart: Restart) -> Service {
    Service {
        id: Id::from_u64(1),
        spec: ServiceSpec {
            name: "web".into(),
            replicas,
            restart: RestartPolicy::with(restart),
            ..ServiceSpec::default()
        },
        version: 1,
        running: 0,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    }
}

fn task(number: u64, slot: u32, state: TaskState) -> Task {
    Task {
        id: Id::from_u64(100 + number),
        name: format!("web.{slot}"),
        service: "web".into(),
        service_id: Id::from_u64(1),
        slot,
        spec: TaskSpec::default(),
        node: None,
        node_name: "host1".into(),
        addresses: Vec::new(),
        desired: DesiredState::Running,
        status: TaskStatus {
            state,
            started_at: Some(Timestamp(NOW.0 - 5)),
            finished_at: state.is_final().then_some(NOW),
            ..TaskStatus::default()
        },
        attempt: 0,
        not_before: Timestamp(0),
        created_at: Timestamp(number),
    }
}

fn planned(service: Option<&Service>, tasks: &[Task], now: Timestamp) -> Plan {
    planned_with(service, tasks, now, &[], &[])
}

fn planned_with(
    service: Option<&Service>,
    tasks: &[Task],
    now: Timestamp,
    busy: &[&Task],
    attached: &[&Task],
) -> Plan {
    let services: BTreeMap<Id, Service> = service
        .map(|s| (s.id.clone(), s.clone()))
        .into_iter()
        .collect();
    let ids = |tasks: &[&Task]| tasks.iter().map(|t| t.id.clone()).collect::<HashSet<Id>>();
    plan(
        &View {
            services: &services,
            tasks: tasks.iter().collect(),
            busy: &ids(busy),
            attached: &ids(attached),
        },
        now,
    )
}

#[test]
fn every_slot_gets_a_task_and_a_waiting_one_is_started_once() {
    let web = service(2, Restart::Always);
    let made = planned(Some(&web), &[], NOW);
    assert_eq!(
        made.create.iter().map(|n| n.slot).collect::<Vec<_>>(),
        [1, 2]
    );
    let tasks = [
        task(1, 1, TaskState::Pending),
        task(2, 2, TaskState::Running),
    ];
    let started = planned(Some(&web), &tasks, NOW);
    assert_eq!(started.start, [tasks[0].id.clone()]);
    let busy = planned_with(Some(&web), &tasks, NOW, &[&tasks[0]], &[]);
    assert_eq!(busy, Plan::default());
}

#[test]
fn a_task_that_failed_is_tried_again_ever_later_and_one_that_is_done_is_not() {
    let web = service(1, Restart::OnFailure);
    let mut failed = task(1, 1, TaskState::Failed);
    let expected = |attempt, delay| NewTask {
        service: web.id.clone(),
        slot: 1,
        attempt,
        not_before: NOW.plus(Duration::from_millis(delay)),
    };
    for (attempt, delay) in [(0, 100), (1, 200), (2, 400)] {
        failed.attempt = attempt;
        let again = planned(Some(&web), std::slice::from_ref(&failed), NOW);
        assert_eq!(again.create, [expected(attempt + 1, delay)]);
    }
    // It ran well for a while: the row starts anew.
    failed.status.started_at = Some(Timestamp(0));
    let anew = planned(Some(&web), std::slice::from_ref(&failed), NOW);
    assert_eq!(anew.create, [expected(0, 100)]);
    let done = [task(1, 1, TaskState::Complete)];
    assert_eq!(planned(Some(&web), &done, NOW), Plan::default());
    let mut waiting = task(2, 1, TaskState::Pending);
    waiting.not_before = NOW.plus(Duration::from_secs(1));
    let waits = planned(Some(&web), &[waiting.clone()], NOW);
    assert_eq!(
        (waits.start.len(), waits.next),
        (0, Some(waiting.not_before))
    );
}

#[test]
fn a_task_that_was_stopped_by_hand_is_not_replaced() {
    let web = service(1, Restart::Always);
    let mut stopped = task(1, 1, TaskState::Shutdown);
    stopped.desired = DesiredState::Shutdown;
    assert_eq!(planned(Some(&web), &[stopped], NOW), Plan::default());
    let mut stopping = task(1, 1, TaskState::Running);
    stopping.desired = DesiredState::Shutdown;
    let stops = planned(Some(&web), &[stopping.clone()], NOW);
    assert_eq!((stops.stop, stops.remove.len()), (vec![stopping.id], 0));
}

#[test]
fn what_is_too_much_goes() {
    let tasks = [
        task(1, 1, TaskState::Running),
        task(2, 2, TaskState::Running),
    ];
    let scaled = planned(Some(&service(1, Restart::Always)), &tasks, NOW);
    assert_eq!(scaled.remove, [tasks[1].id.clone()]);
    let orphans = planned(None, &tasks, NOW);
    assert_eq!(orphans.remove.len(), 2);
    let history: Vec<Task> = (0..8).map(|n| task(n, 1, TaskState::Failed)).collect();
    let pruned = planned(Some(&service(1, Restart::Never)), &history, NOW);
    assert_eq!(pruned.remove.len(), 4);
    assert!(!pruned.remove.contains(&history[7].id));
}

#[test]
fn a_service_that_removes_itself_waits_for_those_who_read_its_output() {
    let mut web = service(1, Restart::Never);
    web.spec.auto_remove = true;
    let tasks = [task(1, 1, TaskState::Failed)];
    let lingers = planned(Some(&web), &tasks, NOW);
    assert!(lingers.finished.is_empty());
    let later = lingers.next.unwrap();
    let read = planned_with(Some(&web), &tasks, later, &[], &[&tasks[0]]);
    assert!(read.finished.is_empty());
    assert_eq!(
        planned(Some(&web), &tasks, later).finished,
        [web.id.clone()]
    );
    let running = [task(1, 1, TaskState::Running)];
    assert_eq!(planned(Some(&web), &running, later), Plan::default());
}
