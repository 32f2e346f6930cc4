//! Network devices of the host that become the container's (OCI config-linux, "Network Devices"): moved into its network namespace
//! under another name, with their lasting addresses, and switched on. By rtnetlink(7), in the few messages that this takes.

use super::sys;
use crate::{Error, Result};
use oci_spec::runtime::Spec;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// One device: its name on the host, and in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    from: String,
    to: String,
}

/// Those of a spec; they need a network namespace (`separate`).
pub(super) fn wanted(spec: &Spec, separate: bool) -> Result<Vec<Device>> {
    let given = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.net_devices().as_ref());
    let mut devices = Vec::new();
    for (from, device) in given.into_iter().flatten() {
        let to = device.name().clone().filter(|name| !name.is_empty());
        devices.push(Device {
            to: to.unwrap_or_else(|| from.clone()),
            from: from.clone(),
        });
    }
    if devices.is_empty() {
        return Ok(devices);
    }
    if !separate {
        return Err(Error::Invalid(
            "linux.netDevices need a network namespace of the container's own".to_owned(),
        ));
    }
    for name in devices.iter().flat_map(|d| [&d.from, &d.to]) {
        let bad = |c: char| c.is_whitespace() || c == '/' || c == ':' || c == '\0';
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
            return Err(Error::Invalid(format!(
                "linux.netDevices: `{name}` cannot be the name of a network device"
            )));
        }
    }
    devices.sort_by(|a, b| a.to.cmp(&b.to));
    if let Some([twice, _]) = devices
        .windows(2)
        .find(|pair| matches!(pair, [a, b] if a.to == b.to))
    {
        return Err(Error::Invalid(format!(
            "linux.netDevices: two devices would be called `{}` in the container",
            twice.to
        )));
    }
    Ok(devices)
}

/// Moves them into a network namespace. `own`: the caller's, to which it comes back.
pub(super) fn give(devices: &[Device], own: &OwnedFd, theirs: &OwnedFd) -> Result<()> {
    for device in devices {
        let Device { from, to } = device;
        let failed = |what: &str| {
            let attempt = format!("{what} the network device {from}, {to} in the container");
            move |e: io::Error| Error::io(attempt, e)
        };
        let here = Route::open().map_err(failed("find"))?;
        let index = netdevice::name_to_index(&here.0, from).map_err(|_| {
            Error::NotFound(format!(
                "linux.netDevices: the host has no network device {from}"
            ))
        })?;
        let addresses = here
            .addresses(index)
            .map_err(failed("read the addresses of"))?;
        let mut link = Message::link(index, 0);
        link.attribute(IFLA_NET_NS_FD, &theirs.as_raw_fd().to_ne_bytes());
        link.attribute(IFLA_IFNAME, format!("{to}\0").as_bytes());
        here.ask(link).map_err(failed("move"))?;
        // A socket belongs to the namespace in which it was made.
        let there = inside(own, theirs, Route::open).map_err(failed("reach"))?;
        let index = netdevice::name_to_index(&there.0, to).map_err(|e| failed("find")(e.into()))?;
        for address in addresses {
            there
                .ask(address.message(index))
                .map_err(failed("give its addresses to"))?;
        }
        there
            .ask(Message::link(index, IFF_UP))
            .map_err(failed("switch on"))?;
    }
    Ok(())
}

/// Does something in a network namespace, and comes back.
fn inside<T>(
    own: &OwnedFd,
    theirs: &OwnedFd,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    sys::setns(theirs.as_fd(), libc::CLONE_NEWNET as u64)?;
    let done = work();
    sys::setns(own.as_fd(), libc::CLONE_NEWNET as u64)?;
    done
}

// rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE_CREATE: u16 = 0x500;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
const IFA_F_PERMANENT: u8 = 0x80;
const HEAD: usize = 16;

/// A request: the head, which is completed when it is sent, a fixed part, and attributes.
#[derive(Debug)]
struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// About a link; `up` is IFF_UP, or nothing about whether it is on.
    fn link(index: u32, up: u32) -> Self {
        let mut body = vec![0u8; 4];
        body.extend(index.to_ne_bytes());
        // Flags, and which of them are meant.
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        Self {
            kind: RTM_NEWLINK,
            flags: NLM_F_REQUEST | NLM_F_ACK,
            body,
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let length = u32::try_from(self.body.len() + HEAD).unwrap_or(u32::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        // One request at a time: number and sender are the kernel's business.
        bytes.extend([0; 8]);
        bytes.extend(&self.body);
        bytes
    }
}

/// An address as the kernel tells of it: family, length of the prefix and so on, and the attributes.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    fixed: [u8; 4],
    attributes: Vec<u8>,
}

impl Address {
    fn message(&self, index: u32) -> Message {
        let mut body = self.fixed.to_vec();
        body.extend(index.to_ne_bytes());
        body.extend(&self.attributes);
        Message {
            kind: RTM_NEWADDR,
            flags: NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE_CREATE,
            body,
        }
    }

    /// One that lasts and counts everywhere, of that link.
    fn lasting(body: &[u8], index: u32) -> Option<Self> {
        let (fixed, rest) = body.split_first_chunk::<4>()?;
        let (link, attributes) = rest.split_first_chunk::<4>()?;
        let [_, _, flags, scope] = *fixed;
        let own = u32::from_ne_bytes(*link) == index;
        (own && flags & IFA_F_PERMANENT != 0 && scope == 0).then(|| Self {
            fixed: *fixed,
            attributes: without_label(attributes),
        })
    }
}

/// Attributes without those about the old name and the lifetimes, which are for ever.
fn without_label(mut attributes: &[u8]) -> Vec<u8> {
    const IFA_LABEL: u16 = 3;
    const IFA_CACHEINFO: u16 = 6;
    let mut kept = Vec::new();
    while let Some((head, _)) = attributes.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_ne_bytes([a, b])).max(4);
        let padded = length.next_multiple_of(4).min(attributes.len());
        let Some((one, rest)) = attributes.split_at_checked(padded) else {
            break;
        };
        if ![IFA_LABEL, IFA_CACHEINFO].contains(&u16::from_ne_bytes([c, d])) {
            kept.extend(one);
        }
        attributes = rest;
    }
    kept
}

/// A conversation with the kernel about a network namespace.
#[derive(Debug)]
struct Route(OwnedFd);

impl Route {
    fn open() -> io::Result<Self> {
        net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // Number 0 is that of NETLINK_ROUTE.
            None,
        )
        .map(Self)
        .map_err(Into::into)
    }

    /// Asks for something to be done.
    fn ask(&self, message: Message) -> io::Result<()> {
        self.talk(&message, |_, _| {})
    }

    /// The lasting addresses of a link.
    fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let mut found = Vec::new();
        let message = Message {
            kind: RTM_GETADDR,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            body: vec![0; 8],
        };
        self.talk(&message, |kind, body| {
            if kind == RTM_NEWADDR {
                found.extend(Address::lasting(body, index));
            }
        })?;
        Ok(found)
    }

    /// Sends a message and hears all that is answered.
    fn talk(&self, message: &Message, mut hear: impl FnMut(u16, &[u8])) -> io::Result<()> {
        net::send(&self.0, &message.bytes(), SendFlags::empty())?;
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let (length, _) = rustix::io::retry_on_intr(|| {
                net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
            })?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((head, _)) = rest.split_first_chunk::<HEAD>() {
                let [a, b, c, d, e, f, ..] = *head;
                let whole = (u32::from_ne_bytes([a, b, c, d]) as usize).max(HEAD);
                let kind = u16::from_ne_bytes([e, f]);
                let body = rest.get(HEAD..whole.min(rest.len())).unwrap_or_default();
                match kind {
                    NLMSG_ERROR => {
                        let code = body
                            .first_chunk::<4>()
                            .map_or(0, |b| i32::from_ne_bytes(*b));
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    NLMSG_DONE => return Ok(()),
                    other => hear(other, body),
                }
                rest = rest.get(whole.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(json: &str, separate: bool) -> Result<Vec<Device>> {
        let text = format!(r#"{{"ociVersion":"1.3.0","linux":{{"netDevices":{json}}}}}"#);
        wanted(&serde_json::from_str(&text).unwrap(), separate)
    }

    #[test]
    fn devices_have_names_of_their_own_in_a_namespace_of_its_own() {
        let good = devices(r#"{"eth1":{"name":"eth0"},"wlan0":{}}"#, true).unwrap();
        let device = |from: &str, to: &str| Device {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        assert_eq!(good, [device("eth1", "eth0"), device("wlan0", "wlan0")]);
        assert!(devices("{}", false).unwrap().is_empty());
        for bad in [
            r#"{"a":{"name":"x"},"b":{"name":"x"}}"#,
            r#"{"a":{"name":"../x"}}"#,
            r#"{"a-name-that-is-too-long":{}}"#,
        ] {
            assert!(devices(bad, true).is_err(), "{bad}");
        }
        assert!(devices(r#"{"a":{}}"#, false).is_err());
    }

    #[test]
    fn lasting_addresses_are_kept_without_their_old_label() {
        let mut message = Message::link(7, 0);
        message.body = vec![2, 24, IFA_F_PERMANENT, 0];
        message.body.extend(7u32.to_ne_bytes());
        message.attribute(2, &[10, 0, 0, 1]);
        message.attribute(3, b"eth1\0");
        let address = Address::lasting(&message.body, 7).unwrap();
        let again = address.message(9);
        assert_eq!(again.body.get(..4).unwrap(), [2, 24, IFA_F_PERMANENT, 0]);
        assert_eq!(again.body.len(), 8 + 8, "the address alone: {again:?}");
        assert_eq!(Address::lasting(&message.body, 8), None);
        message.body[2] = 0;
        assert_eq!(Address::lasting(&message.body, 7), None);
    }
}
