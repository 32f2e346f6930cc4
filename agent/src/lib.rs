//! The agent: one host's part in a cluster, and the composition of all rooms into one program.
//!
//! `backend` answers the verbs for the whole cluster, `leader` is what the leading node does, `node` what every
//! member does from its replica; `agent` holds them together, `control` is how a host enters and leaves a cluster, `front` what
//! answers before it did; `share` is how agents share parts of images; `runtime`, with `node::Kernel` and `swarm_member::World`, is what an agent is handed, so that a
//! simulation can run whole agents. `daemon` hands it the system's for as long as the program runs; `config` is what the
//! operator says, `builtin` the image that the binary carries, `rootless` what is different for an ordinary user, `address` and `lock` what their names say.

pub mod address;
pub mod agent;
pub mod backend;
pub mod builtin;
pub mod config;
pub mod control;
pub mod daemon;
mod follow;
pub mod front;
pub mod leader;
pub mod lock;
pub mod node;
pub mod rootless;
pub mod runtime;
pub mod share;
