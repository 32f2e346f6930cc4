//! The kernel's tables read into a [`KernelState`]: interfaces, addresses, neighbours, forwarding entries, rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::abi::*;
use super::socket::Netlink;
use super::sysctl;
use super::wire::{Attrs, Message, attr, text, u16_at, u32_at};
use super::{apply, nft};
use crate::error::{Error, Result};
use crate::model::{BRIDGE_PREFIX, Mac, VETH_PREFIX, VXLAN_PREFIX, is_ours};
use crate::state::{Bridge, KernelState, Port, PortFlags, Veth, Vxlan};

/// Reads everything of ours. The sysctls are those of the calling thread's network namespace, which must be that of
/// the sockets.
pub(crate) fn observe(route: &mut Netlink, netfilter: &mut Netlink) -> Result<KernelState> {
    let mut state = KernelState {
        table: nft::observe(netfilter)?,
        forwarding4: sysctl::is_on(sysctl::FORWARDING4),
        forwarding6: sysctl::is_on(sysctl::FORWARDING6),
        ..KernelState::default()
    };
    let names = links(route, &mut state)?;
    addresses(route, &names, &mut state)?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        neighbours(route, family, &names, &mut state)?;
    }
    forwarding(route, &names, &mut state)?;
    Ok(state)
}

/// The MTU of any interface.
pub(crate) fn mtu(route: &mut Netlink, interface: &str) -> Result<u32> {
    let doing = || format!("find the MTU of interface {interface}");
    let answer = route.execute(&[apply::get_link(interface)])?.pop();
    let link = match answer {
        Some(Ok(link)) => link,
        Some(Err(refusal)) => return Err(refusal.into_error(doing())),
        None => Vec::new(),
    };
    let mtu = link.get(16..).and_then(|attrs| attr(attrs, IFLA_MTU));
    mtu.and_then(|mtu| u32_at(mtu, 0))
        .ok_or_else(|| Error::Kernel {
            doing: doing(),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
            detail: None,
        })
}

/// Finds our interfaces; returns the names of all, by index.
fn links(route: &mut Netlink, state: &mut KernelState) -> Result<BTreeMap<u32, String>> {
    let all = Message::new(libc::RTM_GETLINK, 0, &[0; 16], Attrs::new());
    let links: Vec<_> = route
        .dump(&all, "list interfaces")?
        .iter()
        .filter_map(|link| Link::parse(link))
        .collect();
    let names: BTreeMap<u32, String> = links
        .iter()
        .map(|link| (link.index, link.name.clone()))
        .collect();
    for link in links {
        let slot = link
            .master
            .and_then(|master| names.get(&master))
            .map(|bridge| Port {
                bridge: bridge.clone(),
                flags: link.port,
                switched: BTreeSet::new(),
            });
        let Link {
            name, mac, mtu, up, ..
        } = link;
        match (link.kind.as_str(), link.vxlan) {
            ("bridge", _) if is_ours(BRIDGE_PREFIX, &name) => {
                let route_localnet = sysctl::is_on(&sysctl::route_localnet(&name));
                let (addresses, neighbours) = (BTreeSet::new(), BTreeMap::new());
                state.bridges.insert(
                    name,
                    Bridge {
                        mac,
                        mtu,
                        up,
                        addresses,
                        neighbours,
                        route_localnet,
                    },
                );
            }
            ("vxlan", Some(vxlan)) if is_ours(VXLAN_PREFIX, &name) => {
                state.vxlans.insert(
                    name,
                    Vxlan {
                        mtu,
                        up,
                        slot,
                        ..vxlan
                    },
                );
            }
            ("veth", _) if is_ours(VETH_PREFIX, &name) => {
                state.veths.insert(name, Veth { mtu, up, slot });
            }
            _ => {}
        }
    }
    Ok(names)
}

struct Link {
    index: u32,
    name: String,
    kind: String,
    mac: Mac,
    mtu: u32,
    up: bool,
    master: Option<u32>,
    port: PortFlags,
    vxlan: Option<Vxlan>,
}

impl Link {
    fn parse(message: &[u8]) -> Option<Self> {
        let attrs = message.get(16..)?;
        let info = attr(attrs, IFLA_LINKINFO).unwrap_or_default();
        let kind = attr(info, IFLA_INFO_KIND).map(text).unwrap_or_default();
        let vxlan = attr(info, IFLA_INFO_DATA)
            .filter(|_| kind == "vxlan")
            .and_then(parse_vxlan);
        let is_port = attr(info, IFLA_INFO_SLAVE_KIND).map(text).as_deref() == Some("bridge");
        let port = attr(info, IFLA_INFO_SLAVE_DATA)
            .filter(|_| is_port)
            .unwrap_or_default();
        let flag = |kind| {
            attr(port, kind).is_some_and(|value| value.first().is_some_and(|flag| *flag != 0))
        };
        Some(Self {
            index: u32_at(message, 4)?,
            name: attr(attrs, IFLA_IFNAME).map(text)?,
            kind,
            mac: attr(attrs, IFLA_ADDRESS)
                .and_then(mac)
                .unwrap_or(Mac([0; 6])),
            mtu: attr(attrs, IFLA_MTU).and_then(|mtu| u32_at(mtu, 0))?,
            up: u32_at(message, 8)? & libc::IFF_UP.cast_unsigned() != 0,
            master: attr(attrs, IFLA_MASTER).and_then(|master| u32_at(master, 0)),
            port: PortFlags {
                learning: flag(IFLA_BRPORT_LEARNING),
                unicast_flood: flag(IFLA_BRPORT_UNICAST_FLOOD),
                multicast_flood: flag(IFLA_BRPORT_MCAST_FLOOD),
                broadcast_flood: flag(IFLA_BRPORT_BCAST_FLOOD),
                hairpin: flag(IFLA_BRPORT_MODE),
                neighbour_suppression: flag(IFLA_BRPORT_NEIGH_SUPPRESS),
            },
            vxlan,
        })
    }
}

fn parse_vxlan(data: &[u8]) -> Option<Vxlan> {
    let port: [u8; 2] = attr(data, IFLA_VXLAN_PORT)?.try_into().ok()?;
    Some(Vxlan {
        vni: u32_at(attr(data, IFLA_VXLAN_ID)?, 0)?,
        port: u16::from_be_bytes(port),
        local: attr(data, IFLA_VXLAN_LOCAL)
            .or_else(|| attr(data, IFLA_VXLAN_LOCAL6))
            .and_then(ip),
        learning: attr(data, IFLA_VXLAN_LEARNING).is_some_and(|on| on != [0]),
        mtu: 0,
        up: false,
        remotes: BTreeMap::new(),
        slot: None,
    })
}

fn addresses(
    route: &mut Netlink,
    names: &BTreeMap<u32, String>,
    state: &mut KernelState,
) -> Result<()> {
    let all = Message::new(libc::RTM_GETADDR, 0, &[0; 8], Attrs::new());
    for address in route.dump(&all, "list addresses")? {
        let (Some(&prefix), Some(index), Some(attrs)) =
            (address.get(1), u32_at(&address, 4), address.get(8..))
        else {
            continue;
        };
        let Some(bridge) = names
            .get(&index)
            .and_then(|name| state.bridges.get_mut(name))
        else {
            continue;
        };
        let ip = attr(attrs, IFA_LOCAL)
            .or_else(|| attr(attrs, IFA_ADDRESS))
            .and_then(ip);
        let link_local = matches!(ip, Some(IpAddr::V6(ip)) if ip.is_unicast_link_local());
        if let Some(address) = ip
            .filter(|_| !link_local)
            .and_then(|ip| IpNet::new(ip, prefix).ok())
        {
            bridge.addresses.insert(address);
        }
    }
    Ok(())
}

fn neighbours(
    route: &mut Netlink,
    family: i32,
    names: &BTreeMap<u32, String>,
    state: &mut KernelState,
) -> Result<()> {
    let all = Message::new(
        libc::RTM_GETNEIGH,
        0,
        &apply::ndmsg(family, 0, 0, 0),
        Attrs::new(),
    );
    for entry in route
        .dump(&all, "list neighbours")?
        .iter()
        .filter_map(|entry| Neighbour::parse(entry))
    {
        let Some(bridge) = names
            .get(&entry.index)
            .and_then(|name| state.bridges.get_mut(name))
        else {
            continue;
        };
        if let (NUD_PERMANENT, Some(ip), Some(mac)) = (entry.state, entry.ip, entry.mac) {
            bridge.neighbours.insert(ip, mac);
        }
    }
    Ok(())
}

fn forwarding(
    route: &mut Netlink,
    names: &BTreeMap<u32, String>,
    state: &mut KernelState,
) -> Result<()> {
    let all = Message::new(
        libc::RTM_GETNEIGH,
        0,
        &apply::ndmsg(libc::AF_BRIDGE, 0, 0, 0),
        Attrs::new(),
    );
    for entry in route
        .dump(&all, "list forwarding entries")?
        .iter()
        .filter_map(|entry| Neighbour::parse(entry))
    {
        let (Some(name), Some(mac)) = (names.get(&entry.index), entry.mac) else {
            continue;
        };
        if entry.in_master {
            let slot = match (state.vxlans.get_mut(name), state.veths.get_mut(name)) {
                (Some(vxlan), _) => vxlan.slot.as_mut(),
                (_, Some(veth)) => veth.slot.as_mut(),
                _ => None,
            };
            // Permanent ones are the ports' own MACs, others were learned.
            if let (Some(slot), NUD_NOARP) = (slot, entry.state) {
                slot.switched.insert(mac);
            }
        } else if let (Some(vxlan), Some(vtep)) = (state.vxlans.get_mut(name), entry.ip) {
            vxlan.remotes.insert(mac, vtep);
        }
    }
    Ok(())
}

struct Neighbour {
    index: u32,
    state: u16,
    in_master: bool,
    mac: Option<Mac>,
    ip: Option<IpAddr>,
}

impl Neighbour {
    fn parse(message: &[u8]) -> Option<Self> {
        let attrs = message.get(12..)?;
        let own = message.get(10)? & NTF_SELF != 0;
        Some(Self {
            index: u32_at(message, 4)?,
            state: u16_at(message, 8)?,
            in_master: !own && attr(attrs, NDA_MASTER).is_some(),
            mac: attr(attrs, NDA_LLADDR).and_then(mac),
            ip: attr(attrs, NDA_DST).and_then(ip),
        })
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}
