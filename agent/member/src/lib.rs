//! This host as a member of one cluster: who it is, whom it trusts, and how it takes part in what the cluster agrees on.
//!
//! [`Member`] is the interface. Below it:
//! - identity and trust: `identity` (what is on the disk), `authority` (the CA and what certificates say), `token`, `tls`;
//! - the wire: `listener` and `guard` (coming in), `links` and `book` (going out), `wire` (errors);
//! - what peers are answered: `services`, `admission` (the entrance), `permits` (who may propose what);
//! - what is around it and handed in: `world` (network, disk, clock, random numbers); `shared` (for many in one process);
//! - taking part: `machine` (the replicated state), `observe` and `fanout`, `propose`, `read`, `start`, `join`, `departure`, `upkeep`.
//!
//! # Trust
//! - Everything between members is mutual TLS 1.3 under the cluster's own CA. A certificate says cluster, role and node id,
//!   and the node id is that of its key: a server must be the very node that was asked for.
//! - Without a certificate only the entrance answers, and it wants a token. A token pins the CA: who joins sends nothing to
//!   a server of another one.
//! - Raft's messages are taken from managers only. A worker may propose what concerns itself and what its users ask for; in
//!   this version whoever reaches the local socket of any node may use the whole cluster. See `permits`.
//! - Every member may ask any other node's runtime (the `routes` of [`MemberConfig`]): `exec` and `logs` go that way.
//! - A node that left or was taken out is refused by all from then on, though its certificate is still good. It keeps the
//!   gossip key until that is changed.
//! - Managers hold the CA's key; any of them can admit nodes and renew certificates.
//!
//! # Clocks
//! Certificates are good from a day before they are made; a host whose clock is further behind, or whose certificate ran
//! out while it was off, is refused until its clock is right, or has to join anew. A token expires by the clock of the
//! manager that admits.
//!
//! This crate must not know what tasks, networks or schedules are.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admission;
mod authority;
mod book;
mod config;
mod departure;
mod fanout;
mod guard;
mod identity;
mod join;
mod links;
mod listener;
mod machine;
mod member;
mod observe;
mod permits;
mod propose;
mod read;
mod seldom;
mod services;
mod shared;
mod start;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod upkeep;
mod wire;
mod world;

pub use config::MemberConfig;
pub use guard::caller_node;
pub use machine::StateGuard;
pub use member::{Member, MemberStatus};
pub use shared::Shared;
pub use world::{
    BoxStream, Clock, Datagrams, Entropy, Network, Storage, Stream, StreamListener, World,
};
