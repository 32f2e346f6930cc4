//! The agent's side of the shims: creates, finds again, drives and removes containers. Must not know of tasks.
