//! The wire: the types and services generated from `proto/*.proto`. No logic.
//!
//! `swarm.v1` is the interface for users; `swarm.agent.v1` is spoken between agents only.

#![allow(missing_docs, unreachable_pub, clippy::all)]

/// The interface for users.
pub mod v1 {
    tonic::include_proto!("swarm.v1");
}

/// Between agents.
pub mod agent {
    tonic::include_proto!("swarm.agent.v1");
}

/// The descriptor set of all files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
