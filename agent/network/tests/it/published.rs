//! Published ports: every node answers.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};

use swarm_network::{Protocol, PublishedPort};

use crate::world::{PATIENCE, World, inside, inside6};

fn publish(protocol: Protocol, port: u16, backends: &[(Ipv4Addr, u16)]) -> PublishedPort {
    PublishedPort {
        protocol,
        port,
        backends: backends.iter().map(|backend| (*backend).into()).collect(),
    }
}

#[tokio::test]
async fn every_node_answers_for_a_published_port_also_where_no_task_of_it_runs() {
    let mut world = World::of(2, 1).await;
    world.hosts[1]
        .container(inside(2, 10))
        .serve((inside(2, 10), 8080), "task");
    for host in &mut world.hosts {
        host.desired.ports = vec![publish(Protocol::Tcp, 80, &[(inside(2, 10), 8080)])];
        host.reconcile().await;
    }
    for (host, number) in world.hosts.iter().zip(1..) {
        // The answer comes back through the node that was asked.
        let through = inside(number, 1).into();
        assert_eq!(world.client.ask((host.addr, 80)), ("task".into(), through));
        for local in [Ipv4Addr::LOCALHOST, host.addr, inside(number, 1)] {
            assert_eq!(
                host.ns.ask((local, 80)),
                ("task".into(), through),
                "{local} of host {number}"
            );
        }
        // A container asks its own host; on host 2 that leads to itself.
        let container = host.container(inside(number, 10));
        assert_eq!(container.ask((inside(number, 1), 80)).0, "task");
        assert_eq!(container.ask((host.addr, 80)).0, "task");
    }
}

#[tokio::test]
async fn connections_are_spread_over_all_backends() {
    let mut world = World::of(2, 2).await;
    let names = ["a", "b", "c"];
    let addrs = [inside(1, 10), inside(2, 10), inside(2, 11)];
    for (name, addr) in names.into_iter().zip(addrs) {
        world
            .hosts
            .iter()
            .find_map(|host| host.containers.get(&addr))
            .unwrap()
            .serve((addr, 8080), name);
    }
    let host = &mut world.hosts[0];
    host.desired.ports = vec![publish(Protocol::Tcp, 80, &addrs.map(|addr| (addr, 8080)))];
    host.reconcile().await;
    // 100 connections miss one of three backends once in 10^17.
    let seen: BTreeSet<String> = (0..100)
        .map(|_| world.client.ask((host.addr, 80)).0)
        .collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), names);
}

#[tokio::test]
async fn udp_is_published_too() {
    let mut world = World::of(2, 1).await;
    world.hosts[1]
        .container(inside(2, 10))
        .serve_udp((inside(2, 10), 5353), "datagram");
    let host = &mut world.hosts[0];
    host.desired.ports = vec![publish(Protocol::Udp, 53, &[(inside(2, 10), 5353)])];
    host.reconcile().await;
    for (ns, to) in [(&world.client, host.addr), (&host.ns, Ipv4Addr::LOCALHOST)] {
        let answer = ns.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"?", (to, 53)).unwrap();
            let mut buffer = [0; 100];
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, (to, 53).into());
            buffer[..len].to_vec()
        });
        assert_eq!(answer, b"datagram");
    }
}

#[tokio::test]
async fn clients_over_ipv6_get_ipv6_backends() {
    let mut world = World::of(2, 1).await;
    world.hosts[1]
        .container(inside(2, 10))
        .serve((inside6(2, 10), 8080), "six");
    let host = &mut world.hosts[0];
    let backends = vec![(inside6(2, 10), 8080).into()];
    host.desired.ports = vec![PublishedPort {
        protocol: Protocol::Tcp,
        port: 80,
        backends,
    }];
    host.reconcile().await;
    host.ns.command(
        "ip",
        &["addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad"],
    );
    world.client.command(
        "ip",
        &["addr", "add", "2001:db8::100/64", "dev", "eth0", "nodad"],
    );
    let to: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    assert_eq!(
        world.client.ask((to, 80)),
        ("six".into(), inside6(1, 1).into())
    );
    assert_eq!(host.ns.ask((to, 80)).0, "six");
}

#[tokio::test]
async fn a_port_without_backends_is_the_hosts_own() {
    let mut world = World::of(1, 0).await;
    let host = &mut world.hosts[0];
    host.desired.ports = vec![publish(Protocol::Tcp, 80, &[])];
    host.reconcile().await;
    host.ns.serve((host.addr, 80), "host");
    assert_eq!(world.client.ask((host.addr, 80)).0, "host");
}

#[tokio::test]
async fn a_udp_client_that_keeps_its_port_follows_the_service_to_another_task() {
    let mut world = World::of(1, 2).await;
    let addrs = [inside(1, 10), inside(1, 11)];
    for (addr, name) in addrs.into_iter().zip(["first", "second"]) {
        world.hosts[0].container(addr).serve_udp((addr, 5353), name);
    }
    let to = (world.hosts[0].addr, 53);
    let socket = world.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    let ask = || {
        let mut buffer = [0; 100];
        socket
            .send(b"?")
            .and_then(|_| socket.recv(&mut buffer))
            .map(|len| buffer[..len].to_vec())
    };
    // Nothing is published yet: the host refuses.
    assert!(ask().is_err());
    for (addr, name) in addrs.into_iter().zip(["first", "second"]) {
        world.hosts[0].desired.ports = vec![publish(Protocol::Udp, 53, &[(addr, 5353)])];
        world.hosts[0].reconcile().await;
        assert_eq!(ask().unwrap(), name.as_bytes());
    }
}
