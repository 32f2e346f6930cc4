//! The verbs over the wire, in both directions: `routes` serves any backend, `Client` is a backend that asks
//! another one. The interface itself is `proto/proto/swarm.proto`. Must not know what a backend does.
//!
//! ```no_run
//! use swarm_api::grpc::Client;
//! use swarm_api::model::{Kind, Object, Query};
//! use swarm_api::Backend;
//!
//! # async fn example() -> swarm_api::Result<()> {
//! let cluster = Client::connect("unix:///run/swarmd/cluster.sock").await?;
//! for object in cluster.list(Query::of(Kind::Task)).await?.value {
//!     if let Object::Task(task) = object {
//!         println!("{} is {} on {}", task.name, task.status.state, task.node_name);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod chunks;
mod client;
mod control;
mod convert;
mod serve;
mod server;
mod status;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use serve::{routes, serve_unix};

/// The largest message that is accepted, in bytes. Streams are cut into far smaller ones; this bounds single objects.
const LARGEST_MESSAGE: usize = 16 << 20;
