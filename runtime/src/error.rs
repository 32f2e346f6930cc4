//! What can go wrong on one host, with what was attempted and on what.

use std::io;

/// What the runtime's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the runtime could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A container, task, image or file is not there.
    #[error("{0}")]
    NotFound(String),
    /// It is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The request or the spec is malformed; the message says what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The container's state does not allow it now.
    #[error("{0}")]
    Conflict(String),
    /// This kernel or host cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// A system call failed.
    #[error("cannot {attempt}: {source}")]
    Io {
        /// What was attempted, and on what: `mount overlay on /run/…`.
        attempt: String,
        /// What came back.
        source: io::Error,
    },
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// A failed system call. `attempt` reads on from `cannot …`.
    pub fn io(attempt: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            attempt: attempt.into(),
            source: source.into(),
        }
    }
}

impl From<Error> for swarm_api::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::NotFound(_) => Self::NotFound(message),
            Error::AlreadyExists(_) => Self::AlreadyExists(message),
            Error::Invalid(_) => Self::Invalid(message),
            Error::Conflict(_) => Self::Conflict(message),
            Error::Unsupported(_) => Self::Unsupported(message),
            Error::Io { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => {
                    Self::Exhausted(format!("no space left on the node's disk: {message}"))
                }
                _ => Self::Internal(message),
            },
            Error::Internal(_) => Self::Internal(message),
        }
    }
}
