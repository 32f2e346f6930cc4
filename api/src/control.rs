//! How a host enters and leaves a cluster. Asked of the local agent only, before and beside the verbs.

use crate::Result;
use crate::model::{NodeId, NodeRole, Timestamp};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// What the local agent is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The cluster's id.
    pub cluster: String,
    /// This node's id.
    pub node: NodeId,
    /// This node's name.
    pub name: String,
    /// This node's role.
    pub role: NodeRole,
}

/// A token that lets hosts join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The token's public id, for listing and removal.
    pub id: String,
    /// The whole token; only when it is made.
    pub secret: Option<String>,
    /// What the nodes that join with it may be.
    pub role: NodeRole,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// How a host enters and leaves a cluster.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Makes a cluster of this one host. `advertise` is the address that others reach it at.
    async fn init(&self, advertise: Option<IpAddr>) -> Result<Joined>;

    /// Joins the cluster of the agent at `peer` (`HOST:PORT`, or `HOST` with the default port).
    async fn join(&self, peer: String, token: String, advertise: Option<IpAddr>) -> Result<Joined>;

    /// Leaves the cluster: tasks are stopped, the node's record goes. With `force`, also where the cluster
    /// cannot be reached.
    async fn leave(&self, force: bool) -> Result<()>;

    /// Makes a token.
    async fn create_token(&self, role: NodeRole, ttl: Duration) -> Result<Token>;

    /// The tokens that are valid.
    async fn list_tokens(&self) -> Result<Vec<Token>>;

    /// Makes a token invalid.
    async fn remove_token(&self, id: String) -> Result<()>;
}
