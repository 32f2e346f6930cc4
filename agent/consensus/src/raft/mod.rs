//! Raft, by the openraft library, which is named in this module and nowhere else.
//!
//! `node` is the interface; `log`, `writer`, `snapshots` and `applier` are the storage; `network`,
//! `wire` and `rpc` the messages; `election`, `driver` and `shared` what the library lacks
//! (pre-vote, hand-over, patience with slow disks); `membership` the change of voters.

mod applier;
mod driver;
mod election;
mod log;
mod membership;
mod network;
mod node;
mod rpc;
mod runtime;
mod shared;
mod snapshots;
mod status;
#[cfg(test)]
mod suite;
mod trial;
mod types;
mod wire;
mod witness;
mod writer;

pub use membership::Group;
pub use node::{Consensus, Proposed};
pub use status::{Role, Status};

use node::Running;
