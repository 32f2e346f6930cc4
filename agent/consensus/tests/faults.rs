//! Random faults by seed: power cuts with unsynced writes in flight, slow disks, cut links, full
//! disks. Whatever happens, no two nodes ever apply different commands at one index, and nothing
//! acknowledged is lost. A failing seed is in the panic's message.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Cluster, text};
use swarm_consensus::MemoryDisk;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

fn leader(cluster: &Cluster) -> Option<u64> {
    let leads = |n: &&support::Node| n.raft.is_some() && n.status().is_leader();
    cluster.nodes.values().find(leads).map(|n| n.id)
}

async fn one_history(seed: u64) {
    let mut dice = Dice(seed);
    let mut cluster = Cluster::empty();
    cluster.snapshot_threshold = 30 + dice.roll(100);
    cluster.ring_entries = 20;
    let nodes = [3, 3, 5][dice.roll(3) as usize];
    cluster.grow(nodes).await;
    let observer = nodes + 1;
    let sources: Vec<u64> = (1..=nodes).collect();
    cluster.observe(observer, &sources).await;
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut proposals = Vec::new();
    let mut number = 0;
    for _ in 0..40 {
        for node in cluster.nodes.values() {
            let Some(raft) = node.raft.clone() else {
                continue;
            };
            for _ in 0..dice.roll(4) {
                number += 1;
                let (command, raft) = (format!("c{number}"), raft.clone());
                let acknowledged = Arc::clone(&acknowledged);
                proposals.push(tokio::spawn(async move {
                    if raft.propose(text(command.clone())).await.is_ok() {
                        acknowledged.lock().unwrap().insert(command);
                    }
                }));
            }
        }
        let (one, other) = (1 + dice.roll(nodes), 1 + dice.roll(nodes));
        match dice.roll(12) {
            0 => cluster.restart(one).await,
            1 | 10 => {
                // All at once; sometimes the leader comes back only when the others have another.
                let late = (dice.roll(2) == 0).then_some(leader(&cluster).unwrap_or(one));
                let mut disks = Vec::new();
                for id in 1..=nodes {
                    disks.push((id, cluster.kill(id).await));
                }
                disks.sort_by_key(|(id, _)| Some(*id) == late);
                for (id, disk) in disks {
                    if Some(id) == late {
                        tokio::time::sleep(Duration::from_secs(4)).await;
                    }
                    cluster.start(id, disk).await.unwrap();
                }
            }
            2 => cluster.links.set_alone(one, true),
            3 if one != other => cluster.links.set_cut(one, other, true),
            4 | 5 => (1..=nodes).for_each(|id| cluster.links.set_alone(id, false)),
            6 | 7 => {
                let latency = Duration::from_millis(dice.roll(1000));
                cluster.node(one).disk.set_latency(latency);
            }
            8 => {
                cluster.node(one).disk.set_full(true);
                tokio::time::sleep(Duration::from_millis(dice.roll(500))).await;
                cluster.node(one).disk.set_full(false);
            }
            9 => {
                let _ = cluster.node(one).raft().hand_over().await;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(dice.roll(1500))).await;
    }
    for id in 1..=nodes {
        cluster.links.set_alone(id, false);
        cluster.node(id).disk.set_latency(Duration::ZERO);
    }
    let index = cluster.propose("end").await;
    cluster.settle(index).await;
    for proposal in proposals {
        proposal.await.unwrap();
    }
    let kept: BTreeSet<String> = cluster.node(1).ledger.commands().into_iter().collect();
    let lost: Vec<String> = acknowledged
        .lock()
        .unwrap()
        .difference(&kept)
        .cloned()
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

#[test]
fn no_random_faults_make_nodes_disagree_or_lose_what_was_acknowledged() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=25).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let history = async {
            let limit = Duration::from_secs(3600);
            tokio::time::timeout(limit, one_history(seed)).await
        };
        let ended =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(history)));
        assert!(
            matches!(ended, Ok(Ok(()))),
            "seed {seed} failed; run it alone with SEED={seed}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn disks_with_syncs_of_a_second_still_elect_and_commit() {
    let mut cluster = Cluster::empty();
    for id in 1..=3 {
        let disk = MemoryDisk::new();
        disk.set_latency(Duration::from_secs(1));
        cluster.start(id, disk).await.unwrap();
    }
    let one = cluster.node(1).raft();
    one.initialize().await.unwrap();
    one.change_voters([1, 2, 3].into()).await.unwrap();
    let term = cluster.leader().await.status().term;
    for i in 0..20 {
        cluster.propose(&format!("c{i}")).await;
    }
    assert_eq!(cluster.leader().await.status().term, term, "no election");
    let old = cluster.leader().await.id;
    let disk = cluster.kill(old).await;
    let index = cluster.propose("after").await;
    cluster.start(old, disk).await.unwrap();
    cluster.settle(index).await;
}
