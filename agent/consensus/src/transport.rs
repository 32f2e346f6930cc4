//! How messages reach other nodes; the agent provides it.

use async_trait::async_trait;
use bytes::Bytes;

/// What a message is about, so that a transport can choose deadlines and lanes. The body says it
/// again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// Log entries or a heartbeat: small and urgent, up to about 1.5 MiB (or one command).
    Append,
    /// Elections and hand-over: tiny and urgent.
    Vote,
    /// A piece of a snapshot: up to about 1.5 MiB, may take seconds.
    Snapshot,
}

/// A message did not get an answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(
    /// What was attempted and what came back.
    pub String,
);

/// Sends a message to a node and brings its answer back. The other side hands the body to
/// [`Consensus::handle_rpc`](crate::Consensus::handle_rpc) and returns what that returns.
///
/// It need not retry, and should fail fast when the node cannot be reached. The future is dropped
/// when the answer is no longer wanted. The transport authenticates both ends.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends `body` to the node numbered `target`.
    ///
    /// # Errors
    /// Any failure to get the other side's answer.
    async fn send(
        &self,
        target: u64,
        kind: MessageKind,
        body: Bytes,
    ) -> Result<Bytes, TransportError>;

    /// The other nodes that are known, as far as that is not from the log.
    fn others(&self) -> Vec<u64> {
        Vec::new()
    }
}
