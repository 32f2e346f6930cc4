//! DNS over real sockets: hickory's messages, and `dig` where it is installed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use swarm_discovery::catalogue::{
    Address, Catalogue, CatalogueCell, Contents, Endpoint, NodeEntry, Port, Protocol,
};
use swarm_discovery::dns::{DnsConfig, DnsServer, Viewpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn catalogue(tasks: u8) -> Catalogue {
    let endpoints = (1..=tasks)
        .map(|n| Endpoint {
            task_id: format!("id{n}"),
            task: format!("web.{n}"),
            service: Some("web".to_owned()),
            node: 1,
            node_name: "a".to_owned(),
            addresses: vec![Address {
                network: Some(if n == 1 { "front" } else { "back" }.to_owned()),
                ip: IpAddr::from([10, 0, 0, n]),
            }],
            ports: vec![Port {
                name: "http".to_owned(),
                port: 8080,
                protocol: Protocol::Tcp,
            }],
        })
        .collect();
    Catalogue::new(Contents {
        index: 1,
        services: vec!["web".to_owned()],
        nodes: vec![NodeEntry {
            node: 1,
            name: "a".to_owned(),
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        }],
        endpoints,
        ..Contents::default()
    })
}

async fn server(
    upstreams: Vec<SocketAddr>,
    tasks: u8,
) -> (DnsServer, SocketAddr, Arc<CatalogueCell>) {
    let cell = Arc::new(CatalogueCell::new(catalogue(tasks)));
    let config = DnsConfig {
        upstreams,
        ..DnsConfig::default()
    };
    let server = DnsServer::start(config, cell.clone()).unwrap();
    let (_, addr) = server
        .bind((Ipv4Addr::LOCALHOST, 0).into(), Viewpoint::host())
        .await
        .unwrap();
    (server, addr, cell)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_udp(server: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket
        .send_to(&query.to_vec().unwrap(), server)
        .await
        .unwrap();
    let mut buf = vec![0; 4096];
    let (len, from) = socket.recv_from(&mut buf).await.unwrap();
    assert_eq!(from, server);
    Message::from_vec(&buf[..len]).unwrap()
}

async fn ask_tcp(server: SocketAddr, query: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = query.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let len = stream.read_u16().await.unwrap();
    let mut reply = vec![0; len.into()];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

/// A resolver that says 203.0.113.7 to everything.
async fn upstream() -> SocketAddr {
    let reply = |bytes: &[u8]| {
        let query = Message::from_vec(bytes).unwrap();
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        let name = query.queries[0].name().clone();
        reply.add_queries(query.queries);
        reply.add_answer(Record::from_rdata(
            name,
            60,
            RData::A(A::new(203, 0, 113, 7)),
        ));
        reply.to_vec().unwrap()
    };
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(addr).await.unwrap();
    tokio::spawn(async move {
        let mut buf = vec![0; 4096];
        loop {
            let (len, from) = udp.recv_from(&mut buf).await.unwrap();
            udp.send_to(&reply(&buf[..len]), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; len.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let bytes = reply(&bytes);
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    addr
}

#[tokio::test]
async fn a_look_up_follows_the_catalogue() {
    let (server, addr, cell) = server(vec![], 1).await;
    let one = ask_udp(addr, &query("web.swarm.", RecordType::A)).await;
    assert_eq!((one.metadata.id, one.answers.len()), (4711, 1));
    cell.store(catalogue(3));
    let three = ask_udp(addr, &query("web.swarm.", RecordType::A)).await;
    assert_eq!(three.answers.len(), 3);
    assert_eq!(server.stats().answered, 2);
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_too_long_for_udp_comes_over_tcp() {
    let (server, addr, _) = server(vec![], 200).await;
    let mut query = query("web.swarm.", RecordType::A);
    let short = ask_udp(addr, &query).await;
    assert!(short.metadata.truncation);
    query.set_edns(Edns::new());
    assert!(ask_udp(addr, &query).await.edns.is_some());
    let whole = ask_tcp(addr, &query).await;
    assert_eq!(
        (whole.metadata.truncation, whole.answers.len()),
        (false, 200)
    );
    server.shutdown().await;
}

#[tokio::test]
async fn other_names_go_upstream_and_without_one_are_refused() {
    let resolver = upstream().await;
    let (server, addr, _) = server(vec![resolver], 1).await;
    let query = query("example.com.", RecordType::A);
    for reply in [ask_udp(addr, &query).await, ask_tcp(addr, &query).await] {
        assert_eq!(reply.metadata.id, 4711);
        assert_eq!(reply.answers[0].data, RData::A(A::new(203, 0, 113, 7)));
    }
    // Ourselves as our resolver would be a circle.
    server.set_upstreams(vec![addr]);
    assert_eq!(
        ask_udp(addr, &query).await.metadata.response_code,
        ResponseCode::Refused
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_dead_resolver_is_passed_over() {
    let dead = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let resolver = upstream().await;
    let (server, addr, _) = server(vec![dead, resolver], 1).await;
    let query = query("example.com.", RecordType::A);
    assert_eq!(ask_udp(addr, &query).await.answers.len(), 1);
    server.set_upstreams(vec![dead]);
    assert_eq!(
        ask_udp(addr, &query).await.metadata.response_code,
        ResponseCode::ServFail
    );
    assert_eq!(server.stats().forward_failures, 1);
    server.shutdown().await;
}

#[tokio::test]
async fn listeners_come_and_go_with_their_own_viewpoints() {
    let (server, host, _) = server(vec![], 3).await;
    let (id, front) = server
        .bind((Ipv4Addr::LOCALHOST, 0).into(), Viewpoint::network("front"))
        .await
        .unwrap();
    let query = query("web.", RecordType::A);
    assert_eq!(ask_udp(host, &query).await.answers.len(), 3);
    assert_eq!(ask_udp(front, &query).await.answers.len(), 1);
    assert_eq!(server.addresses().len(), 2);
    // A connection that is open and silent must not hold the removal up.
    let _idle = TcpStream::connect(front).await.unwrap();
    assert!(server.remove(id).await);
    assert!(!server.remove(id).await);
    drop(UdpSocket::bind(front).await.unwrap());
    assert_eq!(ask_udp(host, &query).await.answers.len(), 3);
    server.shutdown().await;
    drop(UdpSocket::bind(host).await.unwrap());
}

#[tokio::test]
async fn garbage_gets_formerr_or_silence() {
    let (server, addr, _) = server(vec![], 1).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(addr).await.unwrap();
    socket.send(&[1, 2, 3]).await.unwrap();
    let mut broken = query("web.swarm.", RecordType::A).to_vec().unwrap();
    broken.truncate(18);
    socket.send(&broken).await.unwrap();
    let mut buf = [0; 512];
    let len = socket.recv(&mut buf).await.unwrap();
    let reply = Message::from_vec(&buf[..len]).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(server.stats().malformed, 2);
    server.shutdown().await;
}

async fn dig(addr: SocketAddr, args: &[&str]) -> String {
    let output = tokio::process::Command::new("dig")
        .arg(format!("@{}", addr.ip()))
        .args(["-p", &addr.port().to_string(), "+time=5", "+tries=1"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| {
            panic!("cannot run dig: {error}; install it with apt-get install bind9-dnsutils")
        });
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn dig_is_content() {
    let (server, addr, cell) = server(vec![], 3).await;
    let mut found: Vec<String> = dig(addr, &["+short", "web.swarm"])
        .await
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    assert_eq!(found, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(dig(addr, &["+short", "2.WEB.swarm"]).await, "10.0.0.2\n");
    assert_eq!(dig(addr, &["+short", "a.node.swarm"]).await, "192.0.2.1\n");
    assert_eq!(
        dig(addr, &["+short", "-x", "10.0.0.3"]).await,
        "3.web.swarm.\n"
    );
    let srv = dig(addr, &["+short", "+tcp", "_http._tcp.web.swarm", "SRV"]).await;
    assert_eq!(srv.lines().count(), 3);
    assert!(srv.contains("0 1 8080 2.web.swarm."), "{srv}");
    let none = dig(addr, &["nobody.swarm"]).await;
    assert!(
        none.contains("status: NXDOMAIN") && none.contains("SOA"),
        "{none}"
    );
    let full = dig(addr, &["web.swarm"]).await;
    assert!(
        full.contains("status: NOERROR") && full.contains("flags: qr aa rd ra"),
        "{full}"
    );
    assert!(
        !full.contains(";; WARNING") && !full.contains("Warning"),
        "{full}"
    );
    assert!(
        dig(addr, &["example.com"])
            .await
            .contains("status: REFUSED")
    );
    cell.store(catalogue(200));
    let many = dig(addr, &["+short", "web.swarm"]).await;
    assert_eq!(
        many.lines().filter(|line| line.starts_with("10.")).count(),
        200
    );
    server.shutdown().await;
}
