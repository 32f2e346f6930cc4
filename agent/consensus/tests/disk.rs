//! The real file system, real threads, and files that are damaged or cannot be written.
#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use support::{Cluster, Ledger, text};
use swarm_consensus::{
    Consensus, ConsensusConfig, DirDisk, Disk, Error, MemoryDisk, MessageKind, RaftTransport,
    Replica, ReplicaConfig, StateMachine, TransportError,
};

struct Nowhere;

#[async_trait]
impl RaftTransport for Nowhere {
    async fn send(&self, _: u64, _: MessageKind, _: Bytes) -> Result<Bytes, TransportError> {
        Err(TransportError("there is nobody else".into()))
    }
}

async fn start(disk: &DirDisk) -> Result<(Consensus, Arc<Ledger>), Error> {
    let ledger = Arc::new(Ledger::default());
    let machine = Arc::clone(&ledger) as Arc<dyn StateMachine>;
    let replica = Replica::new(machine, ReplicaConfig::default());
    let mut config = ConsensusConfig::new(1);
    config.snapshot_threshold = 100;
    config.keep_behind_snapshot = 10;
    let disk = Arc::new(disk.clone());
    let node = Consensus::start(config, disk, Arc::new(Nowhere), replica).await?;
    Ok((node, ledger))
}

async fn has_all_and_stops(node: &Consensus, ledger: &Ledger) {
    let mut status = node.watch_status();
    status
        .wait_for(swarm_consensus::Status::is_leader)
        .await
        .unwrap();
    node.linearizable_read().await.unwrap();
    assert_eq!(ledger.commands().len(), 300);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_log_and_snapshots_and_is_one_nodes_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raft");
    let disk = DirDisk::open(&path).unwrap();
    let (node, _) = start(&disk).await.unwrap();
    node.initialize().await.unwrap();
    for round in 0..3 {
        let all = (0..100).map(|i| node.propose(text(format!("{round}.{i}"))));
        for done in join_all(all).await {
            done.unwrap();
        }
    }
    node.watch_status()
        .wait_for(|s| s.snapshot.is_some())
        .await
        .unwrap();
    assert!(matches!(start(&disk).await, Err(Error::Storage(_))));
    node.shutdown().await;
    assert!(matches!(node.propose(text("x")).await, Err(Error::Stopped)));

    std::fs::write(path.join("raft-1.snap.tmp"), "half").unwrap();
    let disk = DirDisk::open(&path).unwrap();
    let (node, ledger) = start(&disk).await.unwrap();
    assert!(!path.join("raft-1.snap.tmp").exists());
    has_all_and_stops(&node, &ledger).await;

    let mut snapshots = disk.list().unwrap();
    snapshots.sort();
    assert!((1..=2).contains(&snapshots.len()), "{snapshots:?}");
    for name in &snapshots {
        let mut bytes = disk.read(name).unwrap().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path.join(name), bytes).unwrap();
    }
    match start(&disk).await {
        // What the snapshots held is gone from the log.
        Err(Error::Corrupt { file, .. }) => assert_eq!(Some(&file), snapshots.last()),
        Err(e) => panic!("{e}"),
        // The node was stopped before anything was taken out of the log.
        Ok((node, ledger)) => has_all_and_stops(&node, &ledger).await,
    }
}

/// A disk that has room for the log only.
struct NoFiles {
    disk: MemoryDisk,
    refuse: AtomicBool,
}

impl Disk for NoFiles {
    fn open_log(&self) -> io::Result<Box<dyn redb::StorageBackend>> {
        self.disk.open_log()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(name)
    }

    fn write_atomic(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.write_atomic(name, parts)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn clear(&self) -> io::Result<()> {
        self.disk.clear()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn simulated(&self) -> Option<Duration> {
        self.disk.simulated()
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_written_is_reported_and_made_later() {
    let mut cluster = Cluster::empty();
    cluster.snapshot_threshold = 20;
    let disk = MemoryDisk::new();
    let used = Arc::new(NoFiles {
        disk: disk.clone(),
        refuse: AtomicBool::new(true),
    });
    let handed = Arc::clone(&used) as Arc<dyn Disk>;
    cluster.start_on(1, disk, handed).await.unwrap();
    let node = cluster.node(1);
    node.raft().initialize().await.unwrap();
    for i in 0..50 {
        cluster.propose(&format!("c{i}")).await;
    }
    let status = node.until(|s| s.failure.is_some()).await;
    assert!(status.is_leader(), "it goes on: {status:?}");
    cluster.propose("on").await;
    used.refuse.store(false, Ordering::SeqCst);
    node.until(|s| s.snapshot.is_some() && s.failure.is_none())
        .await;
}
