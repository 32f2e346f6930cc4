//! The plan's promises, kept against a model of the kernel.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::model::{
    Attachment, Gateway6, Protocol, PublishedPort, RemoteEndpoint, VXLAN_PORT, veth_name,
};
use crate::rules::TableState;
use crate::state::Veth;

/// What the kernel does with a change. Panics where the kernel would refuse.
fn apply(kernel: &mut KernelState, change: &Change) {
    match change.clone() {
        Change::RemoveLink { link } => {
            let known = kernel.bridges.remove(&link).is_some()
                | kernel.vxlans.remove(&link).is_some()
                | kernel.veths.remove(&link).is_some();
            assert!(known, "{link} is not there");
            let slots = kernel.vxlans.values_mut().map(|v| &mut v.slot);
            for slot in slots.chain(kernel.veths.values_mut().map(|v| &mut v.slot)) {
                slot.take_if(|port| port.bridge == link);
            }
        }
        Change::AddBridge { bridge, mac, mtu } => {
            let (addresses, neighbours) = (BTreeSet::new(), BTreeMap::new());
            let new = Bridge {
                mac,
                mtu,
                up: true,
                addresses,
                neighbours,
                route_localnet: false,
            };
            assert!(kernel.bridges.insert(bridge, new).is_none());
        }
        Change::AddVxlan {
            vxlan,
            bridge,
            vni,
            port,
            local,
            mtu,
        } => {
            assert!(kernel.bridges.contains_key(&bridge));
            let slot = Some(Port {
                bridge,
                ..Port::default()
            });
            let (local, remotes) = (Some(local), BTreeMap::new());
            let new = Vxlan {
                vni,
                port,
                local,
                learning: false,
                mtu,
                up: true,
                remotes,
                slot,
            };
            assert!(kernel.vxlans.insert(vxlan, new).is_none());
        }
        Change::SetMac { link, mac } => bridge(kernel, &link).mac = mac,
        Change::SetMtu { link, mtu } => *basics(kernel, &link).0 = mtu,
        Change::SetUp { link } => *basics(kernel, &link).1 = true,
        Change::SetBridge { link, bridge } => {
            assert!(kernel.bridges.contains_key(&bridge));
            *slot(kernel, &link) = Some(Port {
                bridge,
                ..Port::default()
            });
        }
        Change::SetPortFlags { link, flags } => port(kernel, &link).flags = flags,
        Change::AddAddress { link, address } => {
            assert!(bridge(kernel, &link).addresses.insert(address));
        }
        Change::RemoveAddress { link, address } => {
            assert!(bridge(kernel, &link).addresses.remove(&address));
        }
        Change::SetNeighbour {
            bridge: name,
            ip,
            mac,
        } => {
            bridge(kernel, &name).neighbours.insert(ip, mac);
        }
        Change::RemoveNeighbour { bridge: name, ip } => {
            assert!(bridge(kernel, &name).neighbours.remove(&ip).is_some());
        }
        Change::SetRemote { vxlan, mac, vtep } => {
            kernel
                .vxlans
                .get_mut(&vxlan)
                .unwrap()
                .remotes
                .insert(mac, vtep);
        }
        Change::RemoveRemote { vxlan, mac } => {
            assert!(
                kernel
                    .vxlans
                    .get_mut(&vxlan)
                    .unwrap()
                    .remotes
                    .remove(&mac)
                    .is_some()
            );
        }
        Change::SetSwitched { link, mac } => {
            let at = port(kernel, &link).bridge.clone();
            let slots = kernel.vxlans.values_mut().map(|v| &mut v.slot);
            // A MAC is behind one port of a bridge only.
            for slot in slots
                .chain(kernel.veths.values_mut().map(|v| &mut v.slot))
                .flatten()
            {
                if slot.bridge == at {
                    slot.switched.remove(&mac);
                }
            }
            port(kernel, &link).switched.insert(mac);
        }
        // The kernel has moved it to another port when one was set there.
        Change::RemoveSwitched { link, mac } => {
            port(kernel, &link).switched.remove(&mac);
        }
        Change::EnableForwarding4 => kernel.forwarding4 = true,
        Change::EnableForwarding6 => kernel.forwarding6 = true,
        Change::EnableRouteLocalnet { bridge: name } => bridge(kernel, &name).route_localnet = true,
        Change::ReplaceTable(rules) => kernel.table = Some(rules.state()),
        Change::RemoveTable => assert!(kernel.table.take().is_some()),
    }
}

fn bridge<'a>(kernel: &'a mut KernelState, name: &str) -> &'a mut Bridge {
    kernel.bridges.get_mut(name).unwrap()
}

fn basics<'a>(kernel: &'a mut KernelState, name: &str) -> (&'a mut u32, &'a mut bool) {
    if let Some(bridge) = kernel.bridges.get_mut(name) {
        return (&mut bridge.mtu, &mut bridge.up);
    }
    if let Some(vxlan) = kernel.vxlans.get_mut(name) {
        return (&mut vxlan.mtu, &mut vxlan.up);
    }
    let veth = kernel.veths.get_mut(name).unwrap();
    (&mut veth.mtu, &mut veth.up)
}

fn slot<'a>(kernel: &'a mut KernelState, name: &str) -> &'a mut Option<Port> {
    match (kernel.vxlans.get_mut(name), kernel.veths.get_mut(name)) {
        (Some(vxlan), _) => &mut vxlan.slot,
        (_, veth) => &mut veth.unwrap().slot,
    }
}

fn port<'a>(kernel: &'a mut KernelState, name: &str) -> &'a mut Port {
    slot(kernel, name).as_mut().unwrap()
}

/// Plans and applies; returns the plan.
fn reconcile(desired: &HostNetwork, kernel: &mut KernelState) -> Vec<Change> {
    let changes = plan(desired, kernel);
    for change in &changes {
        apply(kernel, change);
    }
    changes
}

/// Networks 1 to 3, of which each may be there, with few enough addresses that they meet.
fn desired() -> impl Strategy<Value = HostNetwork> {
    let network = (any::<bool>(), 1_u8..4, any::<bool>(), 1400_u32..1402);
    let endpoint = (1_u32..5, 100_u8..108, 0_u8..3);
    let attachment = (1_u32..5, 104_u8..112);
    let port = (
        any::<bool>(),
        80_u16..83,
        prop::collection::vec((1_u8..3, 100_u8..103), 0..4),
    );
    (
        1_u8..3,
        prop::collection::vec(network, 3),
        prop::collection::vec(endpoint, 0..12),
        prop::collection::vec(attachment, 0..5),
        prop::collection::vec(port, 0..3),
    )
        .prop_map(|(node, networks, endpoints, attachments, ports)| {
            let networks = (1_u8..).zip(networks).filter(|(_, network)| network.0);
            let networks = networks.map(|(n, (_, gateway, v6, mtu))| NetworkSpec {
                name: format!("net{n}"),
                vni: n.into(),
                subnet: format!("10.{n}.0.0/16").parse().unwrap(),
                gateway: [10, n, 0, gateway].into(),
                v6: v6.then(|| Gateway6 {
                    subnet: format!("fd00:{n}::/64").parse().unwrap(),
                    gateway: format!("fd00:{n}::{gateway}").parse().unwrap(),
                }),
                mtu,
            });
            let endpoints = endpoints.into_iter().map(|(vni, host, vtep)| {
                let ip = std::net::Ipv4Addr::from([10, vni as u8, 0, host]);
                let vtep = [192, 0, 2, 10 + vtep].into();
                RemoteEndpoint {
                    vni,
                    ip: ip.into(),
                    mac: Mac::for_address(ip),
                    vtep,
                }
            });
            let attachments: BTreeMap<_, _> = attachments.into_iter().map(|a| (a, ())).collect();
            let attachments = attachments.into_keys().map(|(vni, host)| {
                let addr = [10, vni as u8, 0, host].into();
                let host_ifname = veth_name(&format!("{host}"));
                Attachment {
                    vni,
                    host_ifname,
                    addr,
                    mac: Mac::for_address(addr),
                }
            });
            let mut seen = BTreeSet::new();
            let attachments = attachments
                .filter(|a| seen.insert(a.host_ifname.clone()))
                .collect();
            let ports = ports
                .into_iter()
                .map(|(tcp, port, backends)| PublishedPort {
                    protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                    port,
                    backends: backends
                        .into_iter()
                        .map(|(n, host)| ([10, n, 0, host], 8080).into())
                        .collect(),
                });
            HostNetwork {
                underlay: [192, 0, 2, node].into(),
                vxlan_port: VXLAN_PORT,
                networks: networks.collect(),
                attachments,
                endpoints: endpoints.collect(),
                ports: ports.collect(),
            }
        })
}

/// Somebody else changes something of ours.
fn drift(kernel: &mut KernelState, kind: u8, which: Index) {
    fn pick<K: Clone + Ord, V>(map: &mut BTreeMap<K, V>, which: Index) -> Option<(K, &mut V)> {
        let key = map.keys().nth(which.index(map.len().max(1)))?.clone();
        map.get_mut(&key).map(|value| (key, value))
    }
    let link = match kind {
        0..4 => pick(&mut kernel.bridges, which).map(|(name, _)| name),
        4..8 => pick(&mut kernel.vxlans, which).map(|(name, _)| name),
        _ => pick(&mut kernel.veths, which).map(|(name, _)| name),
    };
    match (kind, link) {
        (0 | 4, Some(link)) => apply(kernel, &Change::RemoveLink { link }),
        (1, Some(link)) => bridge(kernel, &link).addresses.clear(),
        (2, Some(link)) => {
            bridge(kernel, &link).neighbours =
                BTreeMap::from([([10, 1, 0, 9].into(), Mac([2; 6]))]);
        }
        (3, Some(link)) => {
            let bridge = bridge(kernel, &link);
            (bridge.up, bridge.mac, bridge.route_localnet) = (false, Mac([2; 6]), false);
        }
        (5, Some(link)) => kernel.vxlans.get_mut(&link).unwrap().remotes.clear(),
        (6, Some(link)) => {
            let vxlan = kernel.vxlans.get_mut(&link).unwrap();
            vxlan.remotes.insert(Mac([2; 6]), [192, 0, 2, 77].into());
            (vxlan.learning, vxlan.mtu) = (which.index(2) == 1, 1500);
        }
        (7 | 8, Some(link)) => *slot(kernel, &link) = None,
        (9, Some(link)) => {
            if let Some(port) = slot(kernel, &link) {
                (port.flags, port.switched) = (PortFlags::default(), BTreeSet::from([Mac([2; 6])]));
            }
        }
        (10, _) => kernel.table = Some(TableState::default()),
        (11, _) => kernel.table = None,
        (12, _) => (kernel.forwarding4, kernel.forwarding6) = (false, false),
        _ => {}
    }
}

/// What the kernel must hold, said once more and independently of the planner.
fn check(desired: &HostNetwork, kernel: &KernelState) {
    assert_eq!(kernel.bridges.len(), desired.networks.len());
    assert_eq!(kernel.vxlans.len(), desired.networks.len());
    for network in &desired.networks {
        let bridge = &kernel.bridges[&bridge_name(network.vni)];
        let vxlan = &kernel.vxlans[&vxlan_name(network.vni)];
        assert!(
            bridge.up && vxlan.up && bridge.route_localnet && kernel.forwarding4 && !vxlan.learning
        );
        assert_eq!((bridge.mtu, vxlan.mtu), (network.mtu, network.mtu));
        assert_eq!(bridge.mac, Mac::for_address(network.gateway));
        assert_eq!(
            bridge.addresses.len(),
            if network.v6.is_some() { 2 } else { 1 }
        );
        assert_eq!(
            (vxlan.vni, vxlan.local),
            (network.vni, Some(desired.underlay))
        );
        let slot = vxlan.slot.as_ref().unwrap();
        assert_eq!(
            (&slot.bridge, slot.flags),
            (&bridge_name(network.vni), PortFlags::TUNNEL)
        );
        let here = |ip: &IpAddr| {
            desired
                .attachments
                .iter()
                .any(|a| a.vni == network.vni && IpAddr::V4(a.addr) == *ip)
        };
        let endpoints: Vec<_> = desired
            .endpoints
            .iter()
            .filter(|e| e.vni == network.vni)
            .collect();
        for endpoint in &endpoints {
            assert_eq!(bridge.neighbours[&endpoint.ip], endpoint.mac);
            let last = endpoints
                .iter()
                .rev()
                .find(|e| e.mac == endpoint.mac)
                .unwrap();
            assert_eq!(vxlan.remotes[&endpoint.mac], last.vtep);
            assert_eq!(slot.switched.contains(&endpoint.mac), !here(&endpoint.ip));
        }
        assert!(
            bridge
                .neighbours
                .keys()
                .all(|ip| endpoints.iter().any(|e| e.ip == *ip))
        );
        assert!(
            vxlan
                .remotes
                .keys()
                .chain(&slot.switched)
                .all(|mac| endpoints.iter().any(|e| e.mac == *mac))
        );
    }
    for attachment in desired
        .attachments
        .iter()
        .filter(|a| desired.networks.iter().any(|n| n.vni == a.vni))
    {
        let Some(veth) = kernel.veths.get(&attachment.host_ifname) else {
            continue;
        };
        let slot = veth.slot.as_ref().unwrap();
        assert_eq!(
            (&slot.bridge, slot.flags),
            (&bridge_name(attachment.vni), PortFlags::CONTAINER)
        );
        assert!(veth.up && slot.switched.contains(&attachment.mac));
    }
    assert_eq!(
        kernel.table,
        Ruleset::of(desired).map(|rules| rules.state())
    );
}

proptest! {
    #[test]
    fn whatever_was_before_and_drifted_the_plan_leads_to_what_is_desired(
        before in desired(),
        after in desired(),
        drifts in prop::collection::vec((0_u8..13, any::<Index>()), 0..6),
        veths in prop::collection::btree_set(104_u8..112, 0..4),
    ) {
        let mut kernel = KernelState::default();
        for host in veths {
            kernel.veths.insert(veth_name(&format!("{host}")), Veth { mtu: 1500, up: false, slot: None });
        }
        reconcile(&before, &mut kernel);
        for (kind, which) in drifts {
            drift(&mut kernel, kind, which);
        }
        reconcile(&after, &mut kernel);
        check(&after, &kernel);
        prop_assert_eq!(plan(&after, &kernel), vec![]);
    }

    #[test]
    fn teardown_leaves_nothing(desired in desired(), veths in prop::collection::btree_set(104_u8..112, 0..4)) {
        let mut kernel = KernelState::default();
        for host in veths {
            kernel.veths.insert(veth_name(&format!("{host}")), Veth { mtu: 1500, up: true, slot: None });
        }
        reconcile(&desired, &mut kernel);
        for change in teardown_plan(&kernel) {
            apply(&mut kernel, &change);
        }
        let left = KernelState { forwarding4: false, forwarding6: false, ..kernel };
        prop_assert_eq!(left, KernelState::default());
    }

    #[test]
    fn a_rule_that_differs_has_another_fingerprint(one in desired(), other in desired()) {
        // Only rules are compared: flows are no part of the kernel's table.
        let (one, other) = (Ruleset::of(&one), Ruleset::of(&other));
        let chains = |rules: &Option<Ruleset>| rules.as_ref().map(|r| r.chains.clone());
        let state = |rules: &Option<Ruleset>| rules.as_ref().map(Ruleset::state);
        prop_assert_eq!(chains(&one) == chains(&other), state(&one) == state(&other));
    }
}
