//! One host's container runtime: an OCI runtime spec in, a process out; images, layers, cgroups, the shim.
//!
//! `container` makes one container and runs in the shim; `shim` owns one container's streams and exit
//! status in a process of its own; `engine` speaks to the shims from the agent; `files` copies out of and into a root; `image` keeps layers;
//! `registry` asks image registries; `oci` turns a task into a runtime spec; `host` is all of it together, as a `Backend`. This crate must not
//! know of clusters.

pub mod container;
pub mod engine;
pub mod error;
pub(crate) mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub mod fuzz;
pub mod host;
pub mod image;
pub mod oci;
pub mod registry;
pub mod shim;

pub use error::{Error, Result};
