//! The rules of the table `inet swarm`, derived from the desired state. Pure: it knows what is matched and done, not how
//! nf_tables is told.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::flows::Flows;
use crate::model::{HostNetwork, Protocol, bridge_name};

/// The name of the one table that we own, in the family `inet`.
pub(crate) const TABLE: &str = "swarm";

/// The wanted content of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// In order of definition: a chain comes before those that jump to it.
    pub chains: Vec<Chain>,
    /// Which tracked UDP flows do not fit these rules.
    pub flows: Flows,
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where the kernel calls it; `None` for one that is jumped to.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where and when the kernel calls a chain (`nft(8)`, "CHAINS"). The policy is always accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: String,
    /// The netfilter hook's number (`NF_INET_…`).
    pub number: u32,
    /// Its order among all chains of the hook.
    pub priority: i32,
    /// What happens to packets that no rule decides about: 1 for accept.
    pub policy: u32,
}

/// Expressions that are evaluated in order until one does not match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule(pub Vec<Expr>);

/// One expression. Loads go to register 1, comparisons look at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Load packet metadata: a key of `enum nft_meta_keys`.
    Meta(u32),
    /// Load from the connection: a key of `enum nft_ct_keys`.
    Ct(u32),
    /// Load from the packet: `len` bytes at `offset` of a header (1 network, 2 transport).
    Payload {
        /// Which header.
        base: u32,
        /// Bytes into it.
        offset: u32,
        /// Bytes loaded.
        len: u32,
    },
    /// Load the type of the route to the destination.
    FibDestinationType,
    /// Mask the register.
    And(Vec<u8>),
    /// Continue if the register is this.
    Is(Vec<u8>),
    /// Continue if the register is not this.
    IsNot(Vec<u8>),
    /// Continue if the register is one of these.
    In(BTreeSet<Vec<u8>>),
    /// Continue if the register is none of these.
    NotIn(BTreeSet<Vec<u8>>),
    /// Translate the destination to one of these, at random. All are of one IP version.
    Balance(Vec<SocketAddr>),
    /// Translate the source to the outgoing interface's address.
    Masquerade,
    /// Let the packet pass this chain.
    Accept,
    /// Drop the packet.
    Drop,
    /// Go back to the calling chain.
    Return,
    /// Continue in another chain.
    Jump(&'static str),
}

/// What can be compared of a table: chains with their hooks, and each rule's fingerprint, which travels as its comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableState {
    /// Per chain: its hook and its rules' comments, in order.
    pub chains: BTreeMap<String, (Option<Hook>, Vec<String>)>,
}

impl Ruleset {
    /// The rules for a host; `None` if it is in no network and so needs none.
    #[must_use]
    pub fn of(desired: &HostNetwork) -> Option<Self> {
        if desired.networks.is_empty() {
            return None;
        }
        let bridges: BTreeSet<Vec<u8>> = desired
            .networks
            .iter()
            .map(|n| ifname(&bridge_name(n.vni)))
            .collect();
        let published = Chain {
            name: "published",
            hook: None,
            rules: published(desired),
        };
        let to_local = || {
            Rule(vec![
                Expr::FibDestinationType,
                is_u32(RTN_LOCAL),
                Expr::Jump("published"),
            ])
        };
        let loopback6 = Rule(
            [
                &nfproto(false)[..],
                &[
                    network(24, 16),
                    Expr::Is(Ipv6Addr::LOCALHOST.octets().into()),
                    Expr::Return,
                ],
            ]
            .concat(),
        );
        let chains = vec![
            published,
            base(
                "guard",
                "filter",
                PREROUTING,
                -150,
                vec![keep_loopback_out(&bridges)],
            ),
            base("prerouting", "nat", PREROUTING, -100, vec![to_local()]),
            base("output", "nat", OUTPUT, -100, vec![loopback6, to_local()]),
            base(
                "forward",
                "filter",
                FORWARD,
                -10,
                forward(desired, &bridges),
            ),
            base(
                "postrouting",
                "nat",
                POSTROUTING,
                100,
                masquerade(desired, &bridges),
            ),
            base("input", "filter", INPUT, -10, vec![only_nodes(desired)]),
        ];
        Some(Self {
            chains,
            flows: Flows::of(desired),
        })
    }

    /// What `observe` finds once this is in the kernel.
    #[must_use]
    pub fn state(&self) -> TableState {
        let chains = self.chains.iter();
        let chains = chains.map(|c| {
            (
                c.name.to_owned(),
                (c.hook.clone(), c.rules.iter().map(Rule::comment).collect()),
            )
        });
        TableState {
            chains: chains.collect(),
        }
    }
}

impl Rule {
    /// The rule's fingerprint, which tells whether the kernel's rule is this one.
    #[must_use]
    pub fn comment(&self) -> String {
        format!("swarm:{:016x}", fingerprint(&self.0))
    }
}

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_STATE_ESTABLISHED_OR_RELATED: u32 = 0b110;
const CT_STATUS_DST_NAT: u32 = 1 << 5;
const RTN_LOCAL: u32 = 2;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

fn base(name: &'static str, kind: &str, number: u32, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            kind: kind.to_owned(),
            number,
            priority,
            policy: 1,
        }),
        rules,
    }
}

/// With route_localnet a container could send to the host's 127.0.0.1 (as in CVE-2020-8558). Answers to translated
/// connections still carry the bridge's address here, before the translation is undone.
fn keep_loopback_out(bridges: &BTreeSet<Vec<u8>>) -> Rule {
    let from = [Expr::Meta(META_IIFNAME), Expr::In(bridges.clone())];
    let to = [network(16, 1), Expr::Is(vec![127]), Expr::Drop];
    Rule([&from[..], &nfproto(true), &to].concat())
}

fn published(desired: &HostNetwork) -> Vec<Rule> {
    let mut ports: BTreeMap<(Protocol, u16, bool), BTreeSet<SocketAddr>> = BTreeMap::new();
    for port in &desired.ports {
        for backend in &port.backends {
            ports
                .entry((port.protocol, port.port, backend.is_ipv4()))
                .or_default()
                .insert(*backend);
        }
    }
    let rule = |((protocol, port, v4), backends): ((Protocol, u16, bool), BTreeSet<SocketAddr>)| {
        let mut exprs = nfproto(v4).to_vec();
        exprs.extend(destination_port(protocol, port));
        exprs.push(Expr::Balance(backends.into_iter().collect()));
        Rule(exprs)
    };
    ports.into_iter().map(rule).collect()
}

fn forward(desired: &HostNetwork, bridges: &BTreeSet<Vec<u8>>) -> Vec<Rule> {
    let mut rules = vec![
        Rule(
            [
                &ct_has(CT_STATE, CT_STATE_ESTABLISHED_OR_RELATED)[..],
                &[Expr::Accept],
            ]
            .concat(),
        ),
        Rule([&ct_has(CT_STATUS, CT_STATUS_DST_NAT)[..], &[Expr::Accept]].concat()),
    ];
    // Bridged packets come by here where br_netfilter is loaded.
    rules.extend(desired.networks.iter().map(|n| {
        let name = ifname(&bridge_name(n.vni));
        let (from, to) = (Expr::Is(name.clone()), Expr::Is(name));
        Rule(vec![
            Expr::Meta(META_IIFNAME),
            from,
            Expr::Meta(META_OIFNAME),
            to,
            Expr::Accept,
        ])
    }));
    rules.push(Rule(vec![
        Expr::Meta(META_OIFNAME),
        Expr::In(bridges.clone()),
        Expr::Drop,
    ]));
    rules
}

fn masquerade(desired: &HostNetwork, bridges: &BTreeSet<Vec<u8>>) -> Vec<Rule> {
    let to_task = [Expr::Meta(META_OIFNAME), Expr::In(bridges.clone())];
    let mut rules = vec![Rule(
        [
            &to_task[..],
            &ct_has(CT_STATUS, CT_STATUS_DST_NAT),
            &[Expr::Masquerade],
        ]
        .concat(),
    )];
    let mut inside = bridges.clone();
    // The host talking to its own gateway address.
    inside.insert(ifname("lo"));
    let elsewhere = [
        Expr::Meta(META_OIFNAME),
        Expr::NotIn(inside),
        Expr::Masquerade,
    ];
    for spec in &desired.networks {
        let v4 = [
            network(12, 4),
            Expr::And(spec.subnet.netmask().octets().into()),
            Expr::Is(spec.subnet.network().octets().into()),
        ];
        rules.push(Rule([&nfproto(true)[..], &v4, &elsewhere].concat()));
        if let Some(v6) = spec.v6 {
            let v6 = [
                network(8, 16),
                Expr::And(v6.subnet.netmask().octets().into()),
                Expr::Is(v6.subnet.network().octets().into()),
            ];
            rules.push(Rule([&nfproto(false)[..], &v6, &elsewhere].concat()));
        }
    }
    rules
}

/// Others' VXLAN on the same port is left alone: only our VNIs are looked at.
fn only_nodes(desired: &HostNetwork) -> Rule {
    let v4 = desired.underlay.is_ipv4();
    let mut exprs = nfproto(v4).to_vec();
    exprs.extend(destination_port(Protocol::Udp, desired.vxlan_port));
    exprs.push(Expr::Payload {
        base: 2,
        offset: 12,
        len: 3,
    });
    exprs.push(Expr::In(
        desired
            .networks
            .iter()
            .map(|n| n.vni.to_be_bytes()[1..].to_vec())
            .collect(),
    ));
    let nodes: BTreeSet<Vec<u8>> = desired.endpoints.iter().map(|e| address(e.vtep)).collect();
    if !nodes.is_empty() {
        exprs.push(if v4 { network(12, 4) } else { network(8, 16) });
        exprs.push(Expr::NotIn(nodes));
    }
    exprs.push(Expr::Drop);
    Rule(exprs)
}

fn nfproto(v4: bool) -> [Expr; 2] {
    let family = if v4 {
        libc::NFPROTO_IPV4
    } else {
        libc::NFPROTO_IPV6
    };
    [
        Expr::Meta(META_NFPROTO),
        Expr::Is(vec![family.to_le_bytes()[0]]),
    ]
}

fn destination_port(protocol: Protocol, port: u16) -> [Expr; 4] {
    let number = match protocol {
        Protocol::Tcp => IPPROTO_TCP,
        Protocol::Udp => IPPROTO_UDP,
    };
    [
        Expr::Meta(META_L4PROTO),
        Expr::Is(vec![number]),
        Expr::Payload {
            base: 2,
            offset: 2,
            len: 2,
        },
        Expr::Is(port.to_be_bytes().into()),
    ]
}

fn ct_has(key: u32, bits: u32) -> [Expr; 3] {
    [
        Expr::Ct(key),
        Expr::And(bits.to_ne_bytes().into()),
        Expr::IsNot(vec![0; 4]),
    ]
}

const fn network(offset: u32, len: u32) -> Expr {
    Expr::Payload {
        base: 1,
        offset,
        len,
    }
}

fn is_u32(value: u32) -> Expr {
    Expr::Is(value.to_ne_bytes().into())
}

/// An interface's name as nf_tables compares it: 16 bytes, padded with zeros.
fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

/// FNV-1a, 64 bits: the same in every process and release, which std's hasher does not promise.
pub(crate) fn fingerprint<T: Hash + ?Sized>(value: &T) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for &byte in bytes {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}
