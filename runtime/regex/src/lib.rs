//! Stands in for the crate `regex` in this workspace (`[patch.crates-io]`). oci-spec needs it for one simple expression, and with it came
//! Unicode tables full of addresses, which `swarm-oci` had to adjust each time it was started (`docs/decisions`).

pub use regex_lite::*;
