//! Containers reach each other and the outside, and nothing else does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use swarm_network::{Error, Mac, NetworkSpec};

use crate::world::{Ns, PATIENCE, REFUSAL, VNI, World, attach, inside, inside6};

#[tokio::test]
async fn containers_reach_each_other_across_hosts_and_on_one() {
    let world = World::of(3, 2).await;
    for number in 1..=3 {
        let host = &world.hosts[usize::from(number) - 1];
        host.container(inside(number, 10))
            .serve((inside(number, 10), 80), "ten");
        host.container(inside(number, 10))
            .serve((inside6(number, 10), 80), "ten6");
    }
    for (host, from) in world.hosts.iter().zip(1..) {
        for to in 1..=3 {
            let container = host.container(inside(from, 11));
            assert_eq!(
                container.ask((inside(to, 10), 80)),
                ("ten".into(), inside(from, 11).into())
            );
            assert_eq!(
                container.ask((inside6(to, 10), 80)),
                ("ten6".into(), inside6(from, 11).into())
            );
            // The host itself reaches every container, from its own gateway address.
            assert_eq!(
                host.ns.ask((inside(to, 10), 80)),
                ("ten".into(), inside(from, 1).into())
            );
        }
    }
}

#[tokio::test]
async fn much_data_crosses_the_tunnel_whole() {
    let world = World::of(2, 1).await;
    let to = (inside(2, 10), 80);
    let listener = world.hosts[1]
        .container(inside(2, 10))
        .run(|| TcpListener::bind(to).unwrap());
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let copy = sent.clone();
    let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(&copy).unwrap());
    let received = world.hosts[0].container(inside(1, 10)).run(|| {
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    server.join().unwrap();
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
}

fn arp_requests_seen(ns: &Ns) -> u64 {
    let list = ns.nft("list counter arp watch requests");
    let mut words = list
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn arp_never_crosses_the_tunnel() {
    let world = World::of(2, 1).await;
    let (here, there) = (
        world.hosts[0].container(inside(1, 10)),
        world.hosts[1].container(inside(2, 10)),
    );
    // Its own requests come back to it, by hairpin.
    there.nft(
        "table arp watch { counter requests {}\n chain in { type filter hook input priority 0\n arp operation request arp saddr ip != 10.97.2.10 counter name requests\n }\n }",
    );
    there.serve((inside(2, 10), 80), "there");
    here.ask((inside(2, 10), 80));
    assert_eq!(arp_requests_seen(there), 0);
    // Nobody has this address: the request is flooded here, and only here.
    here.sysctl("ipv4/neigh/eth0/retrans_time_ms", "20");
    assert!(here.ask_within((inside(2, 99), 80), PATIENCE).is_err());
    assert_eq!(arp_requests_seen(there), 0);
    // On its own host it is asked as usual.
    world.hosts[1].ns.ask((inside(2, 10), 80));
    assert_eq!(arp_requests_seen(there), 1);
}

#[tokio::test]
async fn containers_reach_the_outside_as_their_host_and_the_outside_does_not_reach_them() {
    let world = World::of(1, 1).await;
    let (host, client) = (&world.hosts[0], &world.client);
    let container = host.container(inside(1, 10));
    let outside = Ipv4Addr::new(192, 0, 2, 100);
    client.serve((outside, 80), "outside");
    assert_eq!(
        container.ask((outside, 80)),
        ("outside".into(), host.addr.into())
    );
    container.serve((inside(1, 10), 80), "container");
    client.ip("route add 10.97.0.0/16 via 192.0.2.1");
    assert!(client.ask_within((inside(1, 10), 80), REFUSAL).is_err());
    host.ns.nft("flush chain inet swarm forward");
    client.ask((inside(1, 10), 80));
}

#[tokio::test]
async fn networks_are_islands() {
    let mut world = World::of(1, 1).await;
    let host = &mut world.hosts[0];
    let (vni, gateway) = (7, Ipv4Addr::new(10, 98, 0, 1));
    let subnet = "10.98.0.0/24".parse().unwrap();
    host.desired.networks.push(NetworkSpec {
        name: "db".into(),
        vni,
        subnet,
        gateway,
        v6: None,
        mtu: 1450,
    });
    host.reconcile().await;
    let db = Ns::new();
    let addr = Ipv4Addr::new(10, 98, 0, 2);
    let mut request = attach(&db, 1, 11);
    (request.vni, request.addr, request.mac) =
        (vni, "10.98.0.2/24".parse().unwrap(), Mac::for_address(addr));
    (request.gateway, request.addr6, request.gateway6) = (Some(gateway), None, None);
    host.network.attach(request).await.unwrap();
    db.serve((addr, 80), "db");
    host.ns.ask((addr, 80));
    assert!(
        host.container(inside(1, 10))
            .ask_within((addr, 80), REFUSAL)
            .is_err()
    );
}

#[tokio::test]
async fn loopback_of_the_host_stays_out_of_reach_of_containers() {
    let world = World::of(1, 1).await;
    let host = &world.hosts[0];
    let container = host.container(inside(1, 10));
    host.ns.serve((Ipv4Addr::LOCALHOST, 80), "secret");
    // A privileged container sends 127.0.0.1 over its eth0.
    container.ip("addr del 127.0.0.1/8 dev lo");
    container.ip("route add 127.0.0.1 via 10.97.1.1 src 10.97.1.10");
    container.sysctl("ipv4/conf/all/route_localnet", "1");
    assert!(
        container
            .ask_within((Ipv4Addr::LOCALHOST, 80), REFUSAL)
            .is_err()
    );
    host.ns.nft("flush chain inet swarm guard");
    assert_eq!(container.ask((Ipv4Addr::LOCALHOST, 80)).0, "secret");
}

#[tokio::test]
async fn a_container_cannot_take_over_the_address_of_another_node() {
    let world = World::of(2, 2).await;
    let host = &world.hosts[0];
    world.hosts[1]
        .container(inside(2, 10))
        .serve((inside(2, 10), 80), "real");
    let thief = host.container(inside(1, 11));
    thief.ip("link set eth0 address 02:42:0a:61:02:0a");
    thief.ip("addr add 10.97.2.10/16 dev eth0");
    thief.serve((inside(2, 10), 80), "thief");
    // The thief speaks with the stolen MAC; the bridge must not follow.
    assert!(thief.ask_within((inside(1, 1), 9), REFUSAL).is_err());
    assert_eq!(
        host.container(inside(1, 10)).ask((inside(2, 10), 80)).0,
        "real"
    );
    assert_eq!(host.ns.ask((inside(2, 10), 80)).0, "real");
}

#[tokio::test]
async fn attach_needs_its_bridge_and_leaves_nothing_when_it_fails() {
    let world = World::bare(1);
    let host = &world.hosts[0];
    let ns = Ns::new();
    let error = host.network.attach(attach(&ns, 1, 10)).await.unwrap_err();
    assert!(matches!(error, Error::NoBridge { .. }), "{error}");
    let mut world = World::of(1, 0).await;
    let host = &mut world.hosts[0];
    let mut request = attach(&ns, 1, 10);
    request.gateway = Some(Ipv4Addr::new(172, 16, 0, 1));
    let error = host.network.attach(request).await.unwrap_err().to_string();
    assert!(error.contains("default route by 172.16.0.1"), "{error}");
    assert!(host.network.observe().await.unwrap().veths.is_empty());
    let mut request = attach(&ns, 1, 10);
    request.host_ifname = "eth7".into();
    assert!(matches!(
        host.network.attach(request).await.unwrap_err(),
        Error::Invalid { .. }
    ));
    // Again and again: what was left is replaced, what is gone is no error.
    host.network.attach(attach(&ns, 1, 10)).await.unwrap();
    host.network.attach(attach(&ns, 1, 10)).await.unwrap();
    let name = attach(&ns, 1, 10).host_ifname;
    host.network.detach(&name).await.unwrap();
    host.network.detach(&name).await.unwrap();
    assert_eq!(
        host.ns.bridge(&format!(
            "fdb show br {} dynamic",
            swarm_network::bridge_name(VNI)
        )),
        ""
    );
}
