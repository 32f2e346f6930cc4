//! The cluster's decisions as pure cores: no I/O, no clock, no randomness, no async.
//!
//! `command` is what may be written into the log, `state` what it comes to, `query` what is read from it. What is to
//! be written next is decided by `orchestrator` (with `scheduler` and `restart`), `liveness`, `voters`, `departure` and
//! `reports`; what a node does to its containers by `reconciler`.

pub mod command;
pub mod departure;
mod ipam;
pub mod liveness;
pub mod orchestrator;
mod query;
pub mod reconciler;
pub mod reports;
mod restart;
#[cfg(sabotage)]
pub mod sabotage;
mod scheduler;
pub mod state;
pub mod voters;

pub use command::{Change, Command, Outcome, PlanItem};
pub use state::State;

#[cfg(test)]
mod testing;
