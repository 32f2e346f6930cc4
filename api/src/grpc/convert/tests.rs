//! Everything survives there and back, and what is malformed is refused by name.

use super::*;
use crate::backend::{Create, Update};
use crate::model::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use std::fmt::Debug;
use swarm_proto::v1;

/// There and back over the wire's bytes.
fn survives<M, W>(value: M)
where
    M: Clone + Debug + PartialEq + TryFrom<W, Error = Error>,
    W: From<M>,
{
    assert_eq!(M::try_from(W::from(value.clone())).unwrap(), value);
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9-]{0,12}"
}

fn some<T: Debug + Clone>(values: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(values)
}

fn port() -> impl Strategy<Value = Port> {
    (
        option::of(1..=u16::MAX),
        1..=u16::MAX,
        some(&[Protocol::Tcp, Protocol::Udp]),
    )
        .prop_map(|(published, target, protocol)| Port {
            published,
            target,
            protocol,
        })
}

fn mount() -> impl Strategy<Value = Mount> {
    let source = prop_oneof![
        text().prop_map(MountSource::Bind),
        text().prop_map(MountSource::Volume),
        Just(MountSource::Tmpfs),
    ];
    (source, text(), any::<bool>()).prop_map(|(source, target, read_only)| Mount {
        source,
        target,
        read_only,
    })
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    (
        vec(text(), 0..3),
        any::<[Option<u64>; 4]>(),
        option::of(any::<u32>()),
    )
        .prop_map(|(test, times, retries)| HealthCheck {
            test,
            interval_ms: times[0],
            timeout_ms: times[1],
            start_period_ms: times[2],
            start_interval_ms: times[3],
            retries,
        })
}

fn health() -> impl Strategy<Value = Health> {
    use HealthState::*;
    (some(&[Starting, Healthy, Unhealthy]), any::<u64>(), text()).prop_map(
        |(state, since, output)| Health {
            state,
            since: Timestamp(since),
            output,
        },
    )
}

fn task_spec() -> impl Strategy<Value = TaskSpec> {
    let network = prop_oneof![
        text().prop_map(NetworkMode::Cluster),
        Just(NetworkMode::None),
        Just(NetworkMode::Host),
    ];
    let constraints = some(&["node.name==a", "node.labels.x!=y"]).prop_map(|c| c.parse().unwrap());
    let resources = (
        option::of(any::<u64>()),
        option::of(any::<u64>()),
        option::of(any::<u32>()),
    );
    (
        (
            text(),
            option::of(vec(text(), 0..3)),
            vec(text(), 0..3),
            vec(text(), 0..3),
            option::of(text()),
            option::of(text()),
            option::of(text()),
        ),
        any::<[bool; 4]>(),
        vec(mount(), 0..3),
        resources,
        vec(constraints, 0..2),
        network,
        option::of(text()),
        (option::of(any::<u64>()), option::of(health_check())),
    )
        .prop_map(
            |(
                texts,
                flags,
                mounts,
                (memory, cpus, pids),
                constraints,
                network,
                signal,
                (timeout, health),
            )| {
                let (image, entrypoint, args, env, user, working_dir, hostname) = texts;
                let [tty, stdin, read_only, user_namespace] = flags;
                TaskSpec {
                    image,
                    entrypoint,
                    args,
                    env,
                    user,
                    working_dir,
                    hostname,
                    tty,
                    stdin,
                    read_only,
                    user_namespace,
                    mounts,
                    resources: Resources {
                        memory,
                        cpus: cpus.map(Cpus),
                        pids,
                        storage: memory,
                    },
                    constraints,
                    network,
                    stop_signal: signal,
                    stop_timeout_ms: timeout,
                    health,
                }
            },
        )
}

fn service_spec() -> impl Strategy<Value = ServiceSpec> {
    let restart = (
        some(&[Restart::Never, Restart::OnFailure, Restart::Always]),
        option::of(any::<u32>()),
        any::<[u64; 3]>(),
    )
        .prop_map(
            |(condition, max_attempts, [delay_ms, max_delay_ms, reset_after_ms])| RestartPolicy {
                condition,
                max_attempts,
                delay_ms,
                max_delay_ms,
                reset_after_ms,
            },
        );
    (
        text(),
        btree_map(text(), text(), 0..3),
        task_spec(),
        any::<u32>(),
        vec(port(), 0..3),
        restart,
        any::<bool>(),
    )
        .prop_map(
            |(name, labels, task, replicas, ports, restart, auto_remove)| ServiceSpec {
                name,
                labels,
                task,
                replicas,
                ports,
                restart,
                auto_remove,
            },
        )
}

fn task() -> impl Strategy<Value = Task> {
    use TaskState::*;
    let exit = (any::<i32>(), option::of(any::<i32>()), any::<bool>()).prop_map(
        |(code, signal, oom_killed)| ExitStatus {
            code,
            signal,
            oom_killed,
        },
    );
    let state = some(&[
        Pending, Assigned, Preparing, Starting, Running, Complete, Shutdown, Failed, Rejected, Lost,
    ]);
    let status = (
        state,
        text(),
        option::of(exit),
        option::of(any::<i32>()),
        option::of(any::<u64>()),
        option::of(any::<u64>()),
        any::<u64>(),
        option::of(health()),
        any::<u32>(),
    )
        .prop_map(
            |(state, message, exit, pid, started, finished, observed, health, oom_kills)| {
                TaskStatus {
                    state,
                    oom_kills,
                    message,
                    exit,
                    pid,
                    started_at: started.map(Timestamp),
                    finished_at: finished.map(Timestamp),
                    observed_at: Timestamp(observed),
                    health,
                }
            },
        );
    let desired = some(&[
        DesiredState::Running,
        DesiredState::Shutdown,
        DesiredState::Removed,
    ]);
    (
        any::<[u32; 2]>(),
        (text(), text()),
        task_spec(),
        option::of(any::<u64>()),
        vec(any::<std::net::IpAddr>(), 0..3),
        desired,
        status,
        any::<[u64; 4]>(),
    )
        .prop_map(
            |([slot, attempt], (name, service), spec, node, addresses, desired, status, n)| Task {
                id: Id::from_u64(n[0]),
                name,
                service,
                service_id: Id::from_u64(n[1]),
                slot,
                spec,
                node: node.map(NodeId),
                node_name: "host1".into(),
                addresses,
                desired,
                status,
                attempt,
                not_before: Timestamp(n[2]),
                created_at: Timestamp(n[3]),
            },
        )
}

fn node() -> impl Strategy<Value = Node> {
    (
        any::<[u64; 4]>(),
        some(&[NodeRole::Manager, NodeRole::Worker]),
        some(&[
            Availability::Active,
            Availability::Pause,
            Availability::Drain,
        ]),
        some(&[NodeHealth::Ready, NodeHealth::Down]),
        some(&[RaftStatus::Leader, RaftStatus::Voter, RaftStatus::Observer]),
        option::of(any::<(std::net::IpAddr, u16)>()),
        btree_map(text(), text(), 0..3),
        text(),
    )
        .prop_map(
            |(n, role, availability, health, raft, address, labels, text)| Node {
                id: NodeId(n[0]),
                name: text.clone(),
                role,
                availability,
                health,
                raft,
                address: address.map(Into::into),
                labels,
                capacity: Capacity {
                    cpus: Cpus(n[1]),
                    memory: n[2],
                },
                version: text.clone(),
                arch: text.clone(),
                os: text,
                joined_at: Timestamp(n[3]),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn services_survive_the_wire(spec in service_spec(), n in any::<[u64; 4]>(), running in any::<u32>()) {
        survives::<_, v1::CreateRequest>(Create::Service(spec.clone()));
        survives::<_, v1::Object>(Object::Service(Service {
            id: Id::from_u64(n[0]), spec, version: n[1], running,
            created_at: Timestamp(n[2]), updated_at: Timestamp(n[3]),
        }));
    }

    #[test]
    fn tasks_survive_the_wire(task in task()) {
        survives::<_, v1::Object>(Object::Task(task));
    }

    #[test]
    fn nodes_survive_the_wire(node in node()) {
        survives::<_, v1::NodeChange>(NodeChange {
            availability: Some(node.availability),
            set_labels: node.labels.clone(),
            remove_labels: vec![node.name.clone()],
        });
        survives::<_, v1::Object>(Object::Node(node));
    }

    #[test]
    fn no_message_however_wrong_is_more_than_refused(kind in any::<i32>(), state in any::<i32>(), id in ".{0,20}") {
        let _ = Query::try_from(v1::ListRequest { kind, read: state, ..Default::default() });
        let _ = TaskStatus::try_from(v1::TaskStatus { state, ..Default::default() });
        let _ = Node::try_from(v1::Node { id, role: kind, ..Default::default() });
    }
}

#[test]
fn images_networks_and_events_survive_the_wire() {
    let image = Image {
        reference: "team/web:1.2".parse().unwrap(),
        digest: "sha256:aa".into(),
        layers: vec!["sha256:bb".into()],
        size: 7,
        config: ImageConfig {
            entrypoint: vec!["a".into()],
            command: vec!["b".into()],
            env: vec!["A=b".into()],
            working_dir: "/w".into(),
            user: "u".into(),
            exposed_ports: vec!["80/tcp".into()],
            stop_signal: Some("SIGINT".into()),
            health: Some(crate::model::HealthCheck {
                test: vec!["CMD".into(), "true".into()],
                interval_ms: Some(1),
                timeout_ms: Some(2),
                start_period_ms: Some(3),
                start_interval_ms: Some(4),
                retries: Some(5),
            }),
            labels: [("a".into(), "b".into())].into(),
            volumes: vec!["/data".into()],
        },
        created_at: Timestamp(5),
        builtin: true,
        manifest: Some("sha256:cc".into()),
    };
    survives::<_, v1::Object>(Object::Image(image));
    let subnet = "10.1.0.0/16".parse().unwrap();
    survives::<_, v1::CreateRequest>(Create::Network(NetworkSpec {
        name: "n".into(),
        subnet: Some(subnet),
    }));
    survives::<_, v1::Object>(Object::Network(Network {
        id: Id::from_u64(1),
        name: "n".into(),
        subnet,
        vni: 4096,
        created_at: Timestamp(1),
    }));
    survives::<_, v1::UpdateRequest>(Update::Service(
        "web".into(),
        ServiceChange { replicas: Some(0) },
    ));
    for action in [
        EventAction::Created,
        EventAction::Updated,
        EventAction::Removed,
    ] {
        survives::<_, v1::Event>(Event {
            index: 9,
            time: Timestamp(1),
            kind: Kind::Task,
            id: Id::from_u64(1),
            name: "web.1".into(),
            action,
            attributes: [("state".into(), "running".into())].into(),
        });
    }
    survives::<_, v1::InfoResponse>(Info {
        scope: Scope::Cluster,
        version: "1".into(),
        node: Some(NodeId(1)),
        node_name: "a".into(),
        cluster: Some("c".into()),
        leader: Some(NodeId(2)),
        term: 3,
        applied: 4,
        voters: vec![NodeId(1), NodeId(2)],
        warnings: vec!["w".into()],
    });
}

#[test]
fn what_is_missing_or_unknown_is_refused_by_name() {
    let refused = |message: v1::CreateRequest| Create::try_from(message).unwrap_err().to_string();
    assert!(refused(v1::CreateRequest::default()).contains("what"));
    let no_task = v1::create_request::What::Service(v1::ServiceSpec::default());
    assert!(
        refused(v1::CreateRequest {
            what: Some(no_task)
        })
        .contains("task")
    );
    assert!(kind(0).unwrap_err().to_string().contains("kind"));
    assert!(kind(99).unwrap_err().to_string().contains("99"));
    assert_eq!(read(0).unwrap(), Read::Linearizable);
}
