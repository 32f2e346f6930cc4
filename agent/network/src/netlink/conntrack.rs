//! Makes the kernel forget UDP flows (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::{IpAddr, SocketAddr};

use super::abi::NFNL_SUBSYS_CTNETLINK;
use super::socket::Netlink;
use super::wire::{Attrs, Message, attr, attrs, u32_at};
use crate::error::Result;
use crate::flows::{Flow, Flows};

const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPPROTO_UDP: u8 = 17;
/// Length of `struct nfgenmsg`.
const FIXED: usize = 4;

/// Forgets the flows that `flows` names; returns how many.
pub(crate) fn forget(netfilter: &mut Netlink, flows: &Flows) -> Result<usize> {
    let all = request(IPCTNL_MSG_CT_GET, 0, Attrs::new());
    let entries = netfilter.dump(&all, "list tracked connections")?;
    let stale = entries
        .iter()
        .filter(|entry| parse(entry).is_some_and(|flow| flows.forget(&flow)));
    let requests: Vec<Message> = stale.map(|entry| delete(entry)).collect();
    // One that has ended in the meantime is as good as forgotten.
    Ok(netfilter
        .execute(&requests)?
        .iter()
        .filter(|answer| answer.is_ok())
        .count())
}

fn request(kind: u16, family: u8, attrs: Attrs) -> Message {
    Message::new(
        NFNL_SUBSYS_CTNETLINK << 8 | kind,
        0,
        &[family, 0, 0, 0],
        attrs,
    )
}

fn delete(entry: &[u8]) -> Message {
    let mut out = Attrs::new();
    for (kind, value) in attrs(entry.get(FIXED..).unwrap_or_default()) {
        match kind {
            CTA_TUPLE_ORIG => out = out.nest(kind, Attrs::behind(value)),
            CTA_ID | CTA_ZONE => out = out.bytes(kind, value),
            _ => {}
        }
    }
    request(
        IPCTNL_MSG_CT_DELETE,
        entry.first().copied().unwrap_or_default(),
        out,
    )
}

/// The flow, if it is one of UDP.
fn parse(entry: &[u8]) -> Option<Flow> {
    let body = entry.get(FIXED..)?;
    let (origin, reply) = (attr(body, CTA_TUPLE_ORIG)?, attr(body, CTA_TUPLE_REPLY)?);
    if attr(attr(origin, CTA_TUPLE_PROTO)?, CTA_PROTO_NUM)? != [IPPROTO_UDP] {
        return None;
    }
    let status = u32::from_be(u32_at(attr(body, CTA_STATUS)?, 0)?);
    Some(Flow {
        to: end(origin, CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)?,
        answered_by: end(reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)?,
        answered: status & IPS_SEEN_REPLY != 0,
    })
}

fn end(tuple: &[u8], v4: u16, v6: u16, port: u16) -> Option<SocketAddr> {
    let (ip, ports) = (attr(tuple, CTA_TUPLE_IP)?, attr(tuple, CTA_TUPLE_PROTO)?);
    let ip = match attr(ip, v4) {
        Some(ip) => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        None => IpAddr::from(<[u8; 16]>::try_from(attr(ip, v6)?).ok()?),
    };
    Some(SocketAddr::new(
        ip,
        u16::from_be_bytes(attr(ports, port)?.try_into().ok()?),
    ))
}
