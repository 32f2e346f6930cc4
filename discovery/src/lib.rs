//! Who is there, and where a service is.
//!
//! Three rooms: [`membership`] (SWIM gossip over sealed datagrams: which nodes are alive, and a small soft state of
//! each), [`catalogue`] (what names stand for: services and their live tasks), and [`dns`] (names answered from
//! that). None of them knows of Raft, of containers or of the API's types: nodes are `u64`, tasks and services
//! are strings, and whoever composes the agent says what names stand for and decides what the soft state carries.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalogue;
pub mod dns;
mod error;
pub mod membership;

pub use error::DiscoveryError;
