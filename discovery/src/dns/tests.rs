use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

use super::*;
use crate::catalogue::{Address, Catalogue, Contents, Endpoint, NodeEntry, Port, Protocol};

fn endpoint(service: Option<&str>, task: &str, host: u8, network: &str) -> Endpoint {
    Endpoint {
        task_id: format!("id{host}"),
        task: task.to_owned(),
        service: service.map(str::to_owned),
        node: 1,
        node_name: "a".to_owned(),
        addresses: vec![
            Address {
                network: Some(network.to_owned()),
                ip: IpAddr::from([10, 0, 0, host]),
            },
            Address {
                network: Some(network.to_owned()),
                ip: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into(),
            },
        ],
        ports: vec![
            Port {
                name: "http".to_owned(),
                port: 8080,
                protocol: Protocol::Tcp,
            },
            Port {
                name: "quic".to_owned(),
                port: 8080,
                protocol: Protocol::Udp,
            },
        ],
    }
}

fn contents() -> Contents {
    Contents {
        index: 42,
        stale: false,
        services: vec!["web".to_owned(), "idle".to_owned()],
        networks: vec!["front".to_owned(), "back".to_owned()],
        nodes: vec![NodeEntry {
            node: 1,
            name: "a".to_owned(),
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        }],
        endpoints: vec![
            endpoint(Some("web"), "web.1", 11, "front"),
            endpoint(Some("web"), "web.2", 12, "front"),
            endpoint(Some("web"), "web.3", 13, "back"),
            endpoint(None, "solo", 20, "front"),
        ],
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn zone() -> Zone {
    Zone::new("Swarm", 1).unwrap()
}

fn ask_in(
    catalogue: &Catalogue,
    name: &str,
    kind: RecordType,
    view: &Viewpoint,
    rotation: u64,
) -> Option<Message> {
    // Through the wire, as a client would see it.
    let query = Message::from_vec(&query(name, kind).to_vec().unwrap()).unwrap();
    match answer(&zone(), &query, catalogue, view, rotation) {
        Answer::Reply(reply) => Some(Message::from_vec(&encode(*reply, 65_535)).unwrap()),
        Answer::Forward => None,
        Answer::Ignore => panic!("ignored a query"),
    }
}

fn ask(name: &str, kind: RecordType) -> Option<Message> {
    ask_in(
        &Catalogue::new(contents()),
        name,
        kind,
        &Viewpoint::host(),
        0,
    )
}

fn ips(message: &Message) -> Vec<IpAddr> {
    message
        .answers
        .iter()
        .filter_map(|r| match &r.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        })
        .collect()
}

fn v4(hosts: &[u8]) -> Vec<IpAddr> {
    hosts.iter().map(|h| IpAddr::from([10, 0, 0, *h])).collect()
}

#[test]
fn a_service_resolves_to_its_live_tasks_by_full_and_bare_name_in_any_case() {
    for name in ["web.swarm.", "WEB.Swarm.", "web.", "wEb."] {
        let reply = ask(name, RecordType::A).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.metadata.authoritative);
        assert_eq!(ips(&reply), v4(&[11, 12, 13]), "{name}");
        assert!(reply.answers.iter().all(|r| r.ttl == 1));
        assert_eq!(reply.answers[0].name.to_ascii(), name);
        assert_eq!(ips(&ask(name, RecordType::AAAA).unwrap()).len(), 3);
    }
}

#[test]
fn the_order_turns() {
    let catalogue = Catalogue::new(contents());
    let firsts: Vec<IpAddr> = (0..3)
        .map(|n| {
            ips(&ask_in(
                &catalogue,
                "web.swarm.",
                RecordType::A,
                &Viewpoint::host(),
                n,
            )
            .unwrap())[0]
        })
        .collect();
    assert_eq!(firsts, v4(&[11, 12, 13]));
}

#[test]
fn a_container_sees_only_what_its_network_reaches() {
    let catalogue = Catalogue::new(contents());
    let front = Viewpoint::network("front");
    let see = |name: &str| ask_in(&catalogue, name, RecordType::A, &front, 0).unwrap();
    assert_eq!(ips(&see("web.")), v4(&[11, 12]));
    let hidden = see("3.web.swarm.");
    assert_eq!(
        (hidden.metadata.response_code, ips(&hidden).len()),
        (ResponseCode::NoError, 0)
    );
}

#[test]
fn one_task_resolves_by_slot_by_name_and_by_id() {
    for name in [
        "2.web.swarm.",
        "web.2.swarm.",
        "web.2.",
        "id12.web.swarm.",
        "id12.swarm.",
    ] {
        assert_eq!(ips(&ask(name, RecordType::A).unwrap()), v4(&[12]), "{name}");
    }
    assert_eq!(ips(&ask("solo.swarm.", RecordType::A).unwrap()), v4(&[20]));
    assert_eq!(ips(&ask("solo.", RecordType::A).unwrap()), v4(&[20]));
}

#[test]
fn a_node_resolves_below_node() {
    let reply = ask("A.node.swarm.", RecordType::A).unwrap();
    assert_eq!(ips(&reply), vec![IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(
        ask("b.node.swarm.", RecordType::A)
            .unwrap()
            .metadata
            .response_code,
        ResponseCode::NXDomain
    );
}

#[test]
fn ports_are_found_by_srv_with_the_addresses_of_their_targets() {
    let reply = ask("_http._tcp.web.swarm.", RecordType::SRV).unwrap();
    assert_eq!(reply.answers.len(), 3);
    let RData::SRV(srv) = &reply.answers[0].data else {
        panic!()
    };
    assert_eq!(
        (srv.port, srv.target.to_ascii().as_str()),
        (8080, "1.web.swarm.")
    );
    assert_eq!(reply.additionals.len(), 6);
    assert_eq!(
        ips(&ask(&srv.target.to_ascii(), RecordType::A).unwrap()),
        v4(&[11])
    );
    assert_eq!(
        ask("_8080._udp.web.swarm.", RecordType::SRV)
            .unwrap()
            .answers
            .len(),
        3
    );
    assert_eq!(ask("web.swarm.", RecordType::SRV).unwrap().answers.len(), 6);
    assert_eq!(
        ask("_http._tcp.1.web.swarm.", RecordType::SRV)
            .unwrap()
            .answers
            .len(),
        1
    );
    let none = ask("_smtp._tcp.web.swarm.", RecordType::SRV).unwrap();
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn addresses_resolve_back_to_names() {
    let name = |q: &str| match &ask(q, RecordType::PTR).unwrap().answers[0].data {
        RData::PTR(ptr) => ptr.to_ascii(),
        other => panic!("{other}"),
    };
    assert_eq!(name("11.0.0.10.in-addr.arpa."), "1.web.swarm.");
    assert_eq!(name("20.0.0.10.in-addr.arpa."), "solo.swarm.");
    assert_eq!(name("1.2.0.192.in-addr.arpa."), "a.node.swarm.");
    let v6: Name = Name::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 12));
    assert_eq!(name(&v6.to_ascii()), "2.web.swarm.");
    assert!(ask("9.9.9.9.in-addr.arpa.", RecordType::PTR).is_none());
    assert!(ask("0.10.in-addr.arpa.", RecordType::PTR).is_none());
}

#[test]
fn unknown_names_and_missing_types_are_told_apart_and_carry_the_soa() {
    for (name, kind, code) in [
        ("nobody.swarm.", RecordType::A, ResponseCode::NXDomain),
        ("9.web.swarm.", RecordType::A, ResponseCode::NXDomain),
        ("a.b.c.swarm.", RecordType::A, ResponseCode::NXDomain),
        ("web.swarm.", RecordType::MX, ResponseCode::NoError),
        ("idle.swarm.", RecordType::A, ResponseCode::NoError),
        ("idle.", RecordType::A, ResponseCode::NoError),
        ("node.swarm.", RecordType::A, ResponseCode::NoError),
        ("_tcp.web.swarm.", RecordType::SRV, ResponseCode::NoError),
        ("swarm.", RecordType::A, ResponseCode::NoError),
        ("a.node.swarm.", RecordType::AAAA, ResponseCode::NoError),
    ] {
        let reply = ask(name, kind).unwrap();
        assert_eq!(
            (reply.metadata.response_code, reply.answers.len()),
            (code, 0),
            "{name}"
        );
        let RData::SOA(soa) = &reply.authorities[0].data else {
            panic!("{name}")
        };
        assert_eq!((soa.serial, soa.minimum), (42, 1));
    }
}

#[test]
fn the_zone_names_itself_and_its_server() {
    assert!(matches!(
        ask("swarm.", RecordType::SOA).unwrap().answers[0].data,
        RData::SOA(_)
    ));
    let view = Viewpoint {
        network: None,
        server: Some(Ipv4Addr::LOCALHOST.into()),
    };
    let catalogue = Catalogue::new(contents());
    let reply = ask_in(&catalogue, "swarm.", RecordType::NS, &view, 0).unwrap();
    let RData::NS(ns) = &reply.answers[0].data else {
        panic!()
    };
    let server = ask_in(&catalogue, &ns.to_ascii(), RecordType::A, &view, 0).unwrap();
    assert_eq!(ips(&server), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
}

#[test]
fn all_other_names_are_forwarded() {
    for name in [
        "example.com.",
        "localhost.",
        "web.example.",
        "swarm.example.",
        ".",
        "notweb.",
        "webswarm.",
    ] {
        assert!(ask(name, RecordType::A).is_none(), "{name}");
    }
}

#[test]
fn odd_queries_get_the_code_that_the_rfcs_name() {
    let catalogue = Catalogue::new(contents());
    let code = |query: &Message| match answer(&zone(), query, &catalogue, &Viewpoint::host(), 0) {
        Answer::Reply(reply) => reply.metadata.response_code,
        other => panic!("{other:?}"),
    };
    let mut update = query("web.swarm.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = query("web.swarm.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    assert_eq!(
        code(&query("swarm.", RecordType::AXFR)),
        ResponseCode::Refused
    );
    let mut newer = query("web.swarm.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    assert_eq!(code(&newer), ResponseCode::BADVERS);
    let response = query("web.swarm.", RecordType::A).into_response();
    assert!(matches!(
        answer(&zone(), &response, &catalogue, &Viewpoint::host(), 0),
        Answer::Ignore
    ));
}

#[test]
fn a_stale_replica_says_so_to_who_speaks_edns() {
    let catalogue = Catalogue::new(Contents {
        stale: true,
        ..contents()
    });
    let mut query = query("web.swarm.", RecordType::A);
    query.set_edns(Edns::new());
    let Answer::Reply(reply) = answer(&zone(), &query, &catalogue, &Viewpoint::host(), 0) else {
        panic!()
    };
    let reply = Message::from_vec(&encode(*reply, 1232)).unwrap();
    assert!(reply.edns.unwrap().option(15u16.into()).is_some());
}

#[test]
fn the_upstreams_of_a_resolv_conf_are_found() {
    let text = "# nameserver 1.1.1.1\nsearch example.com\nnameserver 192.0.2.53\n nameserver  2001:db8::1 \nnameserver x\noptions edns0\n";
    let found: Vec<String> = parse_resolv_conf(text)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["192.0.2.53:53", "[2001:db8::1]:53"]);
}

#[test]
fn a_domain_that_is_none_is_refused() {
    assert!(Zone::new(".", 1).is_err());
    assert!(Zone::new("a..b", 1).is_err());
    assert!(Zone::new(&"x".repeat(64), 1).is_err());
}

proptest! {
    #[test]
    fn no_query_panics_and_every_reply_fits_its_limit(
        labels in prop::collection::vec(prop_oneof![Just(b"web".to_vec()), Just(b"_http".to_vec()), Just(b"_tcp".to_vec()), prop::collection::vec(any::<u8>(), 1..20)], 0..6),
        in_zone in any::<bool>(),
        kind in any::<u16>(),
        tasks in 0u16..600,
        edns in prop::option::of(0u16..5000),
        rotation in any::<u64>(),
    ) {
        let mut contents = contents();
        for n in 0..tasks {
            let mut e = endpoint(Some("web"), &format!("web.{}", n + 4), 0, "front");
            e.task_id = format!("many{n}");
            e.addresses[0].ip = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
            contents.endpoints.push(e);
        }
        let catalogue = Catalogue::new(contents);
        let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
        name.set_fqdn(true);
        if labels.is_empty() || in_zone {
            let below = if labels.is_empty() { "web.swarm." } else { "swarm." };
            name = name.append_domain(&Name::from_ascii(below).unwrap()).unwrap();
        }
        for kind in [RecordType::from(kind), RecordType::A, RecordType::SRV, RecordType::ANY] {
            let mut query = query("x.", kind);
            query.queries[0].set_name(name.clone());
            if let Some(size) = edns {
                let mut edns = Edns::new();
                edns.set_max_payload(size);
                query.set_edns(edns);
            }
            if let Answer::Reply(reply) = answer(&zone(), &query, &catalogue, &Viewpoint::host(), rotation) {
                let limit = udp_limit(&query);
                prop_assert!((512..=MAX_UDP).contains(&limit));
                let full = Message::from_vec(&encode((*reply).clone(), 65_535)).unwrap();
                prop_assert!(!full.metadata.truncation);
                prop_assert!(full.answers.len() <= 512);
                let bytes = encode(*reply, limit);
                prop_assert!(bytes.len() <= limit);
                let small = Message::from_vec(&bytes).unwrap();
                prop_assert_eq!(small.metadata.id, 7);
                prop_assert!(small.metadata.truncation || small.answers.len() == full.answers.len());
            }
        }
    }

    #[test]
    fn what_is_answered_was_put_in(rotation in any::<u64>(), taken in prop::collection::vec(any::<bool>(), 4)) {
        let mut contents = contents();
        let mut keep = taken.iter();
        contents.endpoints.retain(|_| *keep.next().unwrap());
        let expected: Vec<IpAddr> = contents.endpoints.iter()
            .filter(|e| e.service.is_some())
            .map(|e| e.addresses[0].ip)
            .collect();
        let catalogue = Catalogue::new(contents);
        let mut got = ips(&ask_in(&catalogue, "web.swarm.", RecordType::A, &Viewpoint::host(), rotation).unwrap());
        got.sort_unstable();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn the_question_of_any_bytes_is_found_or_not_but_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = super::wire::question(&bytes);
    }
}
