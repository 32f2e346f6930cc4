//! Errors over the wire: the kind is the status code and, so that an answer can be told from a broken connection, a
//! trailer; the message is the status's message.

use crate::Error;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const KIND: &str = "swarm-error-kind";
/// Messages travel in a header, whose size HTTP/2 peers limit.
const LONGEST: usize = 4000;

/// The status that tells `error`.
pub(crate) fn to_status(error: Error) -> Status {
    let (code, kind, message) = match error {
        Error::Invalid(m) => (Code::InvalidArgument, "invalid", m),
        Error::NotFound(m) => (Code::NotFound, "not-found", m),
        Error::AlreadyExists(m) => (Code::AlreadyExists, "already-exists", m),
        Error::Conflict(m) => (Code::FailedPrecondition, "conflict", m),
        Error::Denied(m) => (Code::PermissionDenied, "denied", m),
        Error::Exhausted(m) => (Code::ResourceExhausted, "exhausted", m),
        Error::Unavailable(m) => (Code::Unavailable, "unavailable", m),
        Error::Unsupported(m) => (Code::Unimplemented, "unsupported", m),
        Error::Internal(m) => (Code::Internal, "internal", m),
    };
    let mut status = Status::new(code, shorten(message));
    status
        .metadata_mut()
        .insert(KIND, MetadataValue::from_static(kind));
    status
}

/// What `status` tells: the backend's own error, or that the call did not get through.
pub(crate) fn from_status(status: &Status) -> Error {
    let message = status.message().to_owned();
    if let Some(kind) = status.metadata().get(KIND) {
        return match kind.as_bytes() {
            b"invalid" => Error::Invalid(message),
            b"not-found" => Error::NotFound(message),
            b"already-exists" => Error::AlreadyExists(message),
            b"conflict" => Error::Conflict(message),
            b"denied" => Error::Denied(message),
            b"exhausted" => Error::Exhausted(message),
            b"unavailable" => Error::Unavailable(message),
            b"unsupported" => Error::Unsupported(message),
            _ => Error::Internal(message),
        };
    }
    match status.code() {
        Code::Unimplemented => Error::Unsupported(
            "the agent does not answer this call here: it is older than this client, or its socket is \
             for one host alone (host.sock) and the call is one of the cluster's (cluster.sock)"
                .into(),
        ),
        Code::InvalidArgument | Code::OutOfRange => Error::Invalid(message),
        Code::ResourceExhausted => Error::Exhausted(message),
        Code::PermissionDenied | Code::Unauthenticated => Error::Denied(message),
        _ => Error::Unavailable(format!(
            "the connection to the agent (swarmd) broke off: {}",
            innermost(status)
        )),
    }
}

/// Its own message, and that of the cause at the bottom.
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    let mut last = None;
    while let Some(c) = cause {
        last = Some(c.to_string());
        cause = c.source();
    }
    if let Some(last) = last
        && !text.contains(&last)
    {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&last);
    }
    text
}

fn shorten(mut message: String) -> String {
    if message.len() > LONGEST {
        let mut end = LONGEST;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(" …");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_survives_with_its_message() {
        let kinds: [fn(String) -> Error; 9] = [
            Error::Invalid,
            Error::NotFound,
            Error::AlreadyExists,
            Error::Conflict,
            Error::Denied,
            Error::Exhausted,
            Error::Unavailable,
            Error::Unsupported,
            Error::Internal,
        ];
        for kind in kinds {
            let error = kind("cannot find „web“: no such service".into());
            assert_eq!(from_status(&to_status(error.clone())), error);
        }
    }

    #[test]
    fn a_failure_of_the_transport_is_not_taken_for_an_answer() {
        let error = from_status(&Status::unknown("h2 protocol error"));
        assert!(
            matches!(&error, Error::Unavailable(m) if m.contains("h2")),
            "{error:?}"
        );
        assert!(matches!(
            from_status(&Status::unimplemented("")),
            Error::Unsupported(_)
        ));
        assert!(matches!(
            from_status(&Status::not_found("")),
            Error::Unavailable(_)
        ));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let Error::Internal(cut) = from_status(&to_status(Error::Internal("ü".repeat(5000))))
        else {
            panic!("another kind");
        };
        assert!(cut.len() <= LONGEST + 4 && cut.ends_with('…'));
    }
}
