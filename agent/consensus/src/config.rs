//! What can be set about a Raft node, with defaults that suit a home cluster.

use std::time::Duration;

use crate::Error;

/// Settings of a [`Consensus`](crate::Consensus) node.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// This node's number in the cluster: never 0, never used by another node, never changed.
    pub node_id: u64,
    /// How often a leader says that it is alive. Default 200 ms.
    pub heartbeat: Duration,
    /// A voter looks for a new leader when it heard from none for a random time between this and
    /// [`election_timeout_max`](Self::election_timeout_max). Default 800 ms.
    ///
    /// No voter votes while it has heard from a leader within this time.
    pub election_timeout_min: Duration,
    /// See [`election_timeout_min`](Self::election_timeout_min). Default 1400 ms.
    pub election_timeout_max: Duration,
    /// A snapshot is made after this many log entries since the last one. Default 5000.
    pub snapshot_threshold: u64,
    /// Log entries kept behind a snapshot, for followers that lag. Default 1000.
    pub keep_behind_snapshot: u64,
    /// How long a proposal or a linearizable read waits before it gives up. Default 10 s.
    pub request_timeout: Duration,
    /// How long [`change_voters`](crate::Consensus::change_voters) waits for new voters to catch
    /// up with the log. Default 60 s.
    pub catch_up_timeout: Duration,
    /// The longest command accepted, in bytes. Default 1 MiB.
    pub max_command: usize,
    /// Seed of the random election timeouts; nodes of one cluster need different ones.
    /// The default mixes the process's own randomness.
    pub seed: u64,
}

impl ConsensusConfig {
    /// The defaults for node `node_id`.
    #[must_use]
    pub fn new(node_id: u64) -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self {
            node_id,
            heartbeat: Duration::from_millis(200),
            election_timeout_min: Duration::from_millis(800),
            election_timeout_max: Duration::from_millis(1400),
            snapshot_threshold: 5000,
            keep_behind_snapshot: 1000,
            request_timeout: Duration::from_secs(10),
            catch_up_timeout: Duration::from_secs(60),
            max_command: 1024 * 1024,
            seed: RandomState::new().hash_one(node_id),
        }
    }

    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting and the limit.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Config(what));
        if self.node_id == 0 {
            return refuse("node_id is 0; node numbers start at 1".into());
        }
        if self.heartbeat < Duration::from_millis(5) {
            return refuse(format!(
                "heartbeat is {:?}; it must be at least 5 ms",
                self.heartbeat
            ));
        }
        if self.election_timeout_min < self.heartbeat * 2 {
            return refuse(format!(
                "election_timeout_min is {:?}; it must be at least twice the heartbeat ({:?})",
                self.election_timeout_min, self.heartbeat
            ));
        }
        if self.election_timeout_max <= self.election_timeout_min {
            return refuse(format!(
                "election_timeout_max ({:?}) must be greater than election_timeout_min ({:?})",
                self.election_timeout_max, self.election_timeout_min
            ));
        }
        if self.snapshot_threshold == 0 {
            return refuse("snapshot_threshold is 0; it must be at least 1".into());
        }
        Ok(())
    }
}
