//! What users did and what they were answered.

use crate::Cluster;
use crate::linearizability::object::{Input, Object, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One object that users work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A service; whether its tasks find a node, and whether it is left alone most of the time.
    Service {
        name: String,
        placed: bool,
        quiet: bool,
    },
    /// A network.
    Network { name: String },
    /// A label of a node.
    Label { node: String, label: String },
}

impl Key {
    /// Few, so that users get in each other's way. No name can be the beginning of an id, which has no `-`.
    pub(super) fn some(cluster: &Cluster) -> Vec<Self> {
        let service = |n: usize| Self::Service {
            name: format!("svc-{n}"),
            placed: n == 0,
            quiet: n > 2,
        };
        let mut keys: Vec<Self> = (0..6).map(service).collect();
        keys.push(Self::Network {
            name: "net-1".into(),
        });
        keys.extend(cluster.hosts().iter().take(2).map(|h| Self::Label {
            node: h.name.clone(),
            label: "colour".into(),
        }));
        keys
    }

    pub(super) fn is_quiet(&self) -> bool {
        matches!(self, Self::Service { quiet: true, .. })
    }

    pub(super) fn model(&self) -> Object {
        match self {
            Self::Service { .. } => Object::slow_to_go(),
            Self::Network { .. } => Object::quick_to_go(),
            Self::Label { .. } => Object::lasting(0),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service { name, .. } => write!(f, "service {name}"),
            Self::Network { name } => write!(f, "network {name}"),
            Self::Label { node, label } => write!(f, "label {label} of node {node}"),
        }
    }
}

/// The one clock of a history: microseconds since its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// How many times each host's agent has ended.
#[derive(Debug, Clone)]
pub(super) struct Lives(Arc<[AtomicU64]>);

impl Lives {
    pub(super) fn of(hosts: usize) -> Self {
        Self((0..hosts).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn end(&self, host: usize) {
        self.0[host].fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn end_all(&self) {
        (0..self.0.len()).for_each(|host| self.end(host));
    }

    pub(super) fn of_host(&self, host: usize) -> u64 {
        self.0[host].load(Ordering::SeqCst)
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer; and for a read the index that it reflects.
    Answer { output: Output, index: Option<u64> },
    /// An answer that says it is stale.
    Stale { output: Output, index: u64 },
    /// It is said not to have been done.
    NotDone,
    /// Nobody knows.
    Unknown,
    /// Something that cannot be answered to this.
    Odd(String),
}

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) user: usize,
    /// Through which host.
    pub(super) host: usize,
    /// Which life of the host's agent it was; none where it ended meanwhile. An agent that is started again may have
    /// forgotten the latest.
    pub(super) life: Option<u64>,
    /// Place in the keys.
    pub(super) key: usize,
    pub(super) input: Input,
    pub(super) called: u64,
    pub(super) returned: u64,
    pub(super) outcome: Outcome,
}

/// Where records are collected.
pub(super) struct Recorder {
    pub(super) keys: Arc<[Key]>,
    pub(super) clock: Clock,
    pub(super) lives: Lives,
    records: Mutex<Vec<Record>>,
}

impl Recorder {
    pub(super) fn new(keys: Arc<[Key]>, lives: Lives) -> Self {
        Self {
            keys,
            clock: Clock(Instant::now()),
            lives,
            records: Mutex::default(),
        }
    }

    pub(super) fn add(&self, record: Record) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.push(record);
    }

    pub(super) fn take(&self) -> Vec<Record> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut records)
    }
}
