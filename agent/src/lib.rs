//! The agent: one host's part in a cluster, and the composition of all rooms into one program.
//!
//! `backend` answers the verbs for the whole cluster, `leader` is what the leading node does, `node` what every
//! member does from its replica; `daemon` holds them together for as long as the program runs, `control` is how a
//! host enters and leaves a cluster, `front` what answers before it did; `config` is what the operator says,
//! `builtin` the image that the binary carries, `address`, `clock` and `lock` what their names say.

pub mod address;
pub mod backend;
pub mod builtin;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod front;
pub mod leader;
pub mod lock;
pub mod node;
