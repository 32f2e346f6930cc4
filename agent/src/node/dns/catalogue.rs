//! What names stand for, as the replica has it: asked name by name, nothing is kept beside the replica. Tasks are found
//! only that run, and are healthy where that is checked.

use std::net::{IpAddr, SocketAddr};
use swarm_api::model::{Id, NetworkMode, Node, Protocol, Task};
use swarm_cluster::State;
use swarm_cluster::state::ServiceRecord;
use swarm_discovery::catalogue::Protocol as Transport;
use swarm_discovery::catalogue::{Address, Endpoint, Names, NodeEntry, Port, Source};
use swarm_member::Member;

/// The replica of a member.
pub(super) struct Replica(pub(super) Member);

impl Source for Replica {
    fn with(&self, ask: &mut dyn FnMut(&dyn Names)) {
        // Before the state is held: who holds it asks the member nothing else.
        let stale = super::is_stale(&self.0);
        let state = self.0.state();
        ask(&Seen {
            state: &state,
            stale,
        });
    }
}

/// A replica's state at one moment.
struct Seen<'a> {
    state: &'a State,
    stale: bool,
}

impl Names for Seen<'_> {
    fn service(&self, name: &str) -> Option<Vec<Endpoint>> {
        let id = &self.record(name)?.service.id;
        let serving = (self.state.tasks.of_service(id)).filter(|t| t.status.serves());
        Some(serving.filter_map(|t| endpoint(self.state, t)).collect())
    }

    fn task(&self, name: &str) -> Option<Endpoint> {
        let by_name = || {
            let (service, slot) = name.rsplit_once('.')?;
            let (id, slot) = (&self.record(service)?.service.id, slot.parse::<u32>().ok()?);
            let mut tasks = self.state.tasks.of_service(id);
            tasks.find(|t| t.slot == slot && t.status.serves())
        };
        let by_id = || {
            let id = Id::from_text(name.to_ascii_lowercase());
            self.state.tasks.get(&id).filter(|t| t.status.serves())
        };
        endpoint(self.state, by_name().or_else(by_id)?)
    }

    fn task_at(&self, ip: IpAddr) -> Option<Endpoint> {
        let IpAddr::V4(address) = ip else {
            return None;
        };
        let networks = self.state.networks.values();
        let mut ids = networks.filter_map(|r| r.leases.get(&address));
        let task = self.state.tasks.get(ids.next()?)?;
        endpoint(self.state, Some(task).filter(|t| t.status.serves())?)
    }

    fn node(&self, name: &str) -> Option<NodeEntry> {
        let mut nodes = self.state.nodes.values();
        nodes.find(|n| n.name.eq_ignore_ascii_case(name)).map(entry)
    }

    fn node_at(&self, ip: IpAddr) -> Option<NodeEntry> {
        let at = |n: &&Node| n.address.is_some_and(|a| a.ip() == ip);
        self.state.nodes.values().find(at).map(entry)
    }

    fn index(&self) -> u64 {
        self.state.index
    }

    fn stale(&self) -> bool {
        self.stale
    }
}

impl Seen<'_> {
    fn record(&self, name: &str) -> Option<&ServiceRecord> {
        let mut records = self.state.services.values().map(|record| &**record);
        records.find(|r| r.service.spec.name.eq_ignore_ascii_case(name))
    }
}

fn entry(node: &Node) -> NodeEntry {
    NodeEntry {
        node: node.id.0,
        name: node.name.clone(),
        addresses: node.address.iter().map(SocketAddr::ip).collect(),
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
    use super::super::super::tests::{place, place_in_host_network, state};
    use super::*;
    use swarm_api::model::{Health, HealthState, TaskState};

    fn seen(state: &State) -> Seen<'_> {
        Seen {
            state,
            stale: false,
        }
    }

    fn tasks(state: &State, service: &str) -> Vec<String> {
        let found = seen(state).service(service).unwrap();
        found.into_iter().map(|e| e.task).collect()
    }

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
        assert_eq!(tasks(&state, "web"), ["web.2"]);
        assert!(seen(&state).task("web.1").is_none());
        assert!(seen(&state).task("WEB.2").is_some());
    }

    #[test]
    fn running_tasks_are_found_by_every_name_and_no_others_are() {
        let mut state = state();
        let one = place(&mut state, 1, 1, TaskState::Running);
        place(&mut state, 2, 2, TaskState::Starting);
        let lost = place(&mut state, 3, 2, TaskState::Lost);
        assert_eq!(tasks(&state, "Web"), ["web.1"]);
        let seen = seen(&state);
        assert!(seen.service("ghost").is_none());
        let found = seen.task("web.1").unwrap();
        assert_eq!(seen.task(one.id.as_str()), Some(found.clone()));
        assert_eq!(seen.task_at([10, 97, 1, 1].into()), Some(found.clone()));
        for gone in ["web.2", "web.3", lost.id.as_str(), "web", "web.x"] {
            assert!(seen.task(gone).is_none(), "{gone}");
        }
        assert!(seen.task_at([10, 97, 1, 3].into()).is_none());
        assert_eq!((found.task.as_str(), found.slot()), ("web.1", "1"));
        assert_eq!(found.addresses[0].network.as_deref(), Some("default"));
        assert_eq!(
            (found.ports[0].port, found.ports[0].protocol),
            (80, Transport::Tcp)
        );
        let node = seen.node("Host2").unwrap();
        assert_eq!(node.addresses, [IpAddr::from([192, 0, 2, 2])]);
        assert_eq!(seen.node_at([192, 0, 2, 2].into()), Some(node));
        assert!(seen.node("ghost").is_none());
        assert!(seen.node_at([192, 0, 2, 9].into()).is_none());
    }

    #[test]
    fn a_task_in_its_host_s_network_is_found_at_its_host_from_everywhere() {
        let mut state = state();
        place_in_host_network(&mut state, 1, 2);
        let found = seen(&state).task("web.1").unwrap();
        let at_host = Address {
            network: None,
            ip: [192, 0, 2, 2].into(),
        };
        assert_eq!(found.addresses, [at_host]);
    }
}
