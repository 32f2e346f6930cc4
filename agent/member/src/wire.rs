//! Errors between members: the kind as a gRPC code, the message as it is.

use swarm_api::Error;
use swarm_proto::agent::Elsewhere;
use tonic::{Code, Status};

/// The longest message that is taken from a peer, in bytes; longer items travel in pieces.
pub(crate) const MAX_MESSAGE: usize = 8 << 20;

pub(crate) fn to_status(error: &Error) -> Status {
    let code = match error {
        Error::Invalid(_) => Code::InvalidArgument,
        Error::NotFound(_) => Code::NotFound,
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::Conflict(_) => Code::FailedPrecondition,
        Error::Denied(_) => Code::PermissionDenied,
        Error::Exhausted(_) => Code::ResourceExhausted,
        Error::Unavailable(_) => Code::Unavailable,
        Error::Unsupported(_) => Code::Unimplemented,
        Error::Internal(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

pub(crate) fn from_status(status: &Status) -> Error {
    let message = match status.message() {
        "" | "transport error" => crate::links::root_cause(status),
        message => message.to_owned(),
    };
    match status.code() {
        Code::InvalidArgument => Error::Invalid(message),
        Code::NotFound => Error::NotFound(message),
        Code::AlreadyExists => Error::AlreadyExists(message),
        Code::FailedPrecondition => Error::Conflict(message),
        Code::PermissionDenied | Code::Unauthenticated => Error::Denied(message),
        Code::ResourceExhausted => Error::Exhausted(message),
        Code::Unimplemented => Error::Unsupported(message),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            Error::Unavailable(message)
        }
        _ => Error::Internal(message),
    }
}

pub(crate) fn elsewhere(leader: Option<u64>) -> Elsewhere {
    Elsewhere {
        leader: leader.unwrap_or(0),
    }
}

pub(crate) fn hinted(elsewhere: Elsewhere) -> Option<u64> {
    (elsewhere.leader != 0).then_some(elsewhere.leader)
}
