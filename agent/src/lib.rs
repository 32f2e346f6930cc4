//! The agent: one host's part in a cluster, and the composition of all rooms into one program.
//!
//! `backend` answers the verbs for the whole cluster, `leader` is what the leading node does, `node` what every
//! member does from its replica, `daemon` holds them together for as long as the program runs, `control` is how a
//! host enters and leaves a cluster, `config` what the operator says.

pub mod backend;
pub mod config;
pub mod leader;
pub mod node;
