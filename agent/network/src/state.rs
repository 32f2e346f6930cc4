//! The part of the kernel's state that is ours, as plain data: what `observe` reads and `plan` compares. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Mac;
use crate::rules::TableState;

/// What the kernel has of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// Bridges named `sw-<vni>`, by name.
    pub bridges: BTreeMap<String, Bridge>,
    /// VXLAN devices named `vx-<vni>`, by name.
    pub vxlans: BTreeMap<String, Vxlan>,
    /// Host ends of containers' veth pairs, `ve-…`, by name.
    pub veths: BTreeMap<String, Veth>,
    /// The table `inet swarm`, if there is one.
    pub table: Option<TableState>,
    /// Whether IPv4 packets are forwarded between interfaces.
    pub forwarding4: bool,
    /// Whether IPv6 packets are forwarded between interfaces.
    pub forwarding6: bool,
}

/// One of our bridges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its MAC.
    pub mac: Mac,
    /// Bytes per packet.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its addresses, link-local ones left out.
    pub addresses: BTreeSet<IpNet>,
    /// Its permanent neighbour entries, from which ARP and ND are answered.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Whether 127.0.0.0/8 may be routed over it, as access to published ports through 127.0.0.1 needs.
    pub route_localnet: bool,
}

/// One of our VXLAN devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network.
    pub vni: u32,
    /// The UDP port, ours and the remote nodes'.
    pub port: u16,
    /// Where its packets come from.
    pub local: Option<IpAddr>,
    /// Whether it learns remote MACs from packets; ours do not.
    pub learning: bool,
    /// Bytes per packet.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its forwarding entries: on which node a MAC lives.
    pub remotes: BTreeMap<Mac, IpAddr>,
    /// Its place in a bridge, if it has one.
    pub slot: Option<Port>,
}

/// The host's end of a container's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth {
    /// Bytes per packet.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its place in a bridge, if it has one.
    pub slot: Option<Port>,
}

/// An interface's place in a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The bridge's name.
    pub bridge: String,
    /// How the bridge treats it.
    pub flags: PortFlags,
    /// The static forwarding entries that lead to it.
    pub switched: BTreeSet<Mac>,
}

/// How a bridge treats a port; see `bridge(8)`, `bridge link set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    /// MACs are learned from packets that come in.
    pub learning: bool,
    /// Packets to unknown MACs go out.
    pub unicast_flood: bool,
    /// Multicast goes out.
    pub multicast_flood: bool,
    /// Broadcast goes out.
    pub broadcast_flood: bool,
    /// Packets may go out where they came in.
    pub hairpin: bool,
    /// ARP and ND for addresses behind this port are answered by the bridge.
    pub neighbour_suppression: bool,
}

impl Default for PortFlags {
    /// What the kernel gives to a new port.
    fn default() -> Self {
        Self {
            learning: true,
            unicast_flood: true,
            multicast_flood: true,
            broadcast_flood: true,
            hairpin: false,
            neighbour_suppression: false,
        }
    }
}

impl PortFlags {
    /// A VXLAN device: nothing is learned, nothing is flooded, ARP is answered here.
    pub const TUNNEL: Self = Self {
        learning: false,
        unicast_flood: false,
        multicast_flood: false,
        broadcast_flood: false,
        hairpin: false,
        neighbour_suppression: true,
    };

    /// A container: its MAC is known beforehand, and it may not claim another. Hairpin, because where br_netfilter is
    /// loaded the bridge itself carries a container's request to a published port back to the same container.
    pub const CONTAINER: Self = Self {
        learning: false,
        unicast_flood: false,
        multicast_flood: true,
        broadcast_flood: true,
        hairpin: true,
        neighbour_suppression: false,
    };
}
