//! Whole clusters of agents in one thread, by seed. What runs is the agents' own code: Raft and its store, gossip, TLS and
//! gRPC between agents, the API, schedulers, orchestrators, reconcilers, DNS. Replaced are what they are handed: network,
//! disk, clock, random numbers, the kernel and the container runtime, by ones with virtual time and with faults.
//!
//! Each agent has an async runtime of its own with a paused clock, so that it can be ended at any point, and all runtimes
//! take turns in steps of virtual time. With `--cfg tokio_unstable` (`make sim`) the runtimes' own chance is seeded too, and a
//! seed replays exactly.

pub mod dice;
pub mod disk;
pub mod history;
pub mod host;
pub mod invariants;
pub mod kernel;
pub mod machine;
pub mod network;
pub mod pace;
pub mod panics;
pub mod plan;
pub mod sabotage;
pub mod scale;
pub mod shrink;
pub mod simulation;
pub mod users;

pub use dice::Dice;
pub use simulation::Simulation;
