//! Each [`Change`] as a request to the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use tracing::{debug, warn};

use super::abi::*;
use super::socket::{Netlink, Refusal};
use super::wire::{Attrs, Message, u32_at};
use super::{conntrack, nft, sysctl};
use crate::error::{Error, Result};
use crate::model::Mac;
use crate::plan::Change;
use crate::rules::Ruleset;
use crate::state::PortFlags;

/// What was made, and what failed for which reason.
pub(crate) type Outcome = (Vec<Change>, Vec<(Change, Error)>);

/// Makes the changes, in order. One that fails does not keep the others from being made; it is returned with its
/// reason.
pub(crate) fn apply(
    route: &mut Netlink,
    netfilter: &mut Netlink,
    changes: Vec<Change>,
) -> Result<Outcome> {
    let mut run = Run {
        route,
        indexes: BTreeMap::new(),
        pending: Vec::new(),
        made: Vec::new(),
        failed: Vec::new(),
    };
    for change in changes {
        let outcome = match &change {
            Change::EnableForwarding4 => sysctl::enable(sysctl::FORWARDING4),
            Change::EnableForwarding6 => sysctl::enable(sysctl::FORWARDING6),
            Change::EnableRouteLocalnet { bridge } => {
                run.flush()?;
                sysctl::enable(&sysctl::route_localnet(bridge))
            }
            Change::ReplaceTable(rules) => replace_table(netfilter, rules),
            Change::RemoveTable => nft::replace(netfilter, None),
            _ => match run.request(&change)? {
                Ok(request) => {
                    run.pending.push((change, request));
                    continue;
                }
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(()) => run.made.push(change),
            Err(error) => run.failed.push((change, error)),
        }
    }
    run.flush()?;
    Ok((run.made, run.failed))
}

/// Replaces the rules, and makes the kernel forget flows that they do not fit.
fn replace_table(netfilter: &mut Netlink, rules: &Ruleset) -> Result<()> {
    nft::replace(netfilter, Some(rules))?;
    match conntrack::forget(netfilter, &rules.flows) {
        Ok(0) => {}
        Ok(count) => debug!(count, "tracked UDP flows forgotten"),
        // The rules hold for every new flow; a kernel without nf_conntrack_netlink is no reason to stop here.
        Err(error) => warn!(%error, "cannot forget UDP flows to former tasks"),
    }
    Ok(())
}

struct Run<'a> {
    route: &'a mut Netlink,
    indexes: BTreeMap<String, u32>,
    pending: Vec<(Change, Message)>,
    made: Vec<Change>,
    failed: Vec<(Change, Error)>,
}

impl Run<'_> {
    fn flush(&mut self) -> Result<()> {
        let (changes, requests): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().unzip();
        for (change, answer) in changes.into_iter().zip(self.route.execute(&requests)?) {
            match answer {
                Err(refusal) if !already(&change, &refusal) => {
                    let error = refusal.into_error(change.to_string());
                    self.failed.push((change, error));
                }
                _ => self.made.push(change),
            }
        }
        Ok(())
    }

    /// An interface's index. It may be one that a pending request makes, so those go first.
    fn index(&mut self, link: &str) -> Result<Result<u32>> {
        if let Some(index) = self.indexes.get(link) {
            return Ok(Ok(*index));
        }
        self.flush()?;
        let found = index_of(self.route, link)?;
        if let Ok(index) = found {
            self.indexes.insert(link.to_owned(), index);
        }
        Ok(found)
    }

    fn request(&mut self, change: &Change) -> Result<Result<Message>> {
        let needed = match change {
            Change::AddVxlan { bridge, .. }
            | Change::SetBridge { bridge, .. }
            | Change::SetNeighbour { bridge, .. }
            | Change::RemoveNeighbour { bridge, .. } => Some(bridge),
            Change::AddAddress { link, .. }
            | Change::RemoveAddress { link, .. }
            | Change::SetSwitched { link, .. }
            | Change::RemoveSwitched { link, .. } => Some(link),
            Change::SetRemote { vxlan, .. } | Change::RemoveRemote { vxlan, .. } => Some(vxlan),
            _ => None,
        };
        let index = match needed.map(|link| self.index(link)).transpose()? {
            None => 0,
            Some(Ok(index)) => index,
            Some(Err(error)) => return Ok(Err(error)),
        };
        if let Change::RemoveLink { link } = change {
            self.indexes.remove(link);
        }
        Ok(Ok(message(change, index)))
    }
}

/// Whether a refusal says that things are as wanted already, as when others removed them in the meantime.
fn already(change: &Change, refusal: &Refusal) -> bool {
    match change {
        Change::RemoveLink { .. } => refusal.errno() == libc::ENODEV,
        Change::RemoveAddress { .. } => refusal.errno() == libc::EADDRNOTAVAIL,
        Change::RemoveNeighbour { .. }
        | Change::RemoveRemote { .. }
        | Change::RemoveSwitched { .. } => refusal.errno() == libc::ENOENT,
        _ => false,
    }
}

/// The request for a change; `index` is that of the interface which it names as the place.
fn message(change: &Change, index: u32) -> Message {
    let permanent = |family, flags| ndmsg(family, index, NUD_PERMANENT, flags);
    let switched = ndmsg(libc::AF_BRIDGE, index, NUD_NOARP, NTF_MASTER);
    match change {
        Change::RemoveLink { link } => remove_link(link),
        Change::AddBridge { bridge, mac, mtu } => {
            let data = Attrs::new().u8(IFLA_BR_MCAST_SNOOPING, 0);
            let info = Attrs::new()
                .str(IFLA_INFO_KIND, "bridge")
                .nest(IFLA_INFO_DATA, data);
            let attrs = Attrs::new()
                .bytes(IFLA_ADDRESS, &mac.0)
                .u32(IFLA_MTU, *mtu)
                .nest(IFLA_LINKINFO, info);
            link(bridge, libc::NLM_F_CREATE | libc::NLM_F_EXCL, true, attrs)
        }
        Change::AddVxlan {
            vxlan,
            vni,
            port,
            local,
            mtu,
            ..
        } => {
            let local_kind = if local.is_ipv4() {
                IFLA_VXLAN_LOCAL
            } else {
                IFLA_VXLAN_LOCAL6
            };
            let data = Attrs::new()
                .u32(IFLA_VXLAN_ID, *vni)
                .bytes(local_kind, &octets(*local))
                .u8(IFLA_VXLAN_LEARNING, 0)
                .be16(IFLA_VXLAN_PORT, *port);
            let info = Attrs::new()
                .str(IFLA_INFO_KIND, "vxlan")
                .nest(IFLA_INFO_DATA, data);
            let attrs = Attrs::new()
                .u32(IFLA_MTU, *mtu)
                .u32(IFLA_MASTER, index)
                .nest(IFLA_LINKINFO, info);
            link(vxlan, libc::NLM_F_CREATE | libc::NLM_F_EXCL, true, attrs)
        }
        Change::SetMac { link: name, mac } => {
            link(name, 0, false, Attrs::new().bytes(IFLA_ADDRESS, &mac.0))
        }
        Change::SetMtu { link: name, mtu } => {
            link(name, 0, false, Attrs::new().u32(IFLA_MTU, *mtu))
        }
        Change::SetUp { link: name } => link(name, 0, true, Attrs::new()),
        Change::SetBridge { link: name, .. } => {
            link(name, 0, false, Attrs::new().u32(IFLA_MASTER, index))
        }
        Change::SetPortFlags { link, flags } => set_port_flags(link, *flags),
        Change::AddAddress { address, .. } => add_address(index, *address),
        Change::RemoveAddress { address, .. } => {
            let attrs = Attrs::new().bytes(IFA_LOCAL, &octets(address.addr()));
            Message::new(libc::RTM_DELADDR, 0, &ifaddrmsg(index, *address), attrs)
        }
        Change::SetNeighbour { ip, mac, .. } => {
            let attrs = Attrs::new()
                .bytes(NDA_DST, &octets(*ip))
                .bytes(NDA_LLADDR, &mac.0);
            Message::new(libc::RTM_NEWNEIGH, SET, &permanent(family(*ip), 0), attrs)
        }
        Change::RemoveNeighbour { ip, .. } => {
            let attrs = Attrs::new().bytes(NDA_DST, &octets(*ip));
            Message::new(libc::RTM_DELNEIGH, 0, &permanent(family(*ip), 0), attrs)
        }
        Change::SetRemote { mac, vtep, .. } => {
            let attrs = Attrs::new()
                .bytes(NDA_LLADDR, &mac.0)
                .bytes(NDA_DST, &octets(*vtep));
            Message::new(
                libc::RTM_NEWNEIGH,
                SET,
                &permanent(libc::AF_BRIDGE, NTF_SELF),
                attrs,
            )
        }
        Change::RemoveRemote { mac, .. } => {
            let attrs = Attrs::new().bytes(NDA_LLADDR, &mac.0);
            Message::new(
                libc::RTM_DELNEIGH,
                0,
                &permanent(libc::AF_BRIDGE, NTF_SELF),
                attrs,
            )
        }
        Change::SetSwitched { mac, .. } => set_switched(index, *mac),
        Change::RemoveSwitched { mac, .. } => Message::new(
            libc::RTM_DELNEIGH,
            0,
            &switched,
            Attrs::new().bytes(NDA_LLADDR, &mac.0),
        ),
        // These are no requests of this socket; `apply` has dealt with them.
        Change::EnableForwarding4
        | Change::EnableForwarding6
        | Change::EnableRouteLocalnet { .. }
        | Change::ReplaceTable(_)
        | Change::RemoveTable => Message::new(libc::NLMSG_NOOP as u16, 0, &[], Attrs::new()),
    }
}

/// Create or overwrite.
const SET: libc::c_int = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

pub(crate) fn remove_link(name: &str) -> Message {
    Message::new(
        libc::RTM_DELLINK,
        0,
        &ifinfomsg(0, false),
        Attrs::new().str(IFLA_IFNAME, name),
    )
}

pub(crate) fn set_port_flags(name: &str, flags: PortFlags) -> Message {
    let data = Attrs::new()
        .u8(IFLA_BRPORT_LEARNING, flags.learning.into())
        .u8(IFLA_BRPORT_UNICAST_FLOOD, flags.unicast_flood.into())
        .u8(IFLA_BRPORT_MCAST_FLOOD, flags.multicast_flood.into())
        .u8(IFLA_BRPORT_BCAST_FLOOD, flags.broadcast_flood.into())
        .u8(IFLA_BRPORT_MODE, flags.hairpin.into())
        .u8(
            IFLA_BRPORT_NEIGH_SUPPRESS,
            flags.neighbour_suppression.into(),
        );
    let info = Attrs::new()
        .str(IFLA_INFO_SLAVE_KIND, "bridge")
        .nest(IFLA_INFO_SLAVE_DATA, data);
    link(name, 0, false, Attrs::new().nest(IFLA_LINKINFO, info))
}

pub(crate) fn set_switched(index: u32, mac: Mac) -> Message {
    let fixed = ndmsg(libc::AF_BRIDGE, index, NUD_NOARP, NTF_MASTER);
    Message::new(
        libc::RTM_NEWNEIGH,
        SET,
        &fixed,
        Attrs::new().bytes(NDA_LLADDR, &mac.0),
    )
}

/// No duplicate address detection: addresses are handed out once.
pub(crate) fn add_address(index: u32, address: IpNet) -> Message {
    let bytes = octets(address.addr());
    let mut attrs = Attrs::new()
        .bytes(IFA_LOCAL, &bytes)
        .bytes(IFA_ADDRESS, &bytes);
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        attrs = attrs.bytes(IFA_BROADCAST, &net.broadcast().octets());
    }
    Message::new(libc::RTM_NEWADDR, SET, &ifaddrmsg(index, address), attrs)
}

/// A request about one interface, by name.
pub(crate) fn link(name: &str, flags: libc::c_int, up: bool, attrs: Attrs) -> Message {
    let fixed = ifinfomsg(0, up);
    let named = Attrs::new().str(IFLA_IFNAME, name);
    Message::new(libc::RTM_NEWLINK, flags, &fixed, named.append(attrs))
}

/// The interface's index.
pub(crate) fn index_of(route: &mut Netlink, link: &str) -> Result<Result<u32>> {
    let answer = route
        .execute(&[get_link(link)])?
        .pop()
        .unwrap_or_else(|| Ok(Vec::new()));
    Ok(parse_index(answer, link))
}

pub(crate) fn get_link(name: &str) -> Message {
    Message::new(
        libc::RTM_GETLINK,
        0,
        &ifinfomsg(0, false),
        Attrs::new().str(IFLA_IFNAME, name),
    )
}

pub(crate) fn parse_index(answer: Result<Vec<u8>, Refusal>, link: &str) -> Result<u32> {
    let doing = || format!("find interface {link}");
    let body = answer.map_err(|refusal| refusal.into_error(doing()))?;
    u32_at(&body, 4).ok_or_else(|| Error::Kernel {
        doing: doing(),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
        detail: None,
    })
}

/// `struct ifinfomsg`.
pub(crate) fn ifinfomsg(index: u32, up: bool) -> [u8; 16] {
    let up = if up { libc::IFF_UP } else { 0 };
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&up.to_ne_bytes());
    fixed[12..16].copy_from_slice(&up.to_ne_bytes());
    fixed
}

/// `struct ndmsg`.
pub(crate) fn ndmsg(family: i32, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut fixed = [0; 12];
    fixed[0] = family.to_le_bytes()[0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed[10] = flags;
    fixed
}

/// `struct ifaddrmsg`.
fn ifaddrmsg(index: u32, address: IpNet) -> [u8; 8] {
    let family = family(address.addr()).to_le_bytes()[0];
    let flags = if address.addr().is_ipv6() {
        IFA_F_NODAD
    } else {
        0
    };
    let [a, b, c, d] = index.to_ne_bytes();
    [
        family,
        address.prefix_len(),
        flags,
        libc::RT_SCOPE_UNIVERSE,
        a,
        b,
        c,
        d,
    ]
}

pub(crate) const fn family(ip: IpAddr) -> i32 {
    if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
