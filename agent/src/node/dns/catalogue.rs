//! What can be looked up, as the replica has it: tasks only that run, and are healthy where that is
//! checked. Pure.

use std::net::{IpAddr, SocketAddr};
use swarm_api::model::{NetworkMode, Protocol, Task};
use swarm_cluster::State;
use swarm_discovery::catalogue::Protocol as Transport;
use swarm_discovery::catalogue::{Address, Contents, Endpoint, NodeEntry, Port};

/// The catalogue's contents.
pub(super) fn contents(state: &State, stale: bool) -> Contents {
    let nodes = state.nodes.values().map(|node| NodeEntry {
        node: node.id.0,
        name: node.name.clone(),
        addresses: node.address.iter().map(SocketAddr::ip).collect(),
    });
    let serving = state.tasks.values().filter(|t| t.status.serves());
    Contents {
        index: state.index,
        stale,
        services: state
            .services
            .values()
            .map(|s| s.service.spec.name.clone())
            .collect(),
        networks: state
            .networks
            .values()
            .map(|n| n.network.name.clone())
            .collect(),
        nodes: nodes.collect(),
        endpoints: serving.filter_map(|task| endpoint(state, task)).collect(),
    }
}

fn endpoint(state: &State, task: &Task) -> Option<Endpoint> {
    let node = state.nodes.get(&task.node?)?;
    let at = |network: Option<&String>, ip: IpAddr| Address {
        network: network.cloned(),
        ip,
    };
    let addresses = match &task.spec.network {
        NetworkMode::Cluster(name) => {
            let own = task.addresses.iter().copied();
            own.map(|ip| at(Some(name), ip)).collect()
        }
        NetworkMode::Host => node.address.iter().map(|a| at(None, a.ip())).collect(),
        NetworkMode::None => Vec::new(),
    };
    let ports = state.services.get(&task.service_id).into_iter();
    let ports = ports.flat_map(|s| &s.service.spec.ports).map(|port| Port {
        name: String::new(),
        port: port.target,
        protocol: match port.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        },
    });
    Some(Endpoint {
        task_id: task.id.to_string(),
        task: task.name.clone(),
        service: Some(task.service.clone()),
        node: node.id.0,
        node_name: node.name.clone(),
        addresses,
        ports: ports.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{place, state};
    use super::*;
    use swarm_api::model::{Health, HealthState, TaskState};

    #[test]
    fn of_tasks_that_are_checked_only_the_healthy_are_found() {
        let mut state = state();
        for (number, health) in (1..).zip([
            HealthState::Starting,
            HealthState::Healthy,
            HealthState::Unhealthy,
        ]) {
            let mut task = place(&mut state, number, 1, TaskState::Running);
            task.status.health = Some(Health {
                state: health,
                ..Health::default()
            });
            state.tasks.insert(task.id.clone(), task);
        }
        let found = contents(&state, false).endpoints;
        let found: Vec<&str> = found.iter().map(|e| e.task.as_str()).collect();
        assert_eq!(found, ["web.2"]);
    }

    #[test]
    fn running_tasks_are_found_and_no_others() {
        let mut state = state();
        place(&mut state, 1, 1, TaskState::Running);
        place(&mut state, 2, 2, TaskState::Starting);
        place(&mut state, 3, 2, TaskState::Lost);
        let contents = contents(&state, true);
        assert!(contents.stale && contents.index == state.index);
        assert_eq!(contents.services, ["web"]);
        assert_eq!(contents.networks, ["default"]);
        assert_eq!(contents.nodes[1].addresses, [IpAddr::from([192, 0, 2, 2])]);
        let [found] = &contents.endpoints[..] else {
            panic!("{:?}", contents.endpoints);
        };
        assert_eq!((found.task.as_str(), found.slot()), ("web.1", "1"));
        assert_eq!(found.addresses[0].network.as_deref(), Some("default"));
        assert_eq!(
            (found.ports[0].port, found.ports[0].protocol),
            (80, Transport::Tcp)
        );
    }

    #[test]
    fn a_task_in_its_host_s_network_is_found_at_its_host_from_everywhere() {
        let mut state = state();
        let mut task = place(&mut state, 1, 2, TaskState::Running);
        task.spec.network = NetworkMode::Host;
        state.tasks.insert(task.id.clone(), task);
        let found = contents(&state, false).endpoints.remove(0);
        let at_host = Address {
            network: None,
            ip: [192, 0, 2, 2].into(),
        };
        assert_eq!(found.addresses, [at_host]);
    }
}
