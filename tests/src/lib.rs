//! The multi-host harness: several hosts on one machine, as network namespaces with addresses of their own, joined
//! by a bridge, each with its own `swarmd`, directories and control groups; and the faults that befall hosts.
//!
//! It knows the binaries by their command line, their sockets and their answers only, as a user does, and nothing of
//! the crates behind them; [`histories`] speak to them through the client library. It must be root. Everything that it makes carries the cluster's prefix in its name, so
//! that several clusters can be there at once and that [`clean::leftovers`] can tell what one has left behind.

pub mod cgroups;
pub mod clean;
pub mod cluster;
pub mod command;
pub mod faults;
pub mod guard;
pub mod histories;
pub mod host;
pub mod http;
pub mod images;
pub mod linearizability;
pub mod netns;
pub mod processes;
pub mod pty;
pub mod soak;
pub mod user;
pub mod wait;
pub mod workloads;

pub use cluster::{Builder, Cluster, with_cluster, with_hosts};
pub use command::{Output, Spawned};
pub use host::Host;
pub use user::User;
pub use wait::wait_until;
