//! The pure core of DNS: what the answer to a query is.
//!
//! Comes in: the query, the catalogue, where the asker stands, and a number that turns the order. Goes out: a message,
//! or the advice to forward. It must not know of sockets, time or upstream resolvers.

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::wire::MAX_UDP;
use crate::DiscoveryError;
use crate::catalogue::{Endpoint, Names, NodeEntry, Port};

/// The most records in one answer section; more tasks than that show in turn.
const MAX_ANSWERS: usize = 256;
/// RFC 8914: the option's code, and "Stale Answer".
const EXTENDED_ERROR: u16 = 15;
const STALE_ANSWER: [u8; 2] = [0, 3];

/// The zone that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    origin: Name,
    ttl: u32,
}

impl Zone {
    /// A zone such as `swarm.`, whose records live for `ttl` seconds.
    ///
    /// # Errors
    /// When `domain` is not a DNS name, or is the root.
    pub fn new(domain: &str, ttl: u32) -> Result<Self, DiscoveryError> {
        let refuse = |reason: String| DiscoveryError::Domain {
            domain: domain.to_owned(),
            reason,
        };
        let mut origin = Name::from_ascii(domain)
            .map_err(|error| refuse(error.to_string()))?
            .to_lowercase();
        origin.set_fqdn(true);
        if origin.is_root() {
            return Err(refuse("it is the root".to_owned()));
        }
        Ok(Self { origin, ttl })
    }

    /// The zone's name.
    #[must_use]
    pub fn origin(&self) -> &Name {
        &self.origin
    }
}

/// Where the one who asks stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Viewpoint {
    /// The cluster network of a container; `None` for the host, which sees every address.
    pub network: Option<String>,
    /// The address of the server that was asked, as the zone's name server.
    pub server: Option<IpAddr>,
}

impl Viewpoint {
    /// As seen from the host.
    #[must_use]
    pub fn host() -> Self {
        Self::default()
    }

    /// As seen from a container on `network`.
    #[must_use]
    pub fn network(network: impl Into<String>) -> Self {
        Self {
            network: Some(network.into()),
            server: None,
        }
    }
}

/// What to do with a query.
#[derive(Debug)]
pub enum Answer {
    /// Send this, after [`super::encode`].
    Reply(Box<Message>),
    /// The name is not ours: ask an upstream resolver.
    Forward,
    /// Not a query at all: say nothing, or two servers would talk to each other for ever.
    Ignore,
}

/// What a name of ours stands for.
enum Target {
    /// The zone's own name.
    Apex,
    /// The zone's name server.
    NameServer,
    /// A name with names below it, and nothing else.
    Empty,
    /// Live tasks.
    Tasks(Vec<Endpoint>),
    /// One port of live tasks.
    Ports(Vec<(Endpoint, Port)>),
    /// A node.
    Node(NodeEntry),
    /// The name of an address.
    Pointer(Name),
}

/// Answers one query. `rotation` turns the order of the records: hand in a different number each time.
#[must_use]
pub fn answer(
    zone: &Zone,
    query: &Message,
    catalogue: &dyn Names,
    view: &Viewpoint,
    rotation: u64,
) -> Answer {
    if query.metadata.message_type != MessageType::Query {
        return Answer::Ignore;
    }
    let mut reply = reply_to(query);
    let fail = |mut reply: Message, code| {
        reply.metadata.response_code = code;
        Answer::Reply(Box::new(reply))
    };
    if query.metadata.op_code != OpCode::Query {
        return fail(reply, ResponseCode::NotImp);
    }
    let [question] = query.queries.as_slice() else {
        return fail(reply, ResponseCode::FormErr);
    };
    if query.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        // RFC 6891 6.1.3; the upper bits of the code go into the OPT record.
        if let Some(edns) = reply.edns.as_mut() {
            edns.set_rcode_high(ResponseCode::BADVERS.high());
        }
        return fail(reply, ResponseCode::BADVERS);
    }

    let in_zone = zone.origin.zone_of(question.name());
    let target = if in_zone {
        let Some(labels) = labels_below(zone, question.name()) else {
            return fail(reply, ResponseCode::NXDomain);
        };
        within_zone(&labels, catalogue)
    } else {
        match outside_zone(zone, question.name(), catalogue) {
            Some(target) => Some(target),
            None => return Answer::Forward,
        }
    };
    if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY)
        || matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR)
    {
        return fail(reply, ResponseCode::Refused);
    }

    reply.metadata.authoritative = true;
    if catalogue.stale()
        && let Some(edns) = reply.edns.as_mut()
    {
        edns.options_mut()
            .insert(EdnsOption::Unknown(EXTENDED_ERROR, STALE_ANSWER.to_vec()));
    }
    match target {
        Some(target) => fill(
            zone, &mut reply, question, &target, catalogue, view, rotation,
        ),
        None => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    if reply.answers.is_empty() {
        // Both NXDOMAIN and "no such type" carry the SOA, so that they may be cached (RFC 2308).
        reply.add_authority(soa(zone, catalogue));
    }
    Answer::Reply(Box::new(reply))
}

/// An empty answer that repeats the question.
pub(crate) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP as u16);
        edns.set_version(0);
        reply.set_edns(edns);
    }
    reply
}

/// The labels below the zone's name, lower case; `None` if one of them is not ASCII.
fn labels_below(zone: &Zone, name: &Name) -> Option<Vec<String>> {
    let below =
        usize::from(name.num_labels()).checked_sub(usize::from(zone.origin.num_labels()))?;
    labels(name).map(|mut labels| {
        labels.truncate(below);
        labels
    })
}

fn labels(name: &Name) -> Option<Vec<String>> {
    name.iter()
        .map(|label| {
            let text = std::str::from_utf8(label).ok()?;
            text.is_ascii().then(|| text.to_ascii_lowercase())
        })
        .collect()
}

fn within_zone(labels: &[String], catalogue: &dyn Names) -> Option<Target> {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [] => Some(Target::Apex),
        [port, protocol, of @ ..]
            if !of.is_empty() && port.starts_with('_') && protocol.starts_with('_') =>
        {
            ports(port, protocol, tasks(of, catalogue)?)
        }
        [node, "node"] => catalogue.node(node).map(Target::Node),
        labels => tasks(labels, catalogue)
            .map(Target::Tasks)
            .or_else(|| match labels {
                ["ns"] => Some(Target::NameServer),
                ["node"] => Some(Target::Empty),
                [protocol, of @ ..] if !of.is_empty() && protocol.starts_with('_') => {
                    tasks(of, catalogue).map(|_| Target::Empty)
                }
                _ => None,
            }),
    }
}

/// The tasks that a name means: a service's, or the one of a task's name, or the one in a service's slot.
fn tasks(labels: &[&str], catalogue: &dyn Names) -> Option<Vec<Endpoint>> {
    let name = labels.join(".");
    if let Some(tasks) = catalogue.service(&name) {
        return Some(tasks);
    }
    if let Some(task) = catalogue.task(&name) {
        return Some(vec![task]);
    }
    // A service may itself have dots in its name: the slot is the first label.
    let (slot, service) = name.split_once('.')?;
    let found: Vec<Endpoint> = catalogue
        .service(service)?
        .into_iter()
        .filter(|task| {
            task.slot().eq_ignore_ascii_case(slot) || task.task_id.eq_ignore_ascii_case(slot)
        })
        .collect();
    (!found.is_empty()).then_some(found)
}

fn ports(port: &str, protocol: &str, tasks: Vec<Endpoint>) -> Option<Target> {
    let (port, protocol) = (&port[1..], &protocol[1..]);
    let number: Option<u16> = port.parse().ok();
    let dead = tasks.is_empty();
    let meant = |p: &&Port| {
        p.protocol.name().eq_ignore_ascii_case(protocol)
            && (p.name.eq_ignore_ascii_case(port) || number == Some(p.port))
    };
    let found: Vec<(Endpoint, Port)> = tasks
        .into_iter()
        .flat_map(|task| {
            let ports: Vec<Port> = task.ports.iter().filter(meant).cloned().collect();
            ports.into_iter().map(move |port| (task.clone(), port))
        })
        .collect();
    // Which ports a service without live tasks would have is not known here: the name may well exist.
    (dead || !found.is_empty()).then_some(Target::Ports(found))
}

/// Bare names of services and tasks, and the names of addresses that are ours.
fn outside_zone(zone: &Zone, name: &Name, catalogue: &dyn Names) -> Option<Target> {
    if let Ok(net) = name.parse_arpa_name() {
        let ip = net.addr();
        let whole = net.prefix_len() == if ip.is_ipv4() { 32 } else { 128 };
        return if whole {
            pointer(zone, ip, catalogue).map(Target::Pointer)
        } else {
            None
        };
    }
    let labels = labels(name)?;
    match labels.as_slice() {
        [bare] => tasks(&[bare.as_str()], catalogue).map(Target::Tasks),
        // `web.1`: no top-level domain is a number (RFC 3696 2), so nothing of the world is hidden.
        [.., last] if last.bytes().all(|b| b.is_ascii_digit()) => catalogue
            .task(&labels.join("."))
            .map(|task| Target::Tasks(vec![task])),
        _ => None,
    }
}

fn pointer(zone: &Zone, ip: IpAddr, catalogue: &dyn Names) -> Option<Name> {
    if let Some(task) = catalogue.task_at(ip) {
        return task_name(zone, &task);
    }
    let node = catalogue.node_at(ip)?;
    name_below(zone, &format!("{}.node", node.name))
}

/// The name of one task: `1.web.swarm.`, or `name.swarm.` for one on its own.
fn task_name(zone: &Zone, task: &Endpoint) -> Option<Name> {
    match &task.service {
        Some(service) => name_below(zone, &format!("{}.{service}", task.slot())),
        None => name_below(zone, &task.task),
    }
}

fn name_below(zone: &Zone, relative: &str) -> Option<Name> {
    Name::from_labels(relative.split('.').map(str::as_bytes))
        .ok()?
        .append_domain(&zone.origin)
        .ok()
        .map(|name| name.to_lowercase())
}

fn fill(
    zone: &Zone,
    reply: &mut Message,
    question: &Query,
    target: &Target,
    catalogue: &dyn Names,
    view: &Viewpoint,
    rotation: u64,
) {
    let owner = question.name().clone();
    let wants = |kind| question.query_type() == kind || question.query_type() == RecordType::ANY;
    let network = view.network.as_deref();
    match target {
        Target::Apex => {
            if wants(RecordType::SOA) {
                reply.add_answer(soa(zone, catalogue));
            }
            if wants(RecordType::NS)
                && let Some(ns) = name_below(zone, "ns")
            {
                reply.add_answer(Record::from_rdata(
                    owner,
                    zone.ttl,
                    RData::NS(NS(ns.clone())),
                ));
                reply.add_additionals(view.server.map(|ip| address(zone, &ns, ip)));
            }
        }
        Target::NameServer => addresses(zone, reply, question, view.server.into_iter(), 0),
        Target::Empty => {}
        Target::Node(node) => addresses(
            zone,
            reply,
            question,
            node.addresses.iter().copied(),
            rotation,
        ),
        Target::Pointer(name) => {
            if wants(RecordType::PTR) {
                reply.add_answer(Record::from_rdata(
                    owner,
                    zone.ttl,
                    RData::PTR(PTR(name.clone())),
                ));
            }
        }
        Target::Tasks(tasks) => {
            let ips = tasks.iter().flat_map(|task| task.visible(network));
            addresses(zone, reply, question, ips, rotation);
            if wants(RecordType::SRV) {
                let ports = tasks
                    .iter()
                    .flat_map(|task| task.ports.iter().map(move |port| (task, port)))
                    .collect();
                services(zone, reply, &owner, ports, network, rotation);
            }
        }
        Target::Ports(ports) => {
            if wants(RecordType::SRV) {
                let ports = ports.iter().map(|(task, port)| (task, port)).collect();
                services(zone, reply, &owner, ports, network, rotation);
            }
        }
    }
}

/// Adds the A or AAAA records that were asked for, each address once, in turning order.
fn addresses(
    zone: &Zone,
    reply: &mut Message,
    question: &Query,
    ips: impl Iterator<Item = IpAddr>,
    rotation: u64,
) {
    let (v4, v6) = match question.query_type() {
        RecordType::A => (true, false),
        RecordType::AAAA => (false, true),
        RecordType::ANY => (true, true),
        _ => return,
    };
    let mut seen = HashSet::new();
    let mut found: Vec<IpAddr> = ips
        .filter(|ip| if ip.is_ipv4() { v4 } else { v6 })
        .filter(|ip| seen.insert(*ip))
        .collect();
    turn(&mut found, rotation);
    reply.add_answers(
        found
            .into_iter()
            .take(MAX_ANSWERS)
            .map(|ip| address(zone, question.name(), ip)),
    );
}

/// Adds SRV records, with the addresses of their targets.
fn services(
    zone: &Zone,
    reply: &mut Message,
    owner: &Name,
    mut ports: Vec<(&Endpoint, &Port)>,
    network: Option<&str>,
    rotation: u64,
) {
    ports.retain(|(task, _)| task.visible(network).next().is_some());
    turn(&mut ports, rotation);
    let mut glued = HashSet::new();
    for (task, port) in ports.into_iter().take(MAX_ANSWERS) {
        let Some(target) = task_name(zone, task) else {
            continue;
        };
        if glued.insert(&task.task_id) {
            reply.add_additionals(task.visible(network).map(|ip| address(zone, &target, ip)));
        }
        let data = RData::SRV(SRV::new(0, 1, port.port, target));
        reply.add_answer(Record::from_rdata(owner.clone(), zone.ttl, data));
    }
}

fn turn<T>(list: &mut [T], rotation: u64) {
    if !list.is_empty() {
        let by = (rotation % list.len() as u64) as usize;
        list.rotate_left(by);
    }
}

fn address(zone: &Zone, owner: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(owner.clone(), zone.ttl, data)
}

fn soa(zone: &Zone, catalogue: &dyn Names) -> Record {
    let below = |label| name_below(zone, label).unwrap_or_else(|| zone.origin.clone());
    // The serial wraps, as serials do (RFC 1982).
    let serial = (catalogue.index() & u64::from(u32::MAX)) as u32;
    let data = SOA::new(
        below("ns"),
        below("hostmaster"),
        serial,
        60,
        10,
        3600,
        zone.ttl,
    );
    Record::from_rdata(zone.origin.clone(), zone.ttl, RData::SOA(data))
}
