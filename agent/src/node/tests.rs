//! What the tests of this room share.

use swarm_api::model::{
    DesiredState, Id, Network, NetworkMode, Node, NodeId, Service, ServiceSpec, Task, TaskSpec,
    TaskState, TaskStatus, Timestamp,
};
use swarm_cluster::State;
use swarm_cluster::state::{NetworkRecord, ServiceRecord};

/// Task `web.N` on node 1, not started, in the network `default`.
pub(super) fn task(number: u32) -> Task {
    Task {
        id: Id::from_u64(number.into()),
        name: format!("web.{number}"),
        service: "web".into(),
        service_id: Id::from_u64(1000),
        slot: number,
        spec: TaskSpec {
            image: "whoami".into(),
            network: NetworkMode::Cluster("default".into()),
            ..TaskSpec::default()
        },
        node: Some(NodeId(1)),
        node_name: String::new(),
        addresses: Vec::new(),
        desired: DesiredState::Running,
        status: TaskStatus {
            state: TaskState::Assigned,
            ..TaskStatus::default()
        },
        attempt: 0,
        not_before: Timestamp(0),
        created_at: Timestamp(0),
    }
}

/// Nodes 1 and 2 in network `default`; service `web` publishes 8080.
pub(super) fn state() -> State {
    let mut state = State {
        cluster: "c".into(),
        index: 7,
        ..State::default()
    };
    for n in 1..=2_u8 {
        let node = Node {
            id: NodeId(n.into()),
            name: format!("host{n}"),
            address: Some(([192, 0, 2, n], 7946).into()),
            ..Node::default()
        };
        state.nodes.insert(node.id, node);
    }
    let network = Network {
        id: Id::from_u64(2000),
        name: "default".into(),
        subnet: "10.97.0.0/16".parse().unwrap(),
        vni: 4097,
        created_at: Timestamp(0),
    };
    let gateways = (1..=2_u8).map(|n| (NodeId(n.into()), [10, 97, 0, n].into()));
    let record = NetworkRecord {
        gateways: gateways.collect(),
        leases: [].into(),
        cursor: 0,
        network: network.clone(),
    };
    state.networks.insert(network.id, record.into());
    let spec = ServiceSpec {
        name: "web".into(),
        ports: vec!["8080:80".parse().unwrap()],
        ..ServiceSpec::default()
    };
    let service = Service {
        id: Id::from_u64(1000),
        spec,
        version: 1,
        running: 0,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    };
    let record = ServiceRecord::new(service);
    state.services.insert(Id::from_u64(1000), record.into());
    state
}

/// Puts task `number` on `node`, with the address 10.97.1.NUMBER.
pub(super) fn place(state: &mut State, number: u8, node: u64, is: TaskState) -> Task {
    let mut task = task(number.into());
    task.node = Some(NodeId(node));
    task.addresses = vec![[10, 97, 1, number].into()];
    task.status.state = is;
    for record in state.networks.values_mut() {
        let address = [10, 97, 1, number].into();
        record.leases.insert(address, task.id.clone());
    }
    state.tasks.insert(task.id.clone(), task.clone());
    task
}

/// The same in its host's own network: it has no address of its own.
pub(super) fn place_in_host_network(state: &mut State, number: u8, node: u64) {
    let mut task = place(state, number, node, TaskState::Running);
    task.spec.network = NetworkMode::Host;
    task.addresses.clear();
    for record in state.networks.values_mut() {
        record.leases.retain(|_, holder| *holder != task.id);
    }
    state.tasks.insert(task.id.clone(), task);
}

#[test]
fn an_empty_replica_says_nothing_and_one_without_this_host_says_that_it_is_out() {
    use super::{Part, part};
    assert_eq!(part(&State::default(), NodeId(1)), Part::Unknown);
    assert_eq!(part(&state(), NodeId(1)), Part::In);
    assert_eq!(part(&state(), NodeId(9)), Part::Out);
}
