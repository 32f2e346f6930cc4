//! The verbs over one real member whose host is made up.

mod fake_host;

use super::Cluster;
use crate::leader::solo::{Solo, service};
use fake_host::FakeHost;
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use swarm_api::backend::{AttachOptions, Create, ExecSpec, LogOptions, Output, Update};
use swarm_api::model::{
    Kind, Object, Query, RaftStatus, Read, Restart, Scope, ServiceChange, Task, TaskState,
};
use swarm_api::{Backend, Error};

struct World {
    solo: Solo,
    cluster: Cluster,
    host: Arc<FakeHost>,
}

impl World {
    async fn start() -> Self {
        let solo = Solo::start().await;
        let host = Arc::new(FakeHost::default());
        let cluster = Cluster {
            member: solo.member.clone(),
            local: Arc::clone(&host) as Arc<dyn Backend>,
        };
        Self {
            solo,
            cluster,
            host,
        }
    }

    /// One task of a new service `web`, which runs.
    async fn running(&self, restart: Restart) -> Task {
        let spec = service("web", 1, restart);
        self.cluster.create(Create::Service(spec)).await.unwrap();
        let task = self.solo.placed("web", 1, None).await;
        self.solo.report(&task.id, TaskState::Running, None).await;
        self.host.run(&task.id);
        task
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_is_listed_changed_and_removed() {
    let world = World::start().await;
    let (solo, cluster) = (&world.solo, &world.cluster);
    let task = world.running(Restart::OnFailure).await;

    let info = cluster.info().await.unwrap();
    assert_eq!(
        (info.scope, info.node_name.as_str()),
        (Scope::Cluster, "host1")
    );
    assert_eq!(info.leader, Some(solo.member.id()));
    let nodes = cluster.list(Query::of(Kind::Node)).await.unwrap();
    let Object::Node(node) = &nodes.value[0] else {
        panic!("{nodes:?}")
    };
    assert_eq!(node.raft, RaftStatus::Leader);
    assert!(!nodes.freshness.stale);
    let found = cluster
        .get(Kind::Task, "web.1", Read::Linearizable)
        .await
        .unwrap();
    let Object::Task(found) = found.value else {
        panic!("{found:?}")
    };
    assert_eq!(
        (found.id, found.node_name.as_str()),
        (task.id.clone(), "host1")
    );
    let found = cluster.lookup("web", Read::Stale).await.unwrap().value;
    assert_eq!(found.endpoints.len(), 1);

    let change = ServiceChange { replicas: Some(2) };
    cluster
        .update(Update::Service("web".into(), change))
        .await
        .unwrap();
    solo.placed("web", 2, None).await;

    let why = cluster
        .remove(Kind::Task, "web.1", false)
        .await
        .unwrap_err();
    assert!(
        matches!(&why, Error::Conflict(m) if m.contains("--force")),
        "{why:?}"
    );
    let removed = tokio::select! {
        removed = cluster.remove(Kind::Service, "web", true) => removed,
        () = solo.end_what_is_to_end() => unreachable!(),
    };
    removed.unwrap();
    assert!(cluster.member.state().services.is_empty());
    assert!(world.host.calls().contains(&format!("kill {} 9", task.id)));
    assert!(world.solo.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_by_its_name() {
    let world = World::start().await;
    let cluster = &world.cluster;
    let nothing = || stream::empty().boxed();
    let scale = Update::Service("ghost".into(), ServiceChange { replicas: Some(2) });
    let label = Update::Node("ghost".into(), Default::default());
    let whys = [
        cluster
            .get(Kind::Task, "ghost", Read::Stale)
            .await
            .map(drop),
        cluster.lookup("ghost", Read::Stale).await.map(drop),
        cluster.update(scale).await.map(drop),
        cluster.update(label).await.map(drop),
        cluster.stop("ghost", None).await,
        cluster.kill("ghost.1", 9).await,
        cluster.wait("ghost.1").await.map(drop),
        cluster.logs("ghost", LogOptions::default()).await.map(drop),
        cluster
            .attach("ghost.1", AttachOptions::default(), nothing())
            .await
            .map(drop),
        cluster
            .exec("ghost.1", ExecSpec::default(), nothing())
            .await
            .map(drop),
        cluster.stats(vec!["ghost.1".into()], false).await.map(drop),
        cluster.remove(Kind::Service, "ghost", false).await,
        cluster.remove(Kind::Task, "ghost.1", true).await,
        cluster.remove(Kind::Node, "ghost", true).await,
        cluster.remove(Kind::Image, "ghost", false).await,
        cluster.remove(Kind::Network, "ghost", false).await,
    ];
    for (number, why) in whys.into_iter().enumerate() {
        let why = why.unwrap_err();
        assert!(
            matches!(&why, Error::NotFound(m) if m.contains("ghost")),
            "{number}: {why:?}"
        );
    }
    assert!(world.solo.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attaching_waits_for_a_task_that_is_to_come() {
    let world = World::start().await;
    let spec = service("web", 1, Restart::Never);
    world.cluster.create(Create::Service(spec)).await.unwrap();
    let options = AttachOptions {
        replay: true,
        size: None,
    };
    let input = stream::empty().boxed();
    let attach = world.cluster.attach("web.1", options, input);
    let start = async {
        let task = world.solo.placed("web", 1, None).await;
        world.solo.report(&task.id, TaskState::Starting, None).await;
        assert!(world.host.calls().is_empty());
        world.solo.report(&task.id, TaskState::Running, None).await;
        task
    };
    let (stream, task) = tokio::join!(attach, start);
    let output: Vec<_> = stream.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(output.len(), 2);
    assert!(matches!(output[1], Output::Exit(exit) if exit.code == 0));
    assert_eq!(world.host.calls(), [format!("attach {}", task.id)]);
    let input = stream::empty().boxed();
    let exec = world.cluster.exec("web", ExecSpec::default(), input);
    drop(exec.await.unwrap());
    assert_eq!(world.host.calls()[1], format!("exec {}", task.id));
    assert!(world.solo.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_returns_when_all_has_ended_and_waiting_tells_how() {
    let world = World::start().await;
    let (solo, cluster) = (&world.solo, &world.cluster);
    let task = world.running(Restart::OnFailure).await;
    let timeout = Some(Duration::from_secs(3));
    let (exit, stopped) = tokio::select! {
        both = async { tokio::join!(cluster.wait("web.1"), cluster.stop("web", timeout)) } => both,
        () = solo.end_what_is_to_end() => unreachable!(),
    };
    stopped.unwrap();
    assert_eq!(exit.unwrap().code, 143);
    {
        let state = cluster.member.state();
        let live = state.tasks.values().filter(|t| !t.status.state.is_final());
        assert_eq!(live.count(), 0);
        if let Some(ended) = state.tasks.get(&task.id) {
            assert_eq!(ended.spec.stop_timeout_ms, Some(3000));
        }
        assert_eq!(
            state
                .services
                .values()
                .next()
                .unwrap()
                .service
                .spec
                .replicas,
            0
        );
    }
    // What is stopped already is.
    cluster.stop("web", None).await.unwrap();
    assert!(world.solo.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gets_the_log_of_the_task_that_comes_next_and_ends_with_the_last() {
    let world = World::start().await;
    let (solo, cluster) = (&world.solo, &world.cluster);
    let first = world.running(Restart::OnFailure).await;
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut log = cluster.logs("web", options).await.unwrap();
    assert_eq!(
        log.next().await.unwrap().unwrap().data,
        first.id.to_string()
    );
    solo.report(&first.id, TaskState::Failed, Some(1)).await;
    let second = solo.placed("web", 1, Some(&first.id)).await;
    solo.report(&second.id, TaskState::Running, None).await;
    assert_eq!(
        log.next().await.unwrap().unwrap().data,
        second.id.to_string()
    );
    solo.report(&second.id, TaskState::Complete, Some(0)).await;
    assert!(log.next().await.is_none());
    assert!(world.solo.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_statistics_come_from_the_state_and_the_nodes() {
    let world = World::start().await;
    let cluster = &world.cluster;
    let before = cluster.member.state().index;
    let mut events = cluster.watch(None).unwrap();
    let task = world.running(Restart::Never).await;
    let mut of_task = 0;
    while of_task < 2 {
        let event = events.next().await.unwrap().unwrap();
        assert!(event.index > before);
        of_task += usize::from(event.kind == Kind::Task && event.name == "web.1");
    }
    let mut again = cluster.watch(Some(before)).unwrap();
    assert_eq!(again.next().await.unwrap().unwrap().name, "web");

    let mut rounds = cluster.stats(vec!["web.1".into()], false).await.unwrap();
    let round = rounds.next().await.unwrap().unwrap();
    assert_eq!(round.len(), 1);
    assert_eq!(
        (&round[0].task_id, round[0].node_name.as_str()),
        (&task.id, "host1")
    );
    assert!(rounds.next().await.is_none());
    assert!(world.solo.end().await);
}
