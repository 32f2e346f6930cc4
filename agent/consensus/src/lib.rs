//! Consensus: one ordered, durable sequence of commands, and a replica of what it yields on every
//! node.
//!
//! What comes in: commands as opaque bytes ([`Consensus::propose`]), messages of other nodes
//! ([`Consensus::handle_rpc`]), a disk, a transport and a state machine, all handed in.
//! What goes out: the same commands in the same order to the [`StateMachine`] of every node.
//!
//! - A **voter** runs Raft ([`Consensus`]). The Raft library is an affair of the private module
//!   `raft`; no type of it is in this interface.
//! - An **observer** follows snapshot and log from any up-to-date node ([`Observer`] on the
//!   receiving side, [`Replica::observe`] on the serving side, which any node can be).
//! - Both feed the same [`Replica`], by index, so that a node turns from one to the other without
//!   a gap and without applying anything twice.
//!
//! It must not know what a command means, what a node's address is, or how bytes travel.
//!
//! # What is promised
//! - A command that [`Consensus::propose`] acknowledged is on the disks of a quorum: killing any or
//!   all of the nodes at any instant does not lose it.
//! - Many commands proposed at the same time share one `fsync`.
//! - Nothing is written while nothing is proposed.
//! - A node that was cut off does not depose a healthy leader when it returns, and does not raise
//!   its term while it is away: a vote is asked for only after a majority said, without writing
//!   anything, that it has no leader either.
//!
//! # When the disk fails
//! A failed write (a full disk, say) fails the proposals that wait for it with
//! [`Error::Storage`]; nothing of the failed batch is acknowledged or applied. The Raft instance
//! is stopped, [`Status::failure`] says why, and it is reopened from the disk with a growing
//! pause between attempts (250 ms up to 10 s) until that succeeds. Meanwhile the replica stays
//! readable (and an observer feeds it, where one runs), and the other voters go on. A failed
//! snapshot is not fatal: it is reported and tried again every 10 s.

mod checksum;
mod config;
mod disk;
mod error;
mod machine;
mod memory;
mod observe;
mod observer;
mod raft;
mod replica;
mod ring;
mod snapshot_file;
mod sums;
mod transport;

pub use config::ConsensusConfig;
pub use disk::{DirDisk, Disk};
pub use error::Error;
pub use machine::{Frozen, StateMachine};
pub use memory::{MemoryDisk, SyncCount};
pub use observe::{ObserveItem, ObserveStream};
pub use observer::{Dial, DialError, Observer, ObserverConfig};
pub use raft::{Consensus, Group, Proposed, Role, Status};
pub use replica::{Replica, ReplicaConfig, ReplicaSnapshot};
pub use transport::{MessageKind, RaftTransport, TransportError};
