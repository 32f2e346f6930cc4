use super::solo::{Solo, service};
use std::time::Duration;
use swarm_api::model::{NodeHealth, Restart, ServiceChange, TaskState};
use swarm_cluster::Change;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_s_tasks_are_placed_replaced_and_scaled() {
    let solo = Solo::start().await;
    let spec = service("web", 2, Restart::OnFailure);
    let made = solo
        .member
        .propose(Change::CreateService(spec))
        .await
        .unwrap();
    let Some(swarm_api::model::Object::Service(made)) = made else {
        panic!("{made:?}");
    };
    let first = solo.placed("web", 1, None).await;
    let second = solo.placed("web", 2, None).await;
    for task in [&first, &second] {
        solo.report(&task.id, TaskState::Running, None).await;
    }
    solo.report(&second.id, TaskState::Failed, Some(1)).await;
    let next = solo.placed("web", 2, Some(&second.id)).await;
    assert_eq!(next.attempt, second.attempt + 1);
    solo.report(&next.id, TaskState::Running, None).await;

    let change = ServiceChange { replicas: Some(1) };
    let change = Change::UpdateService(made.id, change);
    solo.member.propose(change).await.unwrap();
    let gone = solo
        .until("the second is to end", |state| {
            let task = state.tasks.values().find(|t| t.id == next.id);
            let ends = task.is_none_or(|t| t.desired > swarm_api::model::DesiredState::Running);
            ends.then(|| state.tasks.get(&first.id).map(|t| t.status.state))
        })
        .await;
    assert_eq!(gone, Some(TaskState::Running));
    assert!(solo.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_cluster_writes_nothing() {
    let solo = Solo::start().await;
    let spec = service("web", 1, Restart::Always);
    solo.member
        .propose(Change::CreateService(spec))
        .await
        .unwrap();
    let task = solo.placed("web", 1, None).await;
    solo.report(&task.id, TaskState::Running, None).await;
    // That nothing happens cannot be awaited: some time must pass.
    let pause = std::time::Duration::from_millis(700);
    let mut before = 0;
    for _ in 0..10 {
        let index = solo.member.state().index;
        if index == before {
            assert!(solo.end().await);
            return;
        }
        before = index;
        tokio::time::sleep(pause).await;
    }
    panic!("the log grows all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_no_node_takes_is_explained_once() {
    let solo = Solo::start().await;
    let mut spec = service("web", 1, Restart::Always);
    spec.task.constraints = vec!["node.labels.disk==ssd".parse().unwrap()];
    solo.member
        .propose(Change::CreateService(spec))
        .await
        .unwrap();
    let why = solo
        .until("it is explained", |state| {
            let task = state.tasks.values().find(|t| t.service == "web")?;
            Some(task.status.message.clone()).filter(|m| !m.is_empty())
        })
        .await;
    assert!(why.contains("host1") && why.contains("disk"), "{why}");
    let index = solo.member.state().index;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(solo.member.state().index, index);
    assert!(solo.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_get_a_vote_and_a_dead_one_is_fenced_and_its_tasks_replaced() {
    let one = Solo::start().await;
    let two = one.join("host2").await;
    let three = one.join("host3").await;
    // Who votes is not in the state, so that it cannot be awaited there.
    let mut voters = 0;
    for _ in 0..60 {
        voters = one.member.status().voters.len();
        if voters == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(voters, 3);

    let mut spec = service("web", 1, Restart::OnFailure);
    spec.task.constraints = vec!["node.name!=host1".parse().unwrap()];
    (two.member.propose(Change::CreateService(spec)).await).unwrap();
    let first = one.placed("web", 1, None).await;
    let (lost, left) = if first.node == Some(two.member.id()) {
        (two, three)
    } else {
        (three, two)
    };
    let node = lost.member.id();
    // The others see a host that is gone: nothing answers there any more.
    assert!(lost.end().await);
    let next = left.placed("web", 1, Some(&first.id)).await;
    assert_eq!(next.node, Some(left.member.id()));
    {
        let state = left.member.state();
        assert_eq!(state.nodes[&node].health, NodeHealth::Down);
        assert_eq!(state.tasks[&first.id].status.state, TaskState::Lost);
    }
    assert!(left.end().await);
    assert!(one.end().await);
}
