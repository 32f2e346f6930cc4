//! A cluster network: one subnet that spans the hosts.

use super::{Id, Timestamp};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// What a user asks of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct NetworkSpec {
    /// Unique in the cluster; a DNS label.
    pub name: String,
    /// Its addresses; chosen by the cluster if none.
    pub subnet: Option<Ipv4Net>,
}

/// A network of the cluster. The network `default` is there from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Unique id.
    pub id: Id,
    /// Unique name.
    pub name: String,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// VXLAN network identifier (RFC 7348), 1 to 2^24 − 1.
    pub vni: u32,
    /// When it was made.
    pub created_at: Timestamp,
}
