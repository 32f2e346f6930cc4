//! Three nodes gossip over UDP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use swarm_discovery::membership::{
    KeyRing, Member, MemberEvent, MemberState, Membership, MembershipConfig,
};
use tokio::net::UdpSocket;

async fn node(id: u64, seeds: Vec<SocketAddr>, key: u8) -> (Membership, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = socket.local_addr().unwrap();
    let mut config = MembershipConfig::new(id, addr, seeds, KeyRing::single(1, [key; 32]));
    config.soft_state = Bytes::from(format!("node {id}"));
    (Membership::start(config, socket).unwrap(), addr)
}

async fn until(membership: &Membership, done: impl Fn(&[Member]) -> bool) -> Arc<Vec<Member>> {
    let mut watch = membership.watch();
    watch
        .wait_for(|members| done(members))
        .await
        .unwrap()
        .clone()
}

fn state(members: &[Member], node: u64) -> Option<MemberState> {
    members.iter().find(|m| m.node == node).map(|m| m.state)
}

#[tokio::test]
async fn nodes_find_each_other_and_tell_a_good_bye_from_a_death() {
    let (a, addr) = node(1, vec![], 5).await;
    let (b, _) = node(2, vec![addr], 5).await;
    let (c, _) = node(3, vec![addr], 5).await;
    for membership in [&a, &b, &c] {
        let members = until(membership, |m| {
            m.len() == 3
                && m.iter().all(|m| {
                    m.state == MemberState::Alive && m.soft_state == format!("node {}", m.node)
                })
        })
        .await;
        assert_eq!(members.len(), 3);
    }

    let mut events = a.subscribe();
    b.set_soft_state(Bytes::from_static(b"busy")).unwrap();
    loop {
        if let MemberEvent::SoftState(m) = events.recv().await.unwrap()
            && m.soft_state == "busy"
        {
            assert_eq!(m.node, 2);
            break;
        }
    }

    c.leave().await;
    until(&a, |m| state(m, 3) == Some(MemberState::Left)).await;
    until(&b, |m| state(m, 3) == Some(MemberState::Left)).await;

    b.shutdown().await;
    assert!(b.join(vec![addr]).is_err());
    let mut events = a.subscribe();
    loop {
        if let MemberEvent::Down(m) = events.recv().await.unwrap() {
            assert_eq!(m.node, 2);
            break;
        }
    }
    assert_eq!(state(&a.members(), 2), Some(MemberState::Down));
    a.shutdown().await;
}

#[tokio::test]
async fn garbage_and_strangers_do_not_stop_the_loop() {
    let (a, addr) = node(1, vec![], 5).await;
    let (stranger, _) = node(9, vec![addr], 6).await;
    let noise = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for len in [0usize, 1, 60, 1400, 4000] {
        noise.send_to(&vec![1; len], addr).await.unwrap();
    }
    let (b, _) = node(2, vec![addr], 5).await;
    until(&a, |m| state(m, 2) == Some(MemberState::Alive)).await;
    let stats = a.stats();
    assert!(stats.malformed >= 1 && stats.bad_seal >= 1, "{stats:?}");
    assert_eq!(state(&a.members(), 9), None);
    assert_eq!(stranger.members().len(), 1);
    a.shutdown().await;
    b.shutdown().await;
    stranger.shutdown().await;
}
