#![no_main]
//! A query to the DNS server, from its bytes to those of the answer: it fits, and answers what was asked.

use hickory_proto::op::{Message, MessageType};
use std::{net::IpAddr, sync::LazyLock};
use swarm_discovery::{
    catalogue::{Address, Catalogue, Contents, Endpoint, NodeEntry, Port, Protocol},
    dns::{Answer, Viewpoint, Zone, answer, encode, udp_limit},
};

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let endpoint = |n: u8| Endpoint {
        task_id: format!("id{n}"),
        task: format!("web.{n}"),
        service: Some("web".to_owned()),
        node: 1,
        node_name: "a".to_owned(),
        addresses: vec![
            Address {
                network: Some("front".to_owned()),
                ip: IpAddr::from([10, 0, 0, n]),
            },
            Address {
                network: Some("front".to_owned()),
                ip: IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)]),
            },
        ],
        ports: vec![Port {
            name: "http".to_owned(),
            port: 8080,
            protocol: Protocol::Tcp,
        }],
    };
    Catalogue::new(Contents {
        index: 42,
        stale: true,
        services: vec!["web".to_owned(), "idle".to_owned()],
        networks: vec!["front".to_owned()],
        nodes: vec![NodeEntry {
            node: 1,
            name: "a".to_owned(),
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        }],
        // Enough for an answer that a datagram does not hold.
        endpoints: (1..80).map(endpoint).collect(),
    })
});
static ZONE: LazyLock<Zone> = LazyLock::new(|| Zone::new("swarm", 1).expect("a zone"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(query) = Message::from_vec(data) else {
        return;
    };
    for view in [Viewpoint::host(), Viewpoint::network("front")] {
        let reply = match answer(&ZONE, &query, &CATALOGUE, &view, 3) {
            Answer::Reply(reply) => *reply,
            Answer::Forward => continue,
            Answer::Ignore => {
                assert_ne!(query.metadata.message_type, MessageType::Query);
                continue;
            }
        };
        for limit in [512, udp_limit(&query), 65_535] {
            let bytes = encode(reply.clone(), limit);
            assert!(bytes.len() <= limit, "{} of {limit} bytes", bytes.len());
            // A client must be able to read it, and to tell that it is meant.
            let read = Message::from_vec(&bytes).expect("an answer that can be read");
            assert_eq!(read.metadata.id, query.metadata.id);
            assert_eq!(read.metadata.message_type, MessageType::Response);
        }
    }
});
