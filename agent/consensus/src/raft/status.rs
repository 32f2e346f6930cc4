//! What a node says about itself, worked out from the Raft library's metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ServerState;

use super::types::{LogId, Metrics};

/// What a node is in the Raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Not a member: it may be added, and observes meanwhile.
    #[default]
    Outside,
    /// It gets the log, but has no vote (yet).
    Learner,
    /// A voter under a leader.
    Follower,
    /// A voter that asks for votes.
    Candidate,
    /// The leader.
    Leader,
    /// Raft is not running here; see [`Status::failure`].
    Down,
}

/// A node's view of the group and of itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// What it is.
    pub role: Role,
    /// The leader, if this node has heard from one that is alive; itself only while a quorum
    /// answers it.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The voters; while they change, both the old and the new ones.
    pub voters: BTreeSet<u64>,
    /// Members without a vote.
    pub learners: BTreeSet<u64>,
    /// Whether the voters are changing: the old ones and the new ones both have to agree until that is done.
    pub joint: bool,
    /// Index of the last entry in this node's log.
    pub last_log: Option<u64>,
    /// Index of the last entry that this node knows to be committed.
    pub committed: Option<u64>,
    /// Index of the last entry that Raft has applied here.
    pub applied: Option<u64>,
    /// Index of the last entry in the latest snapshot.
    pub snapshot: Option<u64>,
    /// Whether, as far as this node can tell, commands can be committed: a leader hears from a
    /// quorum, another node hears from the leader.
    pub has_quorum: bool,
    /// What is wrong with this node's disk, if something is.
    pub failure: Option<String>,
    /// Members whose disks lost what they had said to be durable, as far as this node knows. They take no part until they
    /// have been taken out of the group; then they begin anew.
    pub lost: BTreeSet<u64>,
}

impl Status {
    /// Whether this node leads and has the quorum's support.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader == Some(self.node_id)
    }
}

/// What the metrics alone do not say.
pub(crate) struct Beside {
    pub(crate) committed: Option<LogId>,
    pub(crate) hears_leader: bool,
    pub(crate) quorum_patience: Duration,
    pub(crate) failure: Option<String>,
    pub(crate) lost: BTreeSet<u64>,
}

/// Pure: the status that follows from what is known.
pub(crate) fn derive(metrics: &Metrics, beside: Beside) -> Status {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let learners: BTreeSet<u64> = membership.learner_ids().collect();
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        ServerState::Learner if learners.contains(&metrics.id) => Role::Learner,
        ServerState::Learner => Role::Outside,
        ServerState::Shutdown => Role::Down,
    };
    let acknowledged = quorum_age(metrics).is_some_and(|age| age <= beside.quorum_patience);
    let leader = match role {
        Role::Leader => acknowledged.then_some(metrics.id),
        Role::Candidate | Role::Down => None,
        _ => metrics.current_leader.filter(|_| beside.hears_leader),
    };
    Status {
        node_id: metrics.id,
        role,
        leader,
        term: metrics.current_term,
        voters,
        learners,
        joint: membership.get_joint_config().len() > 1,
        last_log: metrics.last_log_index,
        committed: beside.committed.map(|id| id.index),
        applied: metrics.last_applied.map(|id| id.index),
        snapshot: metrics.snapshot.map(|id| id.index),
        has_quorum: leader.is_some(),
        failure: beside.failure,
        lost: beside.lost,
    }
}

/// For a leader: how long ago a quorum answered it.
pub(crate) fn quorum_age(metrics: &Metrics) -> Option<Duration> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let mut voters = metrics.membership_config.voter_ids();
    if voters.next() == Some(metrics.id) && voters.next().is_none() {
        return Some(Duration::ZERO);
    }
    metrics.millis_since_quorum_ack.map(Duration::from_millis)
}
