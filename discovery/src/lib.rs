//! Who is there, and where a service is.
//!
//! Three rooms: [`membership`] (SWIM gossip over sealed datagrams: which nodes are alive, and a small soft state of
//! each), [`catalogue`] (a read-optimised snapshot of services and their live tasks), and [`dns`] (names answered from
//! the catalogue). None of them knows of Raft, of containers or of the API's types: nodes are `u64`, tasks and services
//! are strings, and whoever composes the agent fills the catalogue and decides what the soft state carries.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalogue;
pub mod dns;
mod error;
pub mod membership;

pub use error::DiscoveryError;
