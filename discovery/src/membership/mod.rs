//! Membership: which nodes are there, by SWIM gossip (foca) with Lifeguard's health awareness.
//!
//! [`Core`] decides everything and does no I/O: bytes, commands and time in, datagrams and events out.
//! [`Membership`] is the shell that owns a socket, a clock and the loop. Every datagram is sealed with a cluster key
//! ([`KeyRing`]); a packet that does not open is dropped and counted, and never stops the loop.
//! Nothing in here knows what the soft state means, nor of Raft: a node that is `Down` here is only a hint to those who
//! fence and replace.

mod codec;
mod config;
mod core;
mod health;
mod identity;
mod seal;
mod shell;
mod soft_state;
mod timers;
mod view;

#[cfg(test)]
mod simulation;

pub use self::config::{MAX_DATAGRAM, MAX_SOFT_STATE, MembershipConfig, Timing};
pub use self::core::{Core, Effect, Event, Now, Stats};
pub use self::health::{HealthEvent, LocalHealth};
pub use self::identity::NodeIdentity;
pub use self::seal::{KeyRing, Rejected};
pub use self::shell::{DatagramSocket, Membership, WallClock};
pub use self::view::{Member, MemberEvent, MemberState};
