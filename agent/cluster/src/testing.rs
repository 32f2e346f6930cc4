//! A cluster for tests: a state, and nodes that do at once what the reconciler says, without containers.

use crate::command::{Change, Command, Outcome};
use crate::orchestrator;
use crate::reconciler::{self, Action};
use crate::reports;
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::{
    Capacity, Cpus, ExitStatus, Id, Image, ImageConfig, Node, NodeId, NodeRole, Object, Restart,
    RestartPolicy, Service, ServiceChange, ServiceSpec, Task, TaskSpec, TaskState, TaskStatus,
    Timestamp,
};

/// The memory of every node.
pub(crate) const MEMORY: u64 = 1 << 30;

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    pub(crate) local: BTreeMap<NodeId, Vec<Task>>,
    /// Nodes that do nothing and hear nothing.
    pub(crate) frozen: Vec<NodeId>,
    /// Everything that was applied.
    pub(crate) log: Vec<Command>,
}

impl World {
    /// Nodes 1 to `count`, and the images `web` and `job`.
    pub(crate) fn new(count: u64) -> Self {
        let mut world = Self {
            state: State::default(),
            now: Timestamp(1_000_000),
            local: BTreeMap::new(),
            frozen: Vec::new(),
            log: Vec::new(),
        };
        let init = Change::Init {
            cluster: "c".into(),
            node: node(1),
            pool: "10.128.0.0/10".parse().unwrap(),
            sealed: vec![1],
        };
        world.ok(init);
        for id in 2..=count {
            let (node, token) = (node(id), None);
            world.ok(Change::AddNode { node, token });
        }
        for name in ["web", "job"] {
            let (image, node) = (image(name), NodeId(1));
            world.ok(Change::PutImage { image, node });
        }
        world
    }

    pub(crate) fn apply(&mut self, change: Change) -> Outcome {
        let command = Command {
            time: self.now,
            change,
        };
        self.log.push(command.clone());
        self.state.apply(self.log.len() as u64, &command)
    }

    pub(crate) fn ok(&mut self, change: Change) -> Option<Object> {
        self.apply(change).unwrap()
    }

    pub(crate) fn create(&mut self, spec: ServiceSpec) -> Service {
        match self.ok(Change::CreateService(spec)) {
            Some(Object::Service(service)) => service,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn scale(&mut self, service: &Service, replicas: u32) {
        let change = ServiceChange {
            replicas: Some(replicas),
        };
        self.ok(Change::UpdateService(service.id.clone(), change));
    }

    /// Carries plans out until there is nothing to plan.
    pub(crate) fn plan(&mut self) {
        for _ in 0..6 {
            let plan = orchestrator::plan(&self.state, self.now);
            if plan.items.is_empty() {
                return;
            }
            self.ok(Change::Plan(plan.items));
        }
        let plan = orchestrator::plan(&self.state, self.now);
        panic!("planning does not come to an end: {:#?}", plan.items);
    }

    /// Every node that is not frozen does what it has to do, and reports.
    pub(crate) fn nodes_work(&mut self) {
        let nodes: Vec<NodeId> = self.state.nodes.keys().copied().collect();
        for node in nodes {
            if self.frozen.contains(&node) {
                continue;
            }
            let local = self.local.entry(node).or_default();
            for action in reconciler::actions(&self.state, node, local, self.now) {
                carry_out(local, action, self.now);
            }
            let statuses = reports::diff(&self.state, node, &self.local[&node]);
            if !statuses.is_empty() {
                self.ok(Change::Report { node, statuses });
            }
        }
    }

    /// Plans and works until all is as it should be now.
    pub(crate) fn settle(&mut self) {
        for _ in 0..8 {
            self.plan();
            self.nodes_work();
        }
        self.plan();
    }

    pub(crate) fn wait(&mut self, milliseconds: u64) {
        self.now.0 += milliseconds;
    }

    /// The container of a task ends by itself.
    pub(crate) fn ends(&mut self, task: &Id, code: i32) {
        let now = self.now;
        for task in self.local.values_mut().flatten().filter(|t| t.id == *task) {
            if task.status.state.is_final() {
                continue;
            }
            task.status.state = match code {
                0 => TaskState::Complete,
                _ => TaskState::Failed,
            };
            task.status.exit = Some(ExitStatus {
                code,
                ..ExitStatus::default()
            });
            task.status.finished_at = Some(now);
        }
    }

    pub(crate) fn tasks(&self, service: &Service) -> Vec<Task> {
        let tasks = self.state.tasks_of_service(&service.id);
        tasks.into_iter().cloned().collect()
    }

    pub(crate) fn running(&self, service: &Service) -> Vec<Task> {
        let mut tasks = self.tasks(service);
        tasks.retain(|t| t.status.state == TaskState::Running);
        tasks
    }
}

fn carry_out(local: &mut Vec<Task>, action: Action, now: Timestamp) {
    match action {
        Action::Run(mut task) => {
            assert!(
                !local.iter().any(|t| t.id == task.id),
                "{} is started twice",
                task.name
            );
            task.status = TaskStatus {
                state: TaskState::Running,
                pid: Some(7),
                started_at: Some(now),
                observed_at: now,
                ..TaskStatus::default()
            };
            local.push(task);
        }
        Action::Stop { id, .. } => {
            let ended = TaskStatus {
                state: TaskState::Shutdown,
                finished_at: Some(now),
                observed_at: now,
                ..TaskStatus::default()
            };
            match local.iter_mut().find(|t| t.id == id) {
                Some(task) => task.status = ended,
                None => local.push(Task {
                    status: ended,
                    ..task(id)
                }),
            }
        }
        Action::Remove(id) => local.retain(|t| t.id != id),
    }
}

pub(crate) fn node(id: u64) -> Node {
    Node {
        id: NodeId(id),
        name: format!("host{id}"),
        role: NodeRole::Manager,
        capacity: Capacity {
            cpus: Cpus::whole(4),
            memory: MEMORY,
        },
        ..Node::default()
    }
}

pub(crate) fn image(name: &str) -> Image {
    Image {
        reference: name.parse().unwrap(),
        digest: format!("sha256:{name}"),
        layers: vec![],
        size: 0,
        config: ImageConfig::default(),
        created_at: Timestamp(0),
        builtin: false,
        manifest: None,
    }
}

pub(crate) fn spec(name: &str, replicas: u32, restart: Restart) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        replicas,
        restart: RestartPolicy::with(restart),
        task: TaskSpec {
            image: "web".into(),
            ..TaskSpec::default()
        },
        ..ServiceSpec::default()
    }
}

fn task(id: Id) -> Task {
    Task {
        id,
        name: String::new(),
        service: String::new(),
        service_id: Id::default(),
        slot: 1,
        spec: TaskSpec::default(),
        node: None,
        node_name: String::new(),
        addresses: vec![],
        desired: Default::default(),
        status: TaskStatus::default(),
        attempt: 0,
        not_before: Timestamp(0),
        created_at: Timestamp(0),
    }
}

/// A task of one of the services 1000, 1001, ….
pub(crate) fn task_of(number: u64, service: u64, node: Option<NodeId>) -> Task {
    Task {
        service_id: Id::from_u64(1000 + service),
        node,
        ..task(Id::from_u64(number))
    }
}

pub(crate) fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().map(|n| NodeId(*n)).collect()
}

/// Nodes that may vote, and whether each is alive.
pub(crate) fn managers(alive: &[u64], dead: &[u64]) -> BTreeMap<NodeId, bool> {
    (alive.iter().map(|n| (NodeId(*n), true)))
        .chain(dead.iter().map(|n| (NodeId(*n), false)))
        .collect()
}
