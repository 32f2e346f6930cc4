//! What this crate asks of the replicated state machine.

use bytes::Bytes;

/// The work left to turn a frozen state into bytes; it runs off the async threads.
pub type Frozen = Box<dyn FnOnce() -> Bytes + Send>;

/// The state that all nodes agree on. It does its own locking: readers look at it while this
/// crate feeds it.
///
/// The calls come one at a time and in the order of the index, on every node alike. `apply` must
/// be a function of the state and the command alone: no clock, no randomness, no failure.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies the command at log position `index` and answers with its outcome, which goes to
    /// the proposer. Every command has an index of its own; an index is never applied twice.
    fn apply(&self, index: u64, command: &Bytes) -> Bytes;

    /// The command of an entry that was applied, as it is to be kept for observers. Many replicas in one process may keep
    /// the same.
    fn keep(&self, index: u64, command: Bytes) -> Bytes {
        let _ = index;
        command
    }

    /// A copy of the state as it is now, cheap to take; turning it into bytes is left to the
    /// returned closure.
    fn freeze(&self) -> Frozen;

    /// Replaces the whole state by the one that a snapshot holds, taken at `index`.
    ///
    /// # Errors
    /// Says why the bytes cannot be a state; the state is then as before.
    fn restore(&self, index: u64, snapshot: &[u8]) -> Result<(), String>;
}
