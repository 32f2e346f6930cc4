//! The crate against real kernels' networks: hosts are network namespaces. Needs root, `ip`, `bridge` and `nft`.
#![allow(missing_docs, clippy::unwrap_used, unreachable_pub)]

mod drift;
mod published;
mod traffic;
mod world;
