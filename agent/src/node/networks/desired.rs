//! What this host's networks should be, as the replica has it. Pure: the state in, plain data out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use swarm_api::model::{NetworkMode, NodeId, Protocol, Task, TaskState};
use swarm_cluster::State;
use swarm_network::{
    Attachment, Change, HostNetwork, Mac, NetworkSpec, PublishedPort, RemoteEndpoint,
    VTEP_OVERHEAD, VXLAN_PORT, bridge_name, veth_name, vxlan_name,
};

/// What IPv6 has more of a header than IPv4 (RFC 8200, RFC 791).
const OVERHEAD_6: u32 = 20;

/// Bytes that a packet between nodes has around one of a network.
pub(super) fn overhead(underlay: IpAddr) -> u32 {
    VTEP_OVERHEAD + if underlay.is_ipv6() { OVERHEAD_6 } else { 0 }
}

/// What the networks of `node` should be, whose address between nodes is `underlay` and whose networks take packets of
/// `mtu` bytes.
pub(super) fn of(state: &State, node: NodeId, underlay: IpAddr, mtu: u32) -> HostNetwork {
    let mut desired = HostNetwork {
        vxlan_port: VXLAN_PORT,
        ports: published(state),
        ..HostNetwork::empty(underlay)
    };
    let underlays: BTreeMap<NodeId, IpAddr> = state
        .nodes
        .values()
        .filter_map(|n| Some((n.id, n.address?.ip())))
        .collect();
    let mut vnis = BTreeMap::new();
    for record in state.networks.values() {
        let network = &record.network;
        let Some(gateway) = record.gateways.get(&node) else {
            continue;
        };
        vnis.insert(network.name.as_str(), network.vni);
        desired.networks.push(NetworkSpec {
            name: network.name.clone(),
            vni: network.vni,
            subnet: network.subnet,
            gateway: *gateway,
            v6: None,
            mtu,
        });
        let others = record.gateways.iter().filter(|(other, _)| **other != node);
        desired
            .endpoints
            .extend(others.filter_map(|(other, gateway)| {
                Some(remote(network.vni, *gateway, *underlays.get(other)?))
            }));
    }
    for (task, name, address) in connected(state) {
        let Some(vni) = vnis.get(name).copied() else {
            continue;
        };
        if task.node == Some(node) {
            desired.attachments.push(Attachment {
                vni,
                host_ifname: veth_name(task.id.as_str()),
                addr: address,
                mac: Mac::for_address(address),
            });
        } else if let Some(vtep) = task.node.and_then(|other| underlays.get(&other)) {
            desired.endpoints.push(remote(vni, address, *vtep));
        }
    }
    desired
}

/// Adds the connections of those `local` tasks that run: a replica that may be old may not have them.
pub(super) fn keep(desired: &mut HostNetwork, local: &[Task]) {
    let running = local
        .iter()
        .filter(|t| t.status.state == TaskState::Running);
    for task in running {
        let NetworkMode::Cluster(name) = &task.spec.network else {
            continue;
        };
        let host_ifname = veth_name(task.id.as_str());
        let network = desired.networks.iter().find(|n| n.name == *name);
        let (Some(network), Some(address)) = (network, address(task)) else {
            continue;
        };
        let known = |a: &Attachment| a.host_ifname == host_ifname || a.addr == address;
        if !desired.attachments.iter().any(known) {
            desired.attachments.push(Attachment {
                vni: network.vni,
                host_ifname,
                addr: address,
                mac: Mac::for_address(address),
            });
        }
    }
}

/// The tasks that are on a node and have not ended, with the cluster network that they are in: those that hold an address there,
/// however many others there are.
fn connected(state: &State) -> impl Iterator<Item = (&Task, &str, Ipv4Addr)> {
    state.networks.values().flat_map(move |record| {
        let name = record.network.name.as_str();
        record.leases.iter().filter_map(move |(address, id)| {
            let task = state.tasks.get(id)?;
            let live = task.node.is_some() && !task.status.state.is_final();
            live.then_some((task, name, *address))
        })
    })
}

fn address(task: &Task) -> Option<Ipv4Addr> {
    task.addresses.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })
}

fn remote(vni: u32, ip: Ipv4Addr, vtep: IpAddr) -> RemoteEndpoint {
    RemoteEndpoint {
        vni,
        ip: ip.into(),
        mac: Mac::for_address(ip),
        vtep,
    }
}

/// The published ports that lead to a task that runs, and is healthy where that is checked. A task in its host's own network has its ports there already.
fn published(state: &State) -> Vec<PublishedPort> {
    let mut backends: BTreeMap<(u16, Protocol), Vec<SocketAddr>> = BTreeMap::new();
    let serving = connected(state).filter(|(task, ..)| task.status.serves());
    for (task, _, address) in serving {
        let service = state.services.get(&task.service_id);
        for port in service.iter().flat_map(|s| &s.service.spec.ports) {
            if let Some(published) = port.published {
                let at = SocketAddr::new(address.into(), port.target);
                backends
                    .entry((published, port.protocol))
                    .or_default()
                    .push(at);
            }
        }
    }
    let port = |((port, protocol), backends)| PublishedPort {
        protocol: match protocol {
            Protocol::Tcp => swarm_network::Protocol::Tcp,
            Protocol::Udp => swarm_network::Protocol::Udp,
        },
        port,
        backends,
    };
    backends.into_iter().map(port).collect()
}

/// The networks of `desired` that can be used although these changes failed.
pub(super) fn usable<'a>(
    desired: &HostNetwork,
    failed: impl Iterator<Item = &'a Change>,
) -> BTreeMap<String, NetworkSpec> {
    let mut broken = BTreeSet::new();
    for change in failed {
        match change {
            // Rules and forwarding are every network's.
            Change::ReplaceTable(_) | Change::EnableForwarding4 => return BTreeMap::new(),
            Change::AddBridge { bridge: link, .. }
            | Change::AddVxlan { vxlan: link, .. }
            | Change::AddAddress { link, .. }
            | Change::SetUp { link }
            | Change::SetBridge { link, .. } => {
                broken.insert(link.as_str());
            }
            // One endpoint or one container, which the next comparison repairs.
            _ => {}
        }
    }
    let is_whole = |n: &&NetworkSpec| {
        !broken.contains(bridge_name(n.vni).as_str())
            && !broken.contains(vxlan_name(n.vni).as_str())
    };
    let whole = desired.networks.iter().filter(is_whole);
    whole.map(|n| (n.name.clone(), n.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{place, place_in_host_network, state};
    use super::*;
    use std::net::Ipv6Addr;

    fn seen_by(state: &State, node: u8) -> HostNetwork {
        let desired = of(state, NodeId(node.into()), [192, 0, 2, node].into(), 1450);
        desired.validate().unwrap();
        desired
    }

    #[test]
    fn each_node_has_its_gateway_and_knows_the_others_and_their_tasks() {
        let mut state = state();
        let here = place(&mut state, 1, 1, TaskState::Running);
        place(&mut state, 2, 2, TaskState::Assigned);
        let one = seen_by(&state, 1);
        assert_eq!(one.networks.len(), 1);
        assert_eq!(one.networks[0].gateway, Ipv4Addr::new(10, 97, 0, 1));
        assert_eq!(one.attachments.len(), 1);
        assert_eq!(one.attachments[0].host_ifname, veth_name(here.id.as_str()));
        let remote: Vec<_> = one
            .endpoints
            .iter()
            .map(|e| (e.ip.to_string(), e.vtep.to_string()))
            .collect();
        let at_two = |ip: &str| (ip.to_owned(), "192.0.2.2".to_owned());
        assert_eq!(remote, [at_two("10.97.0.2"), at_two("10.97.1.2")]);
        assert_eq!(seen_by(&state, 2).attachments.len(), 1);
    }

    #[test]
    fn a_port_leads_to_running_tasks_on_all_nodes_and_to_no_others() {
        let mut state = state();
        assert!(seen_by(&state, 1).ports.is_empty());
        place(&mut state, 1, 1, TaskState::Running);
        place(&mut state, 2, 2, TaskState::Running);
        place(&mut state, 3, 2, TaskState::Starting);
        place(&mut state, 4, 1, TaskState::Failed);
        let ports = seen_by(&state, 1).ports;
        assert_eq!(ports, seen_by(&state, 2).ports);
        assert_eq!(ports.len(), 1);
        assert_eq!(
            (ports[0].port, ports[0].protocol),
            (8080, swarm_network::Protocol::Tcp)
        );
        let mut backends: Vec<_> = ports[0].backends.iter().map(ToString::to_string).collect();
        backends.sort();
        assert_eq!(backends, ["10.97.1.1:80", "10.97.1.2:80"]);
    }

    #[test]
    fn ended_tasks_and_tasks_without_a_cluster_network_have_no_place() {
        let mut state = state();
        place(&mut state, 1, 1, TaskState::Lost);
        place_in_host_network(&mut state, 2, 1);
        assert!(seen_by(&state, 1).attachments.is_empty());
        assert!(seen_by(&state, 1).ports.is_empty());
        // The other node's gateway is all that is left.
        assert_eq!(seen_by(&state, 2).endpoints.len(), 1);
    }

    #[test]
    fn a_running_task_stays_connected_though_the_replica_is_older_than_it() {
        let mut newer = state();
        let mut running = place(&mut newer, 1, 1, TaskState::Running);
        let mut desired = seen_by(&state(), 1);
        keep(&mut desired, std::slice::from_ref(&running));
        assert_eq!(desired.attachments, seen_by(&newer, 1).attachments);
        keep(&mut desired, std::slice::from_ref(&running));
        assert_eq!(desired.attachments.len(), 1);
        running.status.state = TaskState::Failed;
        let mut desired = seen_by(&state(), 1);
        keep(&mut desired, &[running]);
        assert!(desired.attachments.is_empty());
    }

    #[test]
    fn a_node_that_was_taken_out_wants_no_network() {
        let mut state = state();
        state.nodes.remove(&NodeId(1));
        for record in state.networks.values_mut() {
            record.gateways.remove(&NodeId(1));
        }
        let one = seen_by(&state, 1);
        assert!(one.networks.is_empty() && one.endpoints.is_empty());
    }

    #[test]
    fn a_network_is_usable_unless_something_that_it_needs_failed() {
        let desired = seen_by(&state(), 1);
        let names = |failed: &[Change]| -> Vec<String> {
            usable(&desired, failed.iter()).into_keys().collect()
        };
        let link = |link: &str| Change::SetUp { link: link.into() };
        assert_eq!(names(&[]), ["default"]);
        assert_eq!(names(&[link("sw-9")]), ["default"]);
        assert!(names(&[link("vx-4097")]).is_empty());
        assert!(names(&[Change::EnableForwarding4]).is_empty());
        let forget = Change::RemoveNeighbour {
            bridge: "sw-4097".into(),
            ip: [10, 97, 1, 1].into(),
        };
        assert_eq!(names(&[forget]), ["default"]);
    }

    #[test]
    fn ipv6_between_nodes_leaves_less_room() {
        assert_eq!(overhead([192, 0, 2, 1].into()), VTEP_OVERHEAD);
        assert_eq!(overhead(Ipv6Addr::LOCALHOST.into()), VTEP_OVERHEAD + 20);
    }
}
