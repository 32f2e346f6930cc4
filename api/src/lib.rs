//! The unified interface: one object model and one set of verbs, answered alike by one host and by a
//! cluster of hosts.
//!
//! `model` is what the verbs speak of, `backend` the verbs themselves, `control` how a host enters and
//! leaves a cluster, `grpc` the same over the wire in both directions, `cursor` where a watcher is in the order of
//! events. This crate must not know how any backend does its work.

pub mod backend;
pub mod control;
pub mod cursor;
pub mod error;
pub mod grpc;
pub mod model;

pub use backend::{Backend, BoxStream};
pub use control::Control;
pub use cursor::Cursor;
pub use error::{Error, Result};
