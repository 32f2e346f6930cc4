//! One container's keeper: a small process that owns its streams and exit status. Must not know of the agent that started it.
pub mod launch;
