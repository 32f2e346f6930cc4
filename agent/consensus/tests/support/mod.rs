//! A cluster in one process: an in-memory transport with links that can be cut, disks that can
//! lose power, and a state machine that remembers everything it was given.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use swarm_consensus::{
    Consensus, ConsensusConfig, Dial, DialError, Disk, Error, Frozen, MemoryDisk, MessageKind,
    ObserveStream, Observer, ObserverConfig, RaftTransport, Replica, ReplicaConfig, StateMachine,
    Status, TransportError,
};
use tokio::sync::watch;

/// Indexes and commands, in order.
pub type Entries = Vec<(u64, Vec<u8>)>;

/// Remembers all commands in order.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
    /// What any node ever applied, by index; two nodes must never disagree, dead ones included.
    history: Arc<Mutex<History>>,
}

#[derive(Debug, Default)]
pub struct History {
    applied: BTreeMap<u64, Vec<u8>>,
    pub contradictions: Vec<String>,
}

impl Ledger {
    pub fn entries(&self) -> Entries {
        self.entries.lock().unwrap().clone()
    }

    pub fn commands(&self) -> Vec<String> {
        let text = |(_, bytes)| String::from_utf8(bytes).unwrap();
        self.entries().into_iter().map(text).collect()
    }
}

impl StateMachine for Ledger {
    fn apply(&self, index: u64, command: &Bytes) -> Bytes {
        let mut entries = self.entries.lock().unwrap();
        assert!(
            entries.last().is_none_or(|last| last.0 < index),
            "out of order"
        );
        entries.push((index, command.to_vec()));
        let mut history = self.history.lock().unwrap();
        let first = history
            .applied
            .entry(index)
            .or_insert(command.to_vec())
            .clone();
        if first != *command {
            history
                .contradictions
                .push(format!("{index}: {first:?} and {command:?}"));
        }
        Bytes::from(format!("{}th", entries.len()))
    }

    fn freeze(&self) -> Frozen {
        let entries = self.entries();
        Box::new(move || {
            let mut out = Vec::new();
            for (index, command) in entries {
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&(command.len() as u32).to_le_bytes());
                out.extend_from_slice(&command);
            }
            Bytes::from(out)
        })
    }

    fn restore(&self, _index: u64, mut snapshot: &[u8]) -> Result<(), String> {
        let mut entries = Vec::new();
        while let Some((index, rest)) = snapshot.split_first_chunk::<8>() {
            let (len, rest) = rest.split_first_chunk::<4>().ok_or("cut")?;
            let (command, rest) = rest
                .split_at_checked(u32::from_le_bytes(*len) as usize)
                .ok_or("cut")?;
            entries.push((u64::from_le_bytes(*index), command.to_vec()));
            snapshot = rest;
        }
        *self.entries.lock().unwrap() = entries;
        Ok(())
    }
}

/// All links of the cluster.
#[derive(Default)]
pub struct Links {
    nodes: Mutex<BTreeMap<u64, (Option<Consensus>, Replica)>>,
    cut: Mutex<BTreeSet<(u64, u64)>>,
    changed: watch::Sender<u64>,
    messages: AtomicU64,
}

impl Links {
    /// Cuts `id` off from all others, or joins it again.
    pub fn set_alone(&self, id: u64, alone: bool) {
        let others: Vec<u64> = (1..=9).filter(|other| *other != id).collect();
        for other in others {
            self.set_cut(id, other, alone);
        }
    }

    pub fn set_cut(&self, a: u64, b: u64, cut: bool) {
        let mut all = self.cut.lock().unwrap();
        for pair in [(a, b), (b, a)] {
            if cut {
                all.insert(pair);
            } else {
                all.remove(&pair);
            }
        }
        drop(all);
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::SeqCst)
    }

    fn open(&self, from: u64, to: u64) -> bool {
        !self.cut.lock().unwrap().contains(&(from, to))
    }

    async fn until_cut(&self, from: u64, to: u64) {
        let mut changed = self.changed.subscribe();
        while self.open(from, to) && self.nodes.lock().unwrap().contains_key(&to) {
            changed.changed().await.unwrap();
        }
    }
}

struct Transport {
    from: u64,
    links: Arc<Links>,
}

#[async_trait]
impl RaftTransport for Transport {
    async fn send(
        &self,
        target: u64,
        _kind: MessageKind,
        body: Bytes,
    ) -> Result<Bytes, TransportError> {
        let lost = || TransportError("the link is cut".into());
        tokio::time::sleep(Duration::from_millis(1)).await;
        let node = self.links.nodes.lock().unwrap().get(&target).cloned();
        let node = node.and_then(|n| n.0).ok_or_else(lost)?;
        if !self.links.open(self.from, target) {
            return Err(lost());
        }
        self.links.messages.fetch_add(1, Ordering::SeqCst);
        let answer = node.handle_rpc(&body).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        if !self.links.open(target, self.from) {
            return Err(lost());
        }
        answer.map_err(|e| TransportError(e.to_string()))
    }
}

/// Dials the nodes in turn.
struct Dialler {
    from: u64,
    sources: Vec<u64>,
    links: Arc<Links>,
}

#[async_trait]
impl Dial for Dialler {
    async fn dial(&self, attempt: u64, from: u64) -> Result<ObserveStream, DialError> {
        let target = self.sources[attempt as usize % self.sources.len()];
        let replica = self.links.nodes.lock().unwrap().get(&target).cloned();
        let Some((_, replica)) = replica.filter(|_| self.links.open(self.from, target)) else {
            return Err(DialError(format!("node {target} does not answer")));
        };
        let (links, me) = (Arc::clone(&self.links), self.from);
        let cut = async move { links.until_cut(me, target).await };
        Ok(replica.observe(from).take_until(cut).boxed())
    }
}

pub struct Node {
    pub id: u64,
    pub disk: MemoryDisk,
    pub ledger: Arc<Ledger>,
    pub replica: Replica,
    /// `None` on a node that only observes.
    pub raft: Option<Consensus>,
    pub observer: Option<Observer>,
}

impl Node {
    pub fn raft(&self) -> &Consensus {
        self.raft.as_ref().unwrap()
    }

    pub fn status(&self) -> Status {
        self.raft().status()
    }

    pub async fn until(&self, what: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.raft().watch_status();
        let found = tokio::time::timeout(Duration::from_secs(60), status.wait_for(what)).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("node {} never got there: {:?}", self.id, self.status()),
        }
    }
}

pub struct Cluster {
    pub links: Arc<Links>,
    pub nodes: BTreeMap<u64, Node>,
    pub snapshot_threshold: u64,
    pub ring_entries: usize,
    pub history: Arc<Mutex<History>>,
}

pub fn text(s: impl Into<String>) -> Bytes {
    Bytes::from(s.into())
}

impl Cluster {
    pub fn empty() -> Self {
        Self {
            links: Arc::default(),
            nodes: BTreeMap::new(),
            snapshot_threshold: 5000,
            ring_entries: 4096,
            history: Arc::default(),
        }
    }

    /// Voters 1 to `count`, led by node 1.
    pub async fn of(count: u64) -> Self {
        let mut cluster = Self::empty();
        cluster.grow(count).await;
        cluster
    }

    pub async fn grow(&mut self, count: u64) {
        for id in 1..=count {
            self.start(id, MemoryDisk::new()).await.unwrap();
        }
        self.node(1).raft().initialize().await.unwrap();
        self.node(1)
            .raft()
            .change_voters((1..=count).collect())
            .await
            .unwrap();
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub fn config(&self, id: u64) -> ConsensusConfig {
        let mut config = ConsensusConfig::new(id);
        config.seed = id;
        config.snapshot_threshold = self.snapshot_threshold;
        config.keep_behind_snapshot = self.snapshot_threshold / 5;
        config
    }

    /// Starts a node that may vote, on `disk`.
    pub async fn start(&mut self, id: u64, disk: MemoryDisk) -> Result<(), Error> {
        self.start_on(id, disk.clone(), Arc::new(disk)).await
    }

    pub async fn start_on(
        &mut self,
        id: u64,
        disk: MemoryDisk,
        used: Arc<dyn Disk>,
    ) -> Result<(), Error> {
        let mut node = self.blank(id, disk);
        let transport = Transport {
            from: id,
            links: Arc::clone(&self.links),
        };
        let raft = Consensus::start(
            self.config(id),
            used,
            Arc::new(transport),
            node.replica.clone(),
        )
        .await?;
        node.raft = Some(raft);
        self.add(node);
        Ok(())
    }

    /// Starts to observe on a node, from `sources`.
    pub async fn observe(&mut self, id: u64, sources: &[u64]) {
        self.observe_on(id, sources, MemoryDisk::new()).await;
    }

    pub async fn observe_on(&mut self, id: u64, sources: &[u64], disk: MemoryDisk) {
        if !self.nodes.contains_key(&id) {
            let node = self.blank(id, disk);
            self.add(node);
        }
        let dialler = Dialler {
            from: id,
            sources: sources.to_vec(),
            links: Arc::clone(&self.links),
        };
        let node = self.nodes.get_mut(&id).unwrap();
        let observer = Observer::start(
            node.replica.clone(),
            Arc::new(node.disk.clone()),
            Arc::new(dialler),
            ObserverConfig::default(),
        );
        node.observer = Some(observer.await.unwrap());
    }

    fn blank(&self, id: u64, disk: MemoryDisk) -> Node {
        let ledger = Arc::new(Ledger {
            history: Arc::clone(&self.history),
            ..Ledger::default()
        });
        let config = ReplicaConfig {
            ring_entries: self.ring_entries,
            ..ReplicaConfig::default()
        };
        Node {
            id,
            disk,
            replica: Replica::new(Arc::clone(&ledger) as Arc<dyn StateMachine>, config),
            ledger,
            raft: None,
            observer: None,
        }
    }

    fn add(&mut self, node: Node) {
        let entry = (node.raft.clone(), node.replica.clone());
        self.links.nodes.lock().unwrap().insert(node.id, entry);
        self.nodes.insert(node.id, node);
    }

    /// The node is gone from one instant to the next, and what it had not synced with it.
    pub async fn kill(&mut self, id: u64) -> MemoryDisk {
        let node = self.nodes.remove(&id).unwrap();
        self.links.nodes.lock().unwrap().remove(&id);
        self.links.changed.send_modify(|n| *n += 1);
        // From here on it can write nothing, so that its shutdown is only a matter of tidiness.
        node.disk.crash();
        if let Some(raft) = &node.raft {
            raft.shutdown().await;
        }
        node.disk.crash();
        node.disk
    }

    pub async fn restart(&mut self, id: u64) {
        let disk = self.kill(id).await;
        self.start(id, disk).await.unwrap();
    }

    /// Waits until one of the nodes leads with a quorum, and gives it.
    pub async fn leader(&self) -> &Node {
        for _ in 0..10_000 {
            let leader = self
                .nodes
                .values()
                .find(|n| n.raft.is_some() && n.status().is_leader());
            if let Some(leader) = leader {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let states: Vec<Status> = self
            .nodes
            .values()
            .filter(|n| n.raft.is_some())
            .map(Node::status)
            .collect();
        panic!("no leader: {states:#?}");
    }

    /// Proposes on whichever node leads until that succeeds.
    pub async fn propose(&self, command: &str) -> u64 {
        loop {
            let leader = self.leader().await;
            if let Ok(done) = leader.raft().propose(text(command)).await {
                return done.index;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until every node has entry `index`, and checks that all agree.
    pub async fn settle(&self, index: u64) {
        assert!(self.history.lock().unwrap().contradictions.is_empty());
        let mut first: Option<(u64, Entries)> = None;
        for node in self.nodes.values() {
            let reached = node.replica.wait_for(index);
            let reached = tokio::time::timeout(Duration::from_secs(120), reached).await;
            assert!(
                reached.is_ok(),
                "node {} is at {} and not at {index}",
                node.id,
                node.replica.applied_index()
            );
            let upto = |entries: Entries| {
                entries
                    .into_iter()
                    .filter(|e| e.0 <= index)
                    .collect::<Vec<_>>()
            };
            let entries = upto(node.ledger.entries());
            match &first {
                None => first = Some((node.id, entries)),
                Some((id, expected)) => {
                    assert_eq!(expected, &entries, "nodes {id} and {} disagree", node.id);
                }
            }
        }
    }
}
