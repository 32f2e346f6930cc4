//! The cluster's decisions as pure cores: no I/O, no clock, no randomness, no async.
//!
//! `command` is what may be written into the log, `state` what it comes to.

pub mod command;
pub mod scheduler;
pub mod state;
pub mod voters;

pub use command::{Change, Command, Outcome, PlanItem};
pub use state::State;
