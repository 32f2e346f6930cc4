//! Voters under faults: leaders die, links are cut, disks lose power or run full.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use support::{Cluster, text};
use swarm_consensus::{Error, MemoryDisk, Role, Status};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_single_node_founds_a_cluster_once() {
    let mut cluster = Cluster::empty();
    cluster.start(1, MemoryDisk::new()).await.unwrap();
    let node = cluster.node(1).raft();
    assert!(!node.is_initialized());
    assert!(matches!(
        node.propose(text("x")).await,
        Err(Error::NotLeader { leader: None })
    ));
    node.initialize().await.unwrap();
    assert!(node.is_initialized());
    let done = node.propose(text("x")).await.unwrap();
    assert_eq!(done.outcome, "1th");
    let again = node.initialize().await.unwrap_err();
    assert!(
        matches!(&again, Error::AlreadyInitialized { node_id: 1, voters } if *voters == BTreeSet::from([1]))
    );
    assert_eq!(cluster.node(1).ledger.commands(), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_within_two_seconds_and_nothing_is_lost() {
    let mut cluster = Cluster::of(3).await;
    for i in 0..10 {
        cluster.propose(&format!("before {i}")).await;
    }
    let old = cluster.leader().await.id;
    let disk = cluster.kill(old).await;
    let killed = Instant::now();
    let index = cluster.propose("after").await;
    // The clock is the test's own: this is exact, not a measurement.
    assert!(
        killed.elapsed() <= Duration::from_secs(2),
        "{:?}",
        killed.elapsed()
    );
    cluster.start(old, disk).await.unwrap();
    cluster.settle(index).await;
    assert_eq!(cluster.node(old).ledger.commands().len(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::empty();
    cluster.snapshot_threshold = 40;
    cluster.grow(3).await;
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let leader = cluster.leader().await.raft().clone();
        let proposals = (0..30).map(|i| {
            let leader = leader.clone();
            async move {
                let command = format!("{round}.{i}");
                leader
                    .propose(text(command.clone()))
                    .await
                    .ok()
                    .map(|_| command)
            }
        });
        let all = join_all(proposals);
        // Cut the power in the middle of it in some rounds.
        let patience = Duration::from_millis([1000, 2, 3, 4, 1000][round]);
        let done = tokio::time::timeout(patience, all).await;
        acknowledged.extend(done.into_iter().flatten().flatten());
        for id in 1..=3 {
            cluster.restart(id).await;
        }
    }
    let index = cluster.propose("last").await;
    cluster.settle(index).await;
    let kept: BTreeSet<String> = cluster.node(1).ledger.commands().into_iter().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|c| !kept.contains(*c)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() >= 60);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_returns_without_deposing_the_leader() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let (before, other) = (
        leader.status(),
        (1..=3).find(|id| *id != leader.id).unwrap(),
    );
    cluster.links.set_alone(other, true);
    let term_there = cluster.node(other).status().term;
    let index = cluster.propose("meanwhile").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let alone = cluster.node(other).status();
    assert_eq!(alone.term, term_there, "it must not campaign");
    assert_eq!(alone.leader, None);
    assert!(!alone.has_quorum);
    cluster.links.set_alone(other, false);
    cluster.settle(index).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = leader.status();
    assert_eq!((after.term, after.leader), (before.term, before.leader));
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_only_the_leader_cannot_reach_deposes_nobody() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let other = (1..=3).find(|id| *id != leader.id).unwrap();
    let term = leader.status().term;
    cluster.links.set_cut(leader.id, other, true);
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.propose("still").await;
    assert_eq!(leader.status().term, term);
    assert!(leader.status().is_leader());
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_neither_commits_nor_reads_and_gives_way() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    cluster.links.set_alone(old.id, true);
    let lonely = tokio::join!(
        old.raft().propose(text("lonely")),
        old.raft().linearizable_read(),
    );
    assert!(matches!(
        lonely.0,
        Err(Error::Timeout { .. } | Error::Deposed { .. })
    ));
    assert!(lonely.1.is_err());
    assert!(!old.status().has_quorum);
    let index = cluster.propose("elsewhere").await;
    assert_ne!(cluster.leader().await.id, old.id);
    cluster.links.set_alone(old.id, false);
    cluster.settle(index).await;
    assert_eq!(old.ledger.commands(), ["elsewhere"]);
    old.until(|s| s.role == Role::Follower).await;
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_does_not_promise_that_what_it_had_in_hand_is_undone() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    cluster.links.set_alone(old.id, true);
    let raft = old.raft().clone();
    let lonely = tokio::spawn(async move { raft.propose(text("lonely")).await });
    let mut others = (1..=3).filter(|id| *id != old.id);
    let (one, two) = (others.next().unwrap(), others.next().unwrap());
    tokio::select! {
        _ = cluster.node(one).until(Status::is_leader) => {}
        _ = cluster.node(two).until(Status::is_leader) => {}
    }
    cluster.links.set_alone(old.id, false);
    let why = lonely.await.unwrap().unwrap_err();
    assert!(matches!(why, Error::Deposed { .. }), "{why:?}");
    // Who proposes to it from now on is told for sure.
    old.until(|s| s.role == Role::Follower).await;
    let why = old.raft().propose(text("late")).await.unwrap_err();
    assert!(matches!(why, Error::NotLeader { .. }), "{why:?}");
}

#[tokio::test(start_paused = true)]
async fn many_proposals_share_one_sync_and_an_idle_cluster_writes_nothing() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    cluster.propose("warm up").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before: Vec<u64> = (1..=3)
        .map(|id| cluster.node(id).disk.syncs().log)
        .collect();
    let proposals = (0..500).map(|i| leader.raft().propose(text(format!("c{i}"))));
    let done = join_all(proposals).await;
    let last = done.into_iter().map(|d| d.unwrap().index).max().unwrap();
    cluster.settle(last).await;
    for id in 1..=3 {
        let syncs = cluster.node(id).disk.syncs().log - before[id as usize - 1];
        assert!(
            syncs <= 12,
            "node {id} needed {syncs} syncs for 500 commands"
        );
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle: Vec<_> = (1..=3).map(|id| cluster.node(id).disk.syncs()).collect();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let later: Vec<_> = (1..=3).map(|id| cluster.node(id).disk.syncs()).collect();
    assert_eq!(idle, later);
}

#[tokio::test(start_paused = true)]
async fn concurrent_reads_share_one_round_and_see_what_was_written() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let written = cluster.propose("x").await;
    let before = cluster.links.messages();
    let reads = join_all((0..200).map(|_| leader.raft().linearizable_read())).await;
    assert!(reads.into_iter().all(|read| read.unwrap() >= written));
    assert!(cluster.links.messages() - before <= 12);
    let follower = cluster.nodes.values().find(|n| n.id != leader.id).unwrap();
    let refused = follower.raft().linearizable_read().await.unwrap_err();
    assert!(matches!(refused, Error::NotLeader { leader: Some(id) } if id == leader.id));
}

#[tokio::test(start_paused = true)]
async fn the_leadership_is_handed_over_faster_than_an_election_timeout() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await.id;
    cluster.propose("before").await;
    let started = Instant::now();
    cluster.node(old).raft().hand_over().await.unwrap();
    let new = cluster.leader().await;
    assert_ne!(new.id, old);
    let index = cluster.propose("after").await;
    assert!(
        started.elapsed() < Duration::from_millis(800),
        "{:?}",
        started.elapsed()
    );
    cluster.settle(index).await;
}

#[tokio::test(start_paused = true)]
async fn voters_are_replaced_one_set_by_another_and_a_repeat_changes_nothing() {
    let mut cluster = Cluster::of(3).await;
    for id in 4..=5 {
        cluster.start(id, MemoryDisk::new()).await.unwrap();
    }
    for i in 0..50 {
        cluster.propose(&format!("c{i}")).await;
    }
    let leader = cluster.leader().await;
    let wanted: BTreeSet<u64> = [leader.id, 4, 5].into();
    leader.raft().change_voters(wanted.clone()).await.unwrap();
    let before = leader
        .until(|s| s.voters == wanted && s.learners.is_empty())
        .await;
    leader.raft().change_voters(wanted.clone()).await.unwrap();
    assert_eq!(leader.status().last_log, before.last_log);
    let index = cluster.propose("agreed").await;
    for id in wanted {
        cluster.node(id).replica.wait_for(index).await;
        assert_eq!(cluster.node(id).ledger.commands().len(), 51);
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_does_not_exist_is_refused_and_the_old_ones_go_on() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let refused = leader
        .raft()
        .change_voters([1, 2, 3, 8].into())
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, Error::Membership(why) if why.contains("{8}")),
        "{refused}"
    );
    let status = leader.until(|s| s.learners.is_empty()).await;
    assert_eq!(status.voters, [1, 2, 3].into());
    cluster.propose("on").await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_missed_more_than_the_log_gets_a_snapshot() {
    let mut cluster = Cluster::empty();
    cluster.snapshot_threshold = 50;
    cluster.grow(3).await;
    let leader = cluster.leader().await.id;
    let other = (1..=3).find(|id| *id != leader).unwrap();
    let disk = cluster.kill(other).await;
    for i in 0..400 {
        cluster.propose(&format!("c{i}")).await;
    }
    cluster
        .node(leader)
        .until(|s| s.snapshot.is_some_and(|i| i > 300))
        .await;
    cluster.start(other, disk).await.unwrap();
    let index = cluster.propose("last").await;
    cluster.settle(index).await;
    assert!(
        cluster
            .node(other)
            .status()
            .snapshot
            .is_some_and(|i| i > 300)
    );
    // And it comes back from that snapshot alone.
    cluster.restart(other).await;
    cluster.settle(index).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_the_proposal_and_the_node_recovers_with_the_space() {
    let mut cluster = Cluster::empty();
    cluster.start(1, MemoryDisk::new()).await.unwrap();
    let node = cluster.node(1);
    node.raft().initialize().await.unwrap();
    node.raft().propose(text("kept")).await.unwrap();
    node.disk.set_full(true);
    let failed = node.raft().propose(text("lost")).await.unwrap_err();
    assert!(
        matches!(&failed, Error::Storage(why) if why.contains("no space left")),
        "{failed}"
    );
    let down = node
        .until(|s| s.role == Role::Down && s.failure.is_some())
        .await;
    assert!(down.failure.unwrap().contains("no space left"));
    assert_eq!(node.ledger.commands(), ["kept"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    node.disk.set_full(false);
    node.until(|s| s.is_leader() && s.failure.is_none()).await;
    node.raft().propose(text("more")).await.unwrap();
    assert_eq!(node.ledger.commands(), ["kept", "more"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_of_the_leader_moves_the_leadership() {
    let cluster = Cluster::of(3).await;
    let old = cluster.leader().await;
    old.disk.set_full(true);
    let _ = old.raft().propose(text("maybe")).await;
    cluster.propose("elsewhere").await;
    assert_ne!(cluster.leader().await.id, old.id);
    old.disk.set_full(false);
    let index = cluster.propose("all").await;
    cluster.settle(index).await;
}

#[tokio::test(start_paused = true)]
async fn another_nodes_data_is_refused() {
    let mut cluster = Cluster::empty();
    let disk = MemoryDisk::new();
    cluster.start(1, disk.clone()).await.unwrap();
    cluster.kill(1).await;
    let refused = cluster.start(2, disk).await.unwrap_err();
    assert!(matches!(
        refused,
        Error::WrongNode {
            expected: 2,
            found: 1
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn too_long_commands_and_foreign_bytes_are_refused() {
    let cluster = Cluster::of(1).await;
    let node = cluster.node(1).raft();
    let long = node.propose(vec![0; 1024 * 1024 + 1].into()).await;
    assert!(matches!(long, Err(Error::TooLarge { .. })));
    for bytes in [&b""[..], b"\x01\xff\xff", b"GET / HTTP/1.1"] {
        assert!(matches!(
            node.handle_rpc(bytes).await,
            Err(Error::Malformed(_))
        ));
    }
}
