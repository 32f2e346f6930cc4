//! The desired state of one host's networks, as plain data, and the names derived from it. No I/O.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Error, Result};
use crate::rules::fingerprint;

/// The VXLAN port assigned by IANA (RFC 7348 section 5).
pub const VXLAN_PORT: u16 = 4789;

/// Bytes that VXLAN adds to a packet over IPv4: a network's MTU is the underlay's less this (20 more over IPv6).
pub const VTEP_OVERHEAD: u32 = 50;

/// Longest name of an interface, without the terminating zero (IFNAMSIZ - 1).
const IFNAME_MAX: usize = 15;

pub(crate) const BRIDGE_PREFIX: &str = "sw-";
pub(crate) const VXLAN_PREFIX: &str = "vx-";
pub(crate) const VETH_PREFIX: &str = "ve-";

/// The name of the bridge of the network with this VNI.
#[must_use]
pub fn bridge_name(vni: u32) -> String {
    format!("{BRIDGE_PREFIX}{vni}")
}

/// The name of the VXLAN device of the network with this VNI.
#[must_use]
pub fn vxlan_name(vni: u32) -> String {
    format!("{VXLAN_PREFIX}{vni}")
}

/// A name for the host's end of a container's veth pair, derived from a unique text such as the task's id (and the
/// network's name, where a task has several).
#[must_use]
pub fn veth_name(id: &str) -> String {
    format!("{VETH_PREFIX}{:012x}", fingerprint(id) & 0xffff_ffff_ffff)
}

/// Whether an interface of this name can be ours.
pub(crate) fn is_ours(prefix: &str, name: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| {
        prefix == VETH_PREFIX
            || (!rest.starts_with('0') && rest.parse::<u32>().is_ok_and(|vni| vni < 1 << 24))
    })
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The locally administered address that belongs to an IPv4 address: `02:42:` and its four octets. As addresses
    /// are unique in a network, so are these.
    #[must_use]
    pub const fn for_address(addr: Ipv4Addr) -> Self {
        let [a, b, c, d] = addr.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everything that one host's networks should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNetwork {
    /// This node's address between nodes: VXLAN packets come from it, the other nodes have it as our `vtep`.
    pub underlay: IpAddr,
    /// The UDP port of the tunnels, the same on all nodes; commonly [`VXLAN_PORT`].
    pub vxlan_port: u16,
    /// The cluster networks that this host takes part in.
    pub networks: Vec<NetworkSpec>,
    /// The containers that run here. One that is desired here but has no interface is reported, see
    /// [`Report::missing`](crate::Report::missing).
    pub attachments: Vec<Attachment>,
    /// The addresses that live on other nodes: their tasks' and their gateways'.
    pub endpoints: Vec<RemoteEndpoint>,
    /// The ports published on every node.
    pub ports: Vec<PublishedPort>,
}

/// One cluster network, as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name, for messages.
    pub name: String,
    /// Its VXLAN network identifier, 1 to 2^24 - 1, unique in the cluster; the interfaces are named after it.
    pub vni: u32,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// This node's own address in it, on the bridge: the default route of the containers here.
    pub gateway: Ipv4Addr,
    /// The same for IPv6, where the network has it.
    pub v6: Option<Gateway6>,
    /// Bytes per packet inside it: the underlay's MTU less [`VTEP_OVERHEAD`].
    pub mtu: u32,
}

impl NetworkSpec {
    /// The addresses of the bridge.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpNet> {
        let v4 = Ipv4Net::new(self.gateway, self.subnet.prefix_len())
            .ok()
            .map(IpNet::V4);
        let v6 = self
            .v6
            .and_then(|v6| Ipv6Net::new(v6.gateway, v6.subnet.prefix_len()).ok())
            .map(IpNet::V6);
        v4.into_iter().chain(v6)
    }
}

/// A network's IPv6 subnet (a unique local one, RFC 4193) and this node's address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway6 {
    /// The subnet.
    pub subnet: Ipv6Net,
    /// This node's own address in it.
    pub gateway: Ipv6Addr,
}

/// A container of this host in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The network.
    pub vni: u32,
    /// The host's end of the veth pair, see [`veth_name`].
    pub host_ifname: String,
    /// The container's address.
    pub addr: Ipv4Addr,
    /// The container's MAC, commonly [`Mac::for_address`].
    pub mac: Mac,
}

/// An address of a network that lives on another node: a task's, or that node's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// The network.
    pub vni: u32,
    /// The address.
    pub ip: IpAddr,
    /// Its MAC, commonly [`Mac::for_address`].
    pub mac: Mac,
    /// The node's underlay address.
    pub vtep: IpAddr,
}

/// The transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of every node that leads to some task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port on the nodes.
    pub port: u16,
    /// The tasks' addresses and ports; each new connection gets one at random. Clients over IPv4 get IPv4 backends,
    /// clients over IPv6 get IPv6 ones.
    pub backends: Vec<SocketAddr>,
}

/// A request to connect a container to a network.
#[derive(Debug)]
pub struct Attach {
    /// The network; its bridge must exist.
    pub vni: u32,
    /// The container's network namespace.
    pub netns: OwnedFd,
    /// The host's end of the pair, see [`veth_name`].
    pub host_ifname: String,
    /// The container's end, such as `eth0`.
    pub container_ifname: String,
    /// The container's address and the network's prefix length.
    pub addr: Ipv4Net,
    /// The container's IPv6 address and prefix length, if any.
    pub addr6: Option<Ipv6Net>,
    /// The container's MAC, commonly [`Mac::for_address`].
    pub mac: Mac,
    /// The default route; `None` leaves the container without one (a second network, say).
    pub gateway: Option<Ipv4Addr>,
    /// The default route for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Bytes per packet, the network's.
    pub mtu: u32,
}

impl Attach {
    pub(crate) fn validate(&self) -> Result<()> {
        if !is_ours(VETH_PREFIX, &self.host_ifname) {
            return Err(invalid(
                format!("interface name {:?}", self.host_ifname),
                format!(
                    "the host's end must start with {VETH_PREFIX:?} so that teardown finds it; use veth_name()"
                ),
            ));
        }
        for name in [&self.host_ifname, &self.container_ifname] {
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
            if name.is_empty()
                || name.len() > IFNAME_MAX
                || name.contains(bad)
                || name == "."
                || name == ".."
            {
                return Err(invalid(
                    format!("interface name {name:?}"),
                    format!("it must have 1 to {IFNAME_MAX} bytes, without '/', ':' and blanks"),
                ));
            }
        }
        check_vni(self.vni)
    }
}

impl HostNetwork {
    /// A host in no network: reconciling with it leaves nothing but the containers' own interfaces.
    #[must_use]
    pub const fn empty(underlay: IpAddr) -> Self {
        Self {
            underlay,
            vxlan_port: VXLAN_PORT,
            networks: Vec::new(),
            attachments: Vec::new(),
            endpoints: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// Checks what no kernel could hold, before anything is changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a VNI out of range or used twice, a gateway outside its subnet, overlapping subnets, an
    /// MTU out of range, or a remote node whose underlay address is of the other IP version than ours.
    pub fn validate(&self) -> Result<()> {
        let mut vnis = BTreeSet::new();
        for (index, network) in self.networks.iter().enumerate() {
            let name = format!("network {}", network.name);
            check_vni(network.vni)?;
            if !vnis.insert(network.vni) {
                return Err(invalid(
                    name,
                    format!("VNI {} belongs to another network too", network.vni),
                ));
            }
            if !network.subnet.contains(&network.gateway) {
                return Err(invalid(
                    name,
                    format!("gateway {} is outside {}", network.gateway, network.subnet),
                ));
            }
            if let Some(v6) = network.v6.filter(|v6| !v6.subnet.contains(&v6.gateway)) {
                return Err(invalid(
                    name,
                    format!("gateway {} is outside {}", v6.gateway, v6.subnet),
                ));
            }
            let least = if network.v6.is_some() { 1280 } else { 576 };
            if !(least..=65_450).contains(&network.mtu) {
                return Err(invalid(
                    name,
                    format!("MTU {} is not within {least}..=65450", network.mtu),
                ));
            }
            for other in &self.networks[..index] {
                if other.subnet.contains(&network.subnet) || network.subnet.contains(&other.subnet)
                {
                    return Err(invalid(
                        name,
                        format!(
                            "{} overlaps {} of network {}",
                            network.subnet, other.subnet, other.name
                        ),
                    ));
                }
            }
        }
        if let Some(endpoint) = self
            .endpoints
            .iter()
            .find(|e| e.vtep.is_ipv4() != self.underlay.is_ipv4())
        {
            return Err(invalid(
                format!("endpoint {}", endpoint.ip),
                format!(
                    "its node's address {} and ours, {}, are of different IP versions; let all nodes advertise the same one",
                    endpoint.vtep, self.underlay
                ),
            ));
        }
        Ok(())
    }
}

fn check_vni(vni: u32) -> Result<()> {
    if (1..1 << 24).contains(&vni) {
        return Ok(());
    }
    Err(invalid(
        format!("VNI {vni}"),
        "it must be within 1..=16777215".into(),
    ))
}

fn invalid(subject: String, reason: String) -> Error {
    Error::Invalid { subject, reason }
}
