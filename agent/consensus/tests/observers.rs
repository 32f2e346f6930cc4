//! Nodes without a vote: they follow any node, survive cuts and restarts, and can be promoted.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use support::Cluster;
use swarm_consensus::{MemoryDisk, ObserveItem, Role, Status};

#[tokio::test(start_paused = true)]
async fn observers_follow_a_node_that_does_not_lead_and_each_other() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await.id;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.observe(6, &[follower]).await;
    cluster.observe(7, &[6]).await;
    cluster.propose("a").await;
    let index = cluster.propose("b").await;
    cluster.settle(index).await;
    let far = &cluster.node(7).replica;
    far.watch_leader()
        .wait_for(|l| *l == Some(leader))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(
        far.staleness().unwrap() < Duration::from_secs(4),
        "{:?}",
        far.staleness()
    );
}

#[tokio::test(start_paused = true)]
async fn an_observer_leaves_a_source_that_is_gone_or_stale_for_another() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await.id;
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.observe(6, &followers).await;
    let index = cluster.propose("a").await;
    cluster.settle(index).await;
    // The source is alive but hears no leader.
    for id in (1..=5).filter(|id| *id != followers[0]) {
        cluster.links.set_cut(followers[0], id, true);
    }
    let index = cluster.propose("b").await;
    cluster.node(6).replica.wait_for(index).await;
    // And now it is gone.
    cluster.links.set_alone(followers[0], false);
    cluster.kill(followers[1]).await;
    let index = cluster.propose("c").await;
    cluster.settle(index).await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_lags_beyond_the_recent_entries_gets_a_snapshot() {
    let mut cluster = Cluster::empty();
    cluster.ring_entries = 16;
    cluster.grow(1).await;
    let mut stream = cluster.node(1).replica.observe(0);
    assert!(matches!(
        stream.next().await,
        Some(ObserveItem::Heartbeat { .. })
    ));
    let mut last = 0;
    for i in 0..100 {
        last = cluster.propose(&format!("c{i}")).await;
    }
    // Nothing was buffered for the slow reader: it gets the state, then what follows.
    let mut snapshots = 0;
    loop {
        match stream.next().await.unwrap() {
            ObserveItem::Snapshot { index, .. } => {
                snapshots += 1;
                if index == last {
                    break;
                }
            }
            ObserveItem::Entry { index, .. } if index == last => break,
            _ => {}
        }
    }
    assert_eq!(snapshots, 1);
    cluster.observe(6, &[1]).await;
    cluster.settle(last).await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_restarts_while_cut_off_still_knows_what_it_knew() {
    let mut cluster = Cluster::of(1).await;
    cluster.observe(6, &[1]).await;
    let index = cluster.propose("known").await;
    cluster.settle(index).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let written = cluster.node(6).disk.syncs();
    assert_eq!(written.files, 1);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(cluster.node(6).disk.syncs(), written);
    let disk = cluster.kill(6).await;
    cluster.links.set_alone(6, true);
    cluster.observe_on(6, &[1], disk).await;
    assert_eq!(cluster.node(6).ledger.commands(), ["known"]);
    assert_eq!(cluster.node(6).replica.staleness(), None);
    cluster.links.set_alone(6, false);
    let index = cluster.propose("new").await;
    cluster.settle(index).await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_cache_is_done_without() {
    let mut cluster = Cluster::of(1).await;
    cluster.observe(6, &[1]).await;
    let index = cluster.propose("known").await;
    cluster.settle(index).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let disk = cluster.kill(6).await;
    assert!(disk.damage("observed.snap"));
    cluster.observe_on(6, &[1], disk).await;
    cluster.settle(index).await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_promoted_leads_and_is_demoted_without_a_gap() {
    let mut cluster = Cluster::of(1).await;
    cluster.start(2, MemoryDisk::new()).await.unwrap();
    cluster.observe(2, &[1]).await;
    cluster.observe(1, &[2]).await;
    for i in 0..20 {
        cluster.propose(&format!("observed {i}")).await;
    }
    let index = cluster.propose("last observed").await;
    cluster.settle(index).await;
    assert!(!cluster.node(2).replica.fed_by_raft());
    assert!(cluster.node(1).replica.fed_by_raft());

    let one = cluster.node(1).raft();
    one.change_voters([1, 2].into()).await.unwrap();
    let index = cluster.propose("as voters").await;
    cluster.settle(index).await;
    assert!(cluster.node(2).replica.fed_by_raft());

    one.hand_over().await.unwrap();
    let two = cluster.node(2).raft();
    cluster.node(2).until(Status::is_leader).await;
    two.change_voters([2].into()).await.unwrap();
    for i in 0..20 {
        let done = two
            .propose(support::text(format!("led {i}")))
            .await
            .unwrap();
        assert_eq!(
            done.outcome,
            format!("{}th", 23 + i),
            "the proposer's own outcome"
        );
    }
    let index = cluster.propose("end").await;
    cluster.settle(index).await;
    assert!(!cluster.node(1).replica.fed_by_raft());
    assert_eq!(cluster.node(1).ledger.commands().len(), 43);
    // It may vote again.
    two.change_voters([1, 2].into()).await.unwrap();
    cluster.node(1).until(|s| s.role == Role::Follower).await;
    let index = cluster.propose("again").await;
    cluster.settle(index).await;
}
