//! The pure core: what has to change in the kernel so that it is as desired. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{HostNetwork, Mac, NetworkSpec, bridge_name, vxlan_name};
use crate::rules::Ruleset;
use crate::state::{Bridge, KernelState, Port, PortFlags, Vxlan};

/// One step from the observed state to the desired one. Each is idempotent; `Set…` creates or overwrites.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields say what they are; the variants say what happens.
pub enum Change {
    /// Delete an interface.
    RemoveLink { link: String },
    /// Make a bridge, up.
    AddBridge { bridge: String, mac: Mac, mtu: u32 },
    /// Make a VXLAN device, up and in its bridge.
    AddVxlan {
        vxlan: String,
        bridge: String,
        vni: u32,
        port: u16,
        local: IpAddr,
        mtu: u32,
    },
    /// Change an interface's MAC.
    SetMac { link: String, mac: Mac },
    /// Change an interface's MTU, in bytes.
    SetMtu { link: String, mtu: u32 },
    /// Set an interface administratively up.
    SetUp { link: String },
    /// Put an interface into a bridge.
    SetBridge { link: String, bridge: String },
    /// Change how the bridge treats a port.
    SetPortFlags { link: String, flags: PortFlags },
    /// Give an interface an address.
    AddAddress { link: String, address: IpNet },
    /// Take an address from an interface.
    RemoveAddress { link: String, address: IpNet },
    /// Set a permanent neighbour entry.
    SetNeighbour {
        bridge: String,
        ip: IpAddr,
        mac: Mac,
    },
    /// Remove a neighbour entry.
    RemoveNeighbour { bridge: String, ip: IpAddr },
    /// Say on which node a MAC lives.
    SetRemote {
        vxlan: String,
        mac: Mac,
        vtep: IpAddr,
    },
    /// Forget on which node a MAC lives.
    RemoveRemote { vxlan: String, mac: Mac },
    /// Say behind which port of its bridge a MAC lives.
    SetSwitched { link: String, mac: Mac },
    /// Forget behind which port of its bridge a MAC lives.
    RemoveSwitched { link: String, mac: Mac },
    /// Forward IPv4 packets.
    EnableForwarding4,
    /// Forward IPv6 packets. The kernel then heeds router advertisements only where `accept_ra` is 2.
    EnableForwarding6,
    /// Let 127.0.0.0/8 be routed over a bridge.
    EnableRouteLocalnet { bridge: String },
    /// Replace the whole table `inet swarm`.
    ReplaceTable(Ruleset),
    /// Delete the table `inet swarm`.
    RemoveTable,
}

/// The changes that lead from `observed` to `desired`, in the order in which they must be made; empty when there is
/// nothing to do.
#[must_use]
pub fn plan(desired: &HostNetwork, observed: &KernelState) -> Vec<Change> {
    let mut out = Planner {
        observed,
        changes: Vec::new(),
        gone: BTreeSet::new(),
    };
    out.remove_stale(desired);
    for network in &desired.networks {
        out.network(network, desired);
    }
    out.attachments(desired);
    if !desired.networks.is_empty() && !observed.forwarding4 {
        out.changes.push(Change::EnableForwarding4);
    }
    if desired.networks.iter().any(|n| n.v6.is_some()) && !observed.forwarding6 {
        out.changes.push(Change::EnableForwarding6);
    }
    match Ruleset::of(desired) {
        Some(rules) if observed.table.as_ref() != Some(&rules.state()) => {
            out.changes.push(Change::ReplaceTable(rules));
        }
        None if observed.table.is_some() => out.changes.push(Change::RemoveTable),
        _ => {}
    }
    out.changes
}

/// The changes that leave nothing of ours, containers' interfaces included.
#[must_use]
pub fn teardown_plan(observed: &KernelState) -> Vec<Change> {
    let links = observed
        .veths
        .keys()
        .chain(observed.vxlans.keys())
        .chain(observed.bridges.keys());
    let mut changes: Vec<_> = links
        .map(|link| Change::RemoveLink { link: link.clone() })
        .collect();
    changes.extend(observed.table.is_some().then_some(Change::RemoveTable));
    changes
}

struct Planner<'a> {
    observed: &'a KernelState,
    changes: Vec<Change>,
    /// Links that the plan has removed so far.
    gone: BTreeSet<String>,
}

impl Planner<'_> {
    fn remove_stale(&mut self, desired: &HostNetwork) {
        for (name, vxlan) in &self.observed.vxlans {
            let fits = desired.networks.iter().any(|n| {
                vxlan_name(n.vni) == *name
                    && n.vni == vxlan.vni
                    && vxlan.port == desired.vxlan_port
                    && vxlan.local == Some(desired.underlay)
                    && !vxlan.learning
            });
            if !fits {
                self.remove(name);
            }
        }
        for name in self.observed.bridges.keys() {
            if !desired.networks.iter().any(|n| bridge_name(n.vni) == *name) {
                self.remove(name);
            }
        }
    }

    fn remove(&mut self, link: &str) {
        self.gone.insert(link.to_owned());
        self.changes.push(Change::RemoveLink {
            link: link.to_owned(),
        });
    }

    fn network(&mut self, network: &NetworkSpec, desired: &HostNetwork) {
        let bridge = bridge_name(network.vni);
        let vxlan = vxlan_name(network.vni);
        let endpoints = || desired.endpoints.iter().filter(|e| e.vni == network.vni);
        let neighbours: BTreeMap<IpAddr, Mac> = endpoints().map(|e| (e.ip, e.mac)).collect();
        // Where the replica names one MAC twice the last entry wins, in both tables alike.
        let remotes: BTreeMap<Mac, IpAddr> = endpoints().map(|e| (e.mac, e.vtep)).collect();

        self.bridge(&bridge, network, &neighbours);
        self.vxlan(&vxlan, &bridge, network, desired, &remotes);
    }

    fn bridge(&mut self, name: &str, network: &NetworkSpec, neighbours: &BTreeMap<IpAddr, Mac>) {
        let mac = Mac::for_address(network.gateway);
        let fresh;
        let seen = if let Some(seen) = self.observed.bridges.get(name) {
            if seen.mac != mac {
                self.changes.push(Change::SetMac {
                    link: name.to_owned(),
                    mac,
                });
            }
            self.mtu_and_up(name, (seen.mtu, seen.up), network.mtu);
            seen
        } else {
            self.changes.push(Change::AddBridge {
                bridge: name.to_owned(),
                mac,
                mtu: network.mtu,
            });
            fresh = Bridge {
                mac,
                mtu: network.mtu,
                up: true,
                addresses: BTreeSet::new(),
                neighbours: BTreeMap::new(),
                route_localnet: false,
            };
            &fresh
        };
        let addresses: BTreeSet<IpNet> = network.gateways().collect();
        let link = || name.to_owned();
        for &address in seen.addresses.difference(&addresses) {
            self.changes.push(Change::RemoveAddress {
                link: link(),
                address,
            });
        }
        for &address in addresses.difference(&seen.addresses) {
            self.changes.push(Change::AddAddress {
                link: link(),
                address,
            });
        }
        if !seen.route_localnet {
            self.changes
                .push(Change::EnableRouteLocalnet { bridge: link() });
        }
        for &ip in seen
            .neighbours
            .keys()
            .filter(|ip| !neighbours.contains_key(ip))
        {
            self.changes
                .push(Change::RemoveNeighbour { bridge: link(), ip });
        }
        for (&ip, &mac) in neighbours
            .iter()
            .filter(|(ip, mac)| seen.neighbours.get(ip) != Some(mac))
        {
            self.changes.push(Change::SetNeighbour {
                bridge: link(),
                ip,
                mac,
            });
        }
    }

    fn vxlan(
        &mut self,
        name: &str,
        bridge: &str,
        network: &NetworkSpec,
        desired: &HostNetwork,
        remotes: &BTreeMap<Mac, IpAddr>,
    ) {
        let (link, local, port) = (|| name.to_owned(), desired.underlay, desired.vxlan_port);
        let fresh;
        let seen = if let Some(seen) = self
            .observed
            .vxlans
            .get(name)
            .filter(|_| !self.gone.contains(name))
        {
            self.mtu_and_up(name, (seen.mtu, seen.up), network.mtu);
            seen
        } else {
            let bridge = bridge.to_owned();
            self.changes.push(Change::AddVxlan {
                vxlan: link(),
                bridge: bridge.clone(),
                vni: network.vni,
                port,
                local,
                mtu: network.mtu,
            });
            fresh = Vxlan {
                vni: network.vni,
                port,
                local: Some(local),
                learning: false,
                mtu: network.mtu,
                up: true,
                remotes: BTreeMap::new(),
                slot: Some(Port {
                    bridge,
                    ..Port::default()
                }),
            };
            &fresh
        };
        for &mac in seen.remotes.keys().filter(|mac| !remotes.contains_key(mac)) {
            self.changes
                .push(Change::RemoveRemote { vxlan: link(), mac });
        }
        for (&mac, &vtep) in remotes
            .iter()
            .filter(|(mac, vtep)| seen.remotes.get(mac) != Some(vtep))
        {
            self.changes.push(Change::SetRemote {
                vxlan: link(),
                mac,
                vtep,
            });
        }
        // A MAC that is attached here is switched to its container, even while the replica still has it elsewhere.
        let here: BTreeSet<Mac> = desired
            .attachments
            .iter()
            .filter(|a| a.vni == network.vni)
            .map(|a| a.mac)
            .collect();
        let switched = remotes
            .keys()
            .copied()
            .filter(|mac| !here.contains(mac))
            .collect();
        self.port(
            name,
            seen.slot.as_ref(),
            bridge,
            PortFlags::TUNNEL,
            &switched,
        );
    }

    fn attachments(&mut self, desired: &HostNetwork) {
        for attachment in &desired.attachments {
            let Some(network) = desired.networks.iter().find(|n| n.vni == attachment.vni) else {
                continue;
            };
            let Some(seen) = self.observed.veths.get(&attachment.host_ifname) else {
                continue;
            };
            let name = attachment.host_ifname.as_str();
            self.mtu_and_up(name, (seen.mtu, seen.up), network.mtu);
            let switched = BTreeSet::from([attachment.mac]);
            self.port(
                name,
                seen.slot.as_ref(),
                &bridge_name(network.vni),
                PortFlags::CONTAINER,
                &switched,
            );
        }
    }

    fn port(
        &mut self,
        name: &str,
        seen: Option<&Port>,
        bridge: &str,
        flags: PortFlags,
        switched: &BTreeSet<Mac>,
    ) {
        let link = || name.to_owned();
        let fresh = Port {
            bridge: bridge.to_owned(),
            ..Port::default()
        };
        let seen = match seen {
            Some(port) if port.bridge == bridge && !self.gone.contains(bridge) => port,
            _ => {
                self.changes.push(Change::SetBridge {
                    link: link(),
                    bridge: bridge.to_owned(),
                });
                &fresh
            }
        };
        if seen.flags != flags {
            self.changes.push(Change::SetPortFlags {
                link: link(),
                flags,
            });
        }
        for &mac in seen.switched.difference(switched) {
            self.changes
                .push(Change::RemoveSwitched { link: link(), mac });
        }
        for &mac in switched.difference(&seen.switched) {
            self.changes.push(Change::SetSwitched { link: link(), mac });
        }
    }

    fn mtu_and_up(&mut self, name: &str, (mtu, up): (u32, bool), want: u32) {
        if mtu != want {
            self.changes.push(Change::SetMtu {
                link: name.to_owned(),
                mtu: want,
            });
        }
        if !up {
            self.changes.push(Change::SetUp {
                link: name.to_owned(),
            });
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveLink { link } => write!(f, "remove interface {link}"),
            Self::AddBridge { bridge, .. } => write!(f, "add bridge {bridge}"),
            Self::AddVxlan {
                vxlan,
                vni,
                port,
                local,
                ..
            } => {
                write!(
                    f,
                    "add VXLAN device {vxlan} (VNI {vni}, UDP port {port}, from {local})"
                )
            }
            Self::SetMac { link, mac } => write!(f, "set MAC {mac} on {link}"),
            Self::SetMtu { link, mtu } => write!(f, "set MTU {mtu} on {link}"),
            Self::SetUp { link } => write!(f, "set {link} up"),
            Self::SetBridge { link, bridge } => write!(f, "put {link} into bridge {bridge}"),
            Self::SetPortFlags { link, .. } => write!(f, "set bridge port flags of {link}"),
            Self::AddAddress { link, address } => write!(f, "add address {address} to {link}"),
            Self::RemoveAddress { link, address } => {
                write!(f, "remove address {address} from {link}")
            }
            Self::SetNeighbour { bridge, ip, mac } => {
                write!(f, "set neighbour {ip} at {mac} on {bridge}")
            }
            Self::RemoveNeighbour { bridge, ip } => {
                write!(f, "remove neighbour {ip} from {bridge}")
            }
            Self::SetRemote { vxlan, mac, vtep } => {
                write!(f, "set {mac} behind node {vtep} on {vxlan}")
            }
            Self::RemoveRemote { vxlan, mac } => write!(f, "remove {mac} from {vxlan}"),
            Self::SetSwitched { link, mac } => write!(f, "switch {mac} to port {link}"),
            Self::RemoveSwitched { link, mac } => write!(f, "stop switching {mac} to port {link}"),
            Self::EnableForwarding4 => f.write_str("enable IPv4 forwarding"),
            Self::EnableForwarding6 => f.write_str("enable IPv6 forwarding"),
            Self::EnableRouteLocalnet { bridge } => write!(f, "enable route_localnet on {bridge}"),
            Self::ReplaceTable(_) => f.write_str("replace nftables table inet swarm"),
            Self::RemoveTable => f.write_str("remove nftables table inet swarm"),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
