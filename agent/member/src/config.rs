//! What a member is started with.

use crate::World;
use std::net::SocketAddr;
use std::time::Duration;
use swarm_api::model::Capacity;

/// What a member is started with.
#[derive(Clone)]
pub struct MemberConfig {
    /// What is around it. `identity` and `raft` are the folders that it keeps.
    pub world: World,
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
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What only tests set otherwise.
#[derive(Clone)]
pub(crate) struct Tuning {
    /// How long a node's certificate is good for.
    pub(crate) certificate_life: Duration,
    /// How often it is looked at whether something is due.
    pub(crate) upkeep: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            certificate_life: Duration::from_secs(90 * 24 * 3600),
            upkeep: Duration::from_secs(5),
        }
    }
}
