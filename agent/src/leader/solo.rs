//! A cluster of one real member (or more), for tests: with a log on disk, gossip and TLS on a loopback address; its containers
//! are only said to run.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use swarm_api::model::{
    Capacity, Cpus, DesiredState, ExitStatus, Id, Image, ImageConfig, NodeRole, Restart,
    RestartPolicy, ServiceSpec, Task, TaskSpec, TaskState, TaskStatus,
};
use swarm_cluster::{Change, State};
use swarm_member::{Member, MemberConfig, World};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What anything that is awaited comes within, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// The cluster; its leader's work runs until it is dropped.
pub(crate) struct Solo {
    pub(crate) member: Member,
    stop: CancellationToken,
    leader: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Solo {
    /// A cluster with the image `whoami`, and its leader at work.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let member = Member::found(config(&dir, "host1")).await.unwrap();
        let stop = CancellationToken::new();
        let leader = tokio::spawn(super::run(member.clone(), stop.clone()));
        let node = member.id();
        let image = whoami();
        (member.propose(Change::PutImage { image, node }).await).unwrap();
        Self {
            member,
            stop,
            leader: Some(leader),
            _dir: dir,
        }
    }

    /// One more member, a manager that may lead as well.
    pub(crate) async fn join(&self, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = self.member.create_token(NodeRole::Manager, SOON * 10);
        let token = token.await.unwrap().secret.unwrap();
        let peer = self.member.advertise().to_string();
        let member = Member::join(config(&dir, name), &peer, &token);
        let member = member.await.unwrap();
        let stop = CancellationToken::new();
        Self {
            leader: Some(tokio::spawn(super::run(member.clone(), stop.clone()))),
            member,
            stop,
            _dir: dir,
        }
    }

    /// What `look` finds in the state, now or later.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let mut applied = self.member.watch_applied();
        let found = async {
            loop {
                applied.borrow_and_update();
                let found = look(&self.member.state());
                if let Some(found) = found {
                    return found;
                }
                applied.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(SOON, found).await {
            Ok(found) => found,
            Err(_) => panic!("{what}: {:#?}", self.member.state().tasks),
        }
    }

    /// The task of `slot` of `service` that is not `not`, once it has a node.
    pub(crate) async fn placed(&self, service: &str, slot: u32, not: Option<&Id>) -> Task {
        self.until("a task is placed", |state| {
            let mut tasks = state.tasks.values();
            let fits = |t: &&Task| {
                (t.service == service && t.slot == slot)
                    && (t.node.is_some() && Some(&t.id) != not && !t.status.state.is_final())
            };
            tasks.find(fits).cloned()
        })
        .await
    }

    /// Reports `state` of a task, as its node would.
    pub(crate) async fn report(&self, task: &Id, state: TaskState, exit: Option<i32>) {
        let now = self.member.world().now();
        let status = TaskStatus {
            state,
            exit: exit.map(|code| ExitStatus {
                code,
                ..ExitStatus::default()
            }),
            pid: Some(1),
            started_at: Some(now),
            finished_at: state.is_final().then_some(now),
            observed_at: now,
            ..TaskStatus::default()
        };
        let change = Change::Report {
            node: self.member.id(),
            statuses: vec![(task.clone(), status)],
        };
        self.member.propose(change).await.unwrap();
    }

    /// Ends each task that is asked to, as its node would, for as long as it is not aborted.
    pub(crate) async fn end_what_is_to_end(&self) {
        loop {
            let id = self
                .until("a task is to end", |state| {
                    let mut tasks = state.tasks.values();
                    let ends = |t: &&Task| {
                        t.desired != DesiredState::Running && !t.status.state.is_final()
                    };
                    tasks.find(ends).map(|t| t.id.clone())
                })
                .await;
            self.report(&id, TaskState::Shutdown, Some(143)).await;
        }
    }

    /// Ends it, and says whether the leader's work ended in an orderly way.
    pub(crate) async fn end(mut self) -> bool {
        self.stop.cancel();
        let leader = self.leader.take().unwrap();
        let ended = tokio::time::timeout(SOON, leader).await;
        self.member.shutdown().await;
        matches!(ended, Ok(Ok(())))
    }
}

/// A service of `whoami`.
pub(crate) fn service(name: &str, replicas: u32, restart: Restart) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        replicas,
        task: TaskSpec {
            image: "whoami".into(),
            ..TaskSpec::default()
        },
        restart: RestartPolicy {
            condition: restart,
            delay_ms: 10,
            ..RestartPolicy::default()
        },
        ..ServiceSpec::default()
    }
}

/// An image without layers.
pub(crate) fn whoami() -> Image {
    Image {
        reference: "whoami".parse().unwrap(),
        digest: format!("sha256:{}", "0".repeat(64)),
        layers: Vec::new(),
        size: 0,
        config: ImageConfig::default(),
        created_at: swarm_api::model::Timestamp(1),
        builtin: true,
        manifest: None,
    }
}

fn config(dir: &tempfile::TempDir, name: &str) -> MemberConfig {
    let listen = free_address();
    MemberConfig {
        world: World::system(dir.path()),
        listen,
        advertise: listen,
        name: name.into(),
        version: "0".into(),
        capacity: Capacity {
            cpus: Cpus(4_000_000_000),
            memory: 1 << 30,
        },
        routes: tonic::service::Routes::default(),
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.77:0").unwrap();
    listener.local_addr().unwrap()
}
