//! The kernel is kept as desired, and left clean.

use swarm_network::{Change, HostNetwork, KernelState, Protocol, PublishedPort, bridge_name, plan};

use crate::world::{VNI, World, inside};

async fn published_world() -> World {
    let mut world = World::of(2, 1).await;
    world.hosts[1]
        .container(inside(2, 10))
        .serve((inside(2, 10), 8080), "task");
    for host in &mut world.hosts {
        let backends = vec![(inside(2, 10), 8080).into(), (inside(1, 10), 8080).into()];
        host.desired.ports = vec![PublishedPort {
            protocol: Protocol::Tcp,
            port: 80,
            backends,
        }];
        host.reconcile().await;
    }
    world.hosts[0]
        .container(inside(1, 10))
        .serve((inside(1, 10), 8080), "task");
    world
}

#[tokio::test]
async fn the_second_reconciliation_changes_nothing() {
    let world = published_world().await;
    for host in &world.hosts {
        let report = host.reconcile().await;
        assert_eq!(report.made, vec![]);
        assert!(report.is_clean(), "{report:?}");
        // Also one that knows nothing of the first, as after a restart.
        let fresh = host.ns.run(|| swarm_network::Network::new().unwrap());
        assert_eq!(
            fresh.reconcile(host.desired.clone()).await.unwrap().made,
            vec![]
        );
    }
}

#[tokio::test]
async fn whatever_is_broken_is_repaired() {
    let world = published_world().await;
    let host = &world.hosts[0];
    let before = host.network.observe().await.unwrap();
    let (bridge, veth) = (
        bridge_name(VNI),
        host.desired.attachments[0].host_ifname.clone(),
    );
    let broken = [
        format!("ip link del {bridge}"),
        format!("ip link set {bridge} down"),
        format!("ip link set {bridge} mtu 1300"),
        format!("ip link set {bridge} address 02:00:00:00:00:01"),
        format!("ip addr del 10.97.1.1/16 dev {bridge}"),
        format!("ip addr add 10.99.1.1/16 dev {bridge}"),
        format!("ip neigh del 10.97.2.10 dev {bridge}"),
        format!("ip neigh replace 10.97.2.10 lladdr 02:00:00:00:00:01 nud permanent dev {bridge}"),
        format!("ip link del vx-{VNI}"),
        format!("ip link set vx-{VNI} down"),
        format!("ip link set vx-{VNI} nomaster"),
        format!("ip link set {veth} nomaster"),
        format!("bridge fdb del 02:42:0a:61:02:0a dev vx-{VNI} self"),
        format!("bridge fdb replace 02:42:0a:61:02:0a dst 192.0.2.77 dev vx-{VNI} self"),
        format!("bridge fdb add 02:42:0a:61:02:99 dst 192.0.2.77 dev vx-{VNI} self"),
        format!("bridge fdb del 02:42:0a:61:02:0a dev vx-{VNI} master"),
        format!("bridge fdb add 02:42:0a:61:02:99 dev vx-{VNI} master static"),
        format!("bridge fdb del 02:42:0a:61:01:0a dev {veth} master"),
        format!("bridge link set dev vx-{VNI} neigh_suppress off flood on"),
        format!("bridge link set dev {veth} learning on"),
        "nft flush table inet swarm".into(),
        "nft delete table inet swarm".into(),
        "nft flush chain inet swarm published".into(),
        "nft insert rule inet swarm forward drop".into(),
        "nft add chain inet swarm input { type filter hook input priority -10 ; policy drop ; }"
            .into(),
        "sysctl -w net.ipv4.ip_forward=0".into(),
        format!("sysctl -w net.ipv4.conf.{bridge}.route_localnet=0"),
    ];
    for command in broken {
        let words: Vec<&str> = command.split(' ').collect();
        host.ns.command(words[0], &words[1..]);
        let report = host.reconcile().await;
        assert!(!report.made.is_empty(), "{command} went unnoticed");
        assert_eq!(
            host.network.observe().await.unwrap(),
            before,
            "after {command}"
        );
        assert_eq!(plan(&host.desired, &before), vec![]);
        assert_eq!(
            host.container(inside(1, 10)).ask((inside(2, 10), 8080)).0,
            "task",
            "after {command}"
        );
        assert_eq!(
            world.client.ask((host.addr, 80)).0,
            "task",
            "after {command}"
        );
    }
}

#[tokio::test]
async fn a_lost_interface_of_a_container_is_reported() {
    let world = World::of(1, 1).await;
    let host = &world.hosts[0];
    let name = &host.desired.attachments[0].host_ifname;
    host.network.detach(name).await.unwrap();
    let report = host.reconcile().await;
    assert_eq!(
        (&report.missing, report.is_clean()),
        (&vec![name.clone()], false)
    );
}

#[tokio::test]
async fn a_node_that_changes_its_underlay_address_keeps_its_networks() {
    let mut world = World::of(2, 1).await;
    world.hosts[1]
        .container(inside(2, 10))
        .serve((inside(2, 10), 80), "task");
    // Deleted first: the kernel removes an interface's secondary addresses with the first one.
    world.hosts[0].ns.ip("addr del 192.0.2.1/24 dev eth0");
    world.hosts[0].ns.ip("addr add 192.0.2.50/24 dev eth0");
    world.hosts[0].desired.underlay = [192, 0, 2, 50].into();
    for endpoint in &mut world.hosts[1].desired.endpoints {
        endpoint.vtep = [192, 0, 2, 50].into();
    }
    for host in &world.hosts {
        host.reconcile().await;
    }
    assert_eq!(
        world.hosts[0]
            .container(inside(1, 10))
            .ask((inside(2, 10), 80))
            .0,
        "task"
    );
}

#[tokio::test]
async fn packets_from_what_is_no_node_do_not_enter_a_network() {
    let mut world = World::of(2, 1).await;
    world.hosts[1]
        .container(inside(2, 10))
        .serve((inside(2, 10), 80), "task");
    world.hosts[0]
        .container(inside(1, 10))
        .ask((inside(2, 10), 80));
    // Host 2 forgets that 192.0.2.1 is a node, but would still know the way back.
    let host = &mut world.hosts[1];
    let observed = host.network.observe().await.unwrap();
    host.desired
        .endpoints
        .retain(|endpoint| endpoint.vtep != std::net::IpAddr::from([192, 0, 2, 1]));
    let rules = plan(&host.desired, &observed)
        .into_iter()
        .filter(|c| matches!(c, Change::ReplaceTable(_)))
        .collect();
    assert!(host.network.apply(rules).await.unwrap().is_clean());
    let refused = world.hosts[0]
        .container(inside(1, 10))
        .ask_within((inside(2, 10), 80), crate::world::REFUSAL);
    assert!(refused.is_err());
}

#[tokio::test]
async fn leaving_all_networks_and_teardown_leave_nothing_of_ours_and_all_of_others() {
    for teardown in [false, true] {
        let world = published_world().await;
        let host = &world.hosts[0];
        host.ns.ip("link add sw-other type bridge");
        host.ns.ip("link add sw-5 type veth peer name vx-5");
        host.ns.nft("add table inet other");
        host.ns.nft("add table ip swarm");
        if teardown {
            host.network.teardown().await.unwrap();
            host.network.teardown().await.unwrap();
        } else {
            host.network
                .detach(&host.desired.attachments[0].host_ifname)
                .await
                .unwrap();
            host.network
                .reconcile(HostNetwork::empty(host.addr.into()))
                .await
                .unwrap();
        }
        let left = host.network.observe().await.unwrap();
        let switches = KernelState {
            forwarding4: true,
            forwarding6: true,
            ..KernelState::default()
        };
        assert_eq!(left, switches);
        let links = host.ns.ip("-o link show");
        let names: Vec<_> = links
            .lines()
            .map(|line| line.split([':', '@']).nth(1).unwrap().trim())
            .collect();
        assert_eq!(names, ["lo", "eth0", "sw-other", "vx-5", "sw-5"]);
        assert_eq!(
            host.ns.nft("list tables"),
            "table inet other\ntable ip swarm\n"
        );
    }
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_and_changes_nothing() {
    let mut world = World::of(1, 0).await;
    let host = &mut world.hosts[0];
    let before = host.network.observe().await.unwrap();
    let mut desired = host.desired.clone();
    desired.networks[0].gateway = [10, 1, 2, 3].into();
    let error = host.network.reconcile(desired).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot use network web: gateway 10.1.2.3 is outside 10.97.0.0/16"
    );
    assert_eq!(host.network.observe().await.unwrap(), before);
}

#[tokio::test]
async fn nft_reads_the_rules_as_they_are_meant() {
    let world = published_world().await;
    let list = world.hosts[0].ns.nft("list table inet swarm");
    let rules: String = list
        .lines()
        .map(|line| format!("{}\n", line.split(" comment").next().unwrap()))
        .collect();
    assert_eq!(rules, include_str!("table.nft"), "{rules}");
}
