//! The one error that every verb returns. Its kind survives the wire; its message is for people and says
//! what was attempted, on what, what came back and, where it can be known, what to do.

/// What every verb returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb was not carried out. Each variant maps to one gRPC status code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum Error {
    /// The request itself is malformed; the message says what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The object that the request names is not there.
    #[error("{0}")]
    NotFound(String),
    /// An object of that name is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// The object's state does not allow it now (a stopped task cannot be attached to).
    #[error("{0}")]
    Conflict(String),
    /// A certificate or a token does not allow it.
    #[error("{0}")]
    Denied(String),
    /// A limit is reached: disk, memory, a queue.
    #[error("{0}")]
    Exhausted(String),
    /// No quorum, no leader, or the node that runs the task cannot be reached. Trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// This host, kernel or backend cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else: a fault of ours or of the host.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The error with `what` in front of its message: `cannot start task web.2: …`.
    #[must_use]
    pub fn context(self, what: impl std::fmt::Display) -> Self {
        let put = |m: String| format!("{what}: {m}");
        match self {
            Self::Invalid(m) => Self::Invalid(put(m)),
            Self::NotFound(m) => Self::NotFound(put(m)),
            Self::AlreadyExists(m) => Self::AlreadyExists(put(m)),
            Self::Conflict(m) => Self::Conflict(put(m)),
            Self::Denied(m) => Self::Denied(put(m)),
            Self::Exhausted(m) => Self::Exhausted(put(m)),
            Self::Unavailable(m) => Self::Unavailable(put(m)),
            Self::Unsupported(m) => Self::Unsupported(put(m)),
            Self::Internal(m) => Self::Internal(put(m)),
        }
    }

    /// Whether the same request may succeed later without a change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Exhausted(_))
    }
}
