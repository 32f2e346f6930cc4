//! What a member is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use swarm_api::model::{Capacity, Timestamp};

/// What a member is started with.
#[derive(Clone)]
pub struct MemberConfig {
    /// Where everything durable is kept: `identity` and `raft` are made below it.
    pub data_dir: PathBuf,
    /// Where TLS (TCP) and gossip (UDP) are listened for.
    pub listen: SocketAddr,
    /// Where others reach this node.
    pub advertise: SocketAddr,
    /// The name wished for; a number is appended if it is taken.
    pub name: String,
    /// The version of this `swarmd`.
    pub version: String,
    /// What the host has to give.
    pub capacity: Capacity,
    /// Served to peers beside the services of this crate.
    pub routes: tonic::service::Routes,
}

impl std::fmt::Debug for MemberConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemberConfig")
            .field("data_dir", &self.data_dir)
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Tells the time; handed in so that a test can let certificates and tokens grow old.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What only tests set otherwise.
#[derive(Clone)]
pub(crate) struct Tuning {
    pub(crate) clock: Clock,
    /// How long a node's certificate is good for.
    pub(crate) certificate_life: Duration,
    /// How often it is looked at whether something is due.
    pub(crate) upkeep: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            clock: Arc::new(system_time),
            certificate_life: Duration::from_secs(90 * 24 * 3600),
            upkeep: Duration::from_secs(5),
        }
    }
}

fn system_time() -> Timestamp {
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
