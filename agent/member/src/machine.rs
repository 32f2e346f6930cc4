//! The cluster's state as Raft and observation feed it, and as everything else reads it.
//! What a command does is decided in `swarm_cluster`; here are only the lock and the encoding.

use bytes::Bytes;
use std::sync::{RwLock, RwLockReadGuard, PoisonError};
use swarm_cluster::{Command, Outcome, State};
use swarm_consensus::{Frozen, StateMachine};

/// The replica's state.
#[derive(Debug, Default)]
pub struct Machine(RwLock<State>);

impl Machine {
    /// The state as it is now. Held briefly, and never over an await.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command as an entry of the log.
///
/// # Errors
/// When it cannot be encoded: a fault of ours.
pub fn encode_command(command: &Command) -> swarm_api::Result<Bytes> {
    postcard::to_stdvec(command)
        .map(Bytes::from)
        .map_err(|e| swarm_api::Error::Internal(format!("cannot encode a command: {e}")))
}

/// What a proposal came to. JSON, because an object says its kind by a tag.
///
/// # Errors
/// What the command came to, or that it cannot be decoded.
pub fn decode_outcome(bytes: &[u8]) -> Outcome {
    serde_json::from_slice::<Outcome>(bytes)
        .unwrap_or_else(|e| Err(swarm_api::Error::Internal(format!("cannot decode an outcome: {e}"))))
}

impl StateMachine for Machine {
    fn apply(&self, index: u64, command: &Bytes) -> Bytes {
        let outcome: Outcome = match postcard::from_bytes::<Command>(command) {
            Ok(command) => self
                .0
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .apply(index, &command),
            // An entry of a newer version: skipped alike on every node of this version.
            Err(e) => Err(swarm_api::Error::Unsupported(format!(
                "entry {index} of the log cannot be understood by this version: {e}"
            ))),
        };
        serde_json::to_vec(&outcome).unwrap_or_default().into()
    }

    fn freeze(&self) -> Frozen {
        let state = self.read().clone();
        Box::new(move || postcard::to_stdvec(&state).unwrap_or_default().into())
    }

    fn restore(&self, _index: u64, snapshot: &[u8]) -> Result<(), String> {
        let state: State = postcard::from_bytes(snapshot).map_err(|e| e.to_string())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }
}
