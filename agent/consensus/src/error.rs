//! Everything that can go wrong here, in words for the person who has to act on it.

use std::collections::BTreeSet;
use std::time::Duration;

/// An error of this crate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Only the leader can do this. It was not done.
    #[error("this node does not lead the cluster; {}", leader_hint(.leader))]
    NotLeader {
        /// The leader, where this node knows one that is alive.
        leader: Option<u64>,
    },
    /// The wait was given up. A proposal may or may not take effect later.
    #[error(
        "{attempted}: no answer from a quorum of the voters within {waited:?}; \
         it may still take effect, look before trying again"
    )]
    Timeout {
        /// What was attempted.
        attempted: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// This node lost its lead while it had a proposal in hand. It may or may not take effect later: another voter may
    /// have it, also where this node's own entry has given way to the next leader's.
    #[error(
        "this node lost its lead meanwhile: the proposal may still take effect, look before trying again; {}",
        leader_hint(.leader)
    )]
    Deposed {
        /// The leader, where this node knows one that is alive.
        leader: Option<u64>,
    },
    /// A linearizable read could not be confirmed.
    #[error(
        "cannot confirm the read with a quorum of the voters: {0}; try again or accept a stale read"
    )]
    NoQuorum(String),
    /// `initialize` on a node that has a cluster already. Nothing was changed.
    #[error(
        "cannot initialize: node {node_id} already belongs to a cluster with voters {voters:?}; \
         remove its data directory first if it is to start another one"
    )]
    AlreadyInitialized {
        /// This node.
        node_id: u64,
        /// The voters of the cluster that it is in.
        voters: BTreeSet<u64>,
    },
    /// The command is longer than the limit. It was not proposed.
    #[error("cannot propose a command of {bytes} bytes: the limit is {limit} bytes")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The set of voters could not be changed as asked.
    #[error("cannot change the voters: {0}")]
    Membership(String),
    /// The disk refused a read or a write.
    #[error("storage of the consensus log failed: {0}; free space or replace the disk")]
    Storage(String),
    /// A file is damaged.
    #[error(
        "{file} is damaged: {detail}; remove this node's data directory and join the cluster again"
    )]
    Corrupt {
        /// Which file, by its name in the data directory.
        file: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The data directory is another node's.
    #[error("the data directory belongs to node {found}, not to node {expected}")]
    WrongNode {
        /// The node that was to be started.
        expected: u64,
        /// The node that wrote the directory.
        found: u64,
    },
    /// The node is being reopened after a failure, or starting.
    #[error("consensus is not running on this node: {0}; it is being restarted")]
    NotRunning(String),
    /// `shutdown` was called.
    #[error("consensus on this node has been shut down")]
    Stopped,
    /// Bytes that are not a message, or of another version.
    #[error("not a consensus message: {0}; do all nodes run the same version?")]
    Malformed(String),
    /// Settings that cannot work.
    #[error("invalid consensus settings: {0}")]
    Config(String),
    /// The state machine refused a snapshot.
    #[error("cannot restore the state from the snapshot at index {index}: {detail}")]
    Restore {
        /// The snapshot's index.
        index: u64,
        /// What the state machine said.
        detail: String,
    },
    /// An entry is missing between what the replica has and what it was given.
    #[error("log entry {found} cannot follow {applied}: entries between them are missing")]
    Gap {
        /// The last entry that the replica has applied.
        applied: u64,
        /// The entry that it was given.
        found: u64,
    },
}

fn leader_hint(leader: &Option<u64>) -> String {
    match leader {
        Some(id) => format!("node {id} does"),
        None => "no leader is known at present, try again in a moment".to_owned(),
    }
}
