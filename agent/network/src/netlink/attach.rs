//! Connecting a container: a veth pair with one end in its network namespace, configured through one socket there.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};

use super::abi::*;
use super::apply::{
    add_address, family, get_link, ifinfomsg, link, octets, parse_index, remove_link,
};
use super::apply::{set_port_flags, set_switched};
use super::socket::{Answer, Netlink};
use super::wire::{Attrs, Message};
use crate::error::{Error, Result};
use crate::model::{Attach, bridge_name};
use crate::state::PortFlags;

/// Every network namespace's loopback interface has the first index.
const LOOPBACK: u32 = 1;

/// Makes the pair, puts one end into the bridge, the other into the container, and configures that. Leaves nothing
/// behind when it fails. A left-over interface of the same name is replaced.
pub(crate) fn attach(route: &mut Netlink, request: &Attach) -> Result<()> {
    request.validate()?;
    let mut inside = enter(&request.netns)?;
    let outcome = connect(route, request).and_then(|()| configure(&mut inside, request));
    if outcome.is_err() {
        // The error that is on its way says more than one from here could.
        let _ = detach(route, &request.host_ifname);
    }
    outcome
}

/// Removes the host's end, and with it the container's. One that is gone already is no error.
pub(crate) fn detach(route: &mut Netlink, host_ifname: &str) -> Result<()> {
    for answer in route.execute(&[remove_link(host_ifname)])? {
        match answer {
            Err(refusal) if refusal.errno() != libc::ENODEV => {
                return Err(refusal.into_error(format!("remove interface {host_ifname}")));
            }
            _ => {}
        }
    }
    Ok(())
}

fn connect(route: &mut Netlink, request: &Attach) -> Result<()> {
    let (name, bridge) = (request.host_ifname.as_str(), bridge_name(request.vni));
    let mut answers = route.execute(&[get_link(&bridge)])?.into_iter();
    let master = match next(&mut answers) {
        Err(refusal) if refusal.errno() == libc::ENODEV => {
            return Err(Error::NoBridge {
                ifname: name.to_owned(),
                bridge,
            });
        }
        answer => parse_index(answer, &bridge)?,
    };
    let steps = [
        pair(request, master),
        set_port_flags(name, PortFlags::CONTAINER),
        get_link(name),
    ];
    let mut answers = route.execute(&steps)?.into_iter();
    let mut made = next(&mut answers);
    if made
        .as_ref()
        .is_err_and(|refusal| refusal.errno() == libc::EEXIST)
    {
        detach(route, name)?;
        answers = route.execute(&steps)?.into_iter();
        made = next(&mut answers);
    }
    let container = &request.container_ifname;
    made.map_err(|refusal| {
        refusal.into_error(format!("add veth pair {name} to {container} in {bridge}"))
    })?;
    next(&mut answers)
        .map_err(|refusal| refusal.into_error(format!("set bridge port flags of {name}")))?;
    let index = parse_index(next(&mut answers), name)?;
    next(
        &mut route
            .execute(&[set_switched(index, request.mac)])?
            .into_iter(),
    )
    .map_err(|refusal| refusal.into_error(format!("switch {} to port {name}", request.mac)))?;
    Ok(())
}

fn pair(request: &Attach, master: u32) -> Message {
    // The kernel cannot set the peer up before the two ends are joined.
    let peer = Attrs::behind(&ifinfomsg(0, false))
        .str(IFLA_IFNAME, &request.container_ifname)
        .bytes(IFLA_ADDRESS, &request.mac.0)
        .u32(IFLA_MTU, request.mtu)
        .u32(IFLA_NET_NS_FD, request.netns.as_raw_fd().cast_unsigned());
    let data = Attrs::new().nest(VETH_INFO_PEER, peer);
    let info = Attrs::new()
        .str(IFLA_INFO_KIND, "veth")
        .nest(IFLA_INFO_DATA, data);
    let attrs = Attrs::new()
        .u32(IFLA_MTU, request.mtu)
        .u32(IFLA_MASTER, master)
        .nest(IFLA_LINKINFO, info);
    link(
        &request.host_ifname,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        true,
        attrs,
    )
}

fn configure(inside: &mut Netlink, request: &Attach) -> Result<()> {
    let name = request.container_ifname.as_str();
    let loopback = Message::new(
        libc::RTM_NEWLINK,
        0,
        &ifinfomsg(LOOPBACK, true),
        Attrs::new(),
    );
    let mut answers = inside.execute(&[loopback, get_link(name)])?.into_iter();
    next(&mut answers)
        .map_err(|refusal| refusal.into_error("set the container's loopback interface up"))?;
    let index = parse_index(next(&mut answers), name)?;

    let addresses = [Some(IpNet::V4(request.addr)), request.addr6.map(IpNet::V6)]
        .into_iter()
        .flatten();
    let gateways = [
        request.gateway.map(IpAddr::V4),
        request.gateway6.map(IpAddr::V6),
    ]
    .into_iter()
    .flatten();
    let up = (
        format!("set the container's {name} up"),
        link(name, 0, true, Attrs::new()),
    );
    let addresses = addresses.map(|address| {
        (
            format!("add address {address} to the container's {name}"),
            add_address(index, address),
        )
    });
    let routes = gateways.map(|gateway| {
        (
            format!("add the container's default route by {gateway} on {name}"),
            default_route(index, gateway),
        )
    });
    let steps = std::iter::once(up).chain(addresses).chain(routes);
    let (doing, requests): (Vec<String>, Vec<Message>) = steps.unzip();
    for (doing, answer) in doing.into_iter().zip(inside.execute(&requests)?) {
        answer.map_err(|refusal| refusal.into_error(doing))?;
    }
    Ok(())
}

fn default_route(index: u32, gateway: IpAddr) -> Message {
    // struct rtmsg: family, prefix lengths, tos, table, protocol, scope, type, flags.
    let family = family(gateway).to_le_bytes()[0];
    let (table, scope) = (libc::RT_TABLE_MAIN, libc::RT_SCOPE_UNIVERSE);
    let fixed = [
        family,
        0,
        0,
        0,
        table,
        libc::RTPROT_BOOT,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let attrs = Attrs::new()
        .bytes(RTA_GATEWAY, &octets(gateway))
        .u32(RTA_OIF, index);
    Message::new(
        libc::RTM_NEWROUTE,
        libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        &fixed,
        attrs,
    )
}

/// A socket in another network namespace, opened by a thread that enters it and ends: a socket stays where it was made,
/// and a thread that went astray could not be trusted with the next request.
fn enter(netns: &OwnedFd) -> Result<Netlink> {
    let failed = |source| Error::Socket {
        doing: "enter the container's network namespace",
        source,
    };
    let open = || {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
        Netlink::route()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .stack_size(64 << 10)
            .spawn_scoped(scope, open);
        thread
            .map_err(failed)?
            .join()
            .unwrap_or(Err(Error::WorkerGone))
    })
}

fn next(answers: &mut impl Iterator<Item = Answer>) -> Answer {
    answers.next().unwrap_or_else(|| Ok(Vec::new()))
}
