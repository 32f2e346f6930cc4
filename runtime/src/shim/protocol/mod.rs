//! What agent and shim say to each other over the shim's socket. Pure.
//!
//! A frame is a length (u32, little-endian, of all that follows), a kind (u8) and a payload: bytes as they are
//! for streams, JSON for the rest. A newer agent talks to an older shim and the other way round: fields and
//! kinds that are not known are passed over, and the answer to an `Open` tells the version.

use crate::shim::files::Ending;
use crate::{Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use swarm_api::backend::{LogStream, WindowSize};
use swarm_api::model::{ExitStatus, Timestamp};

#[cfg(test)]
mod tests;

/// The version of this protocol. It rises when something is added; nothing is ever taken away.
pub(crate) const VERSION: u32 = 1;

/// The longest frame: an exec'd process with a large environment.
pub(crate) const MAX_FRAME: usize = 8 << 20;

/// What a connection is for. Its first frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// The agent's `VERSION`.
    pub(crate) version: u32,
    /// What for.
    pub(crate) purpose: Purpose,
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// Requests, and changes of state as they happen.
    Control,
    /// The container's streams.
    Attach {
        /// The terminal's size.
        #[serde(default)]
        size: Option<WindowSize>,
    },
    /// A notice whenever the log has grown.
    Follow,
    /// A further process and its streams.
    Exec {
        /// It.
        process: Box<oci_spec::runtime::Process>,
        /// Whether its standard input stays open.
        #[serde(default)]
        stdin: bool,
        /// The terminal's first size.
        #[serde(default)]
        size: Option<WindowSize>,
    },
}

/// The answer to an `Open` that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// The shim's `VERSION`.
    pub(crate) version: u32,
    /// The shim's process.
    pub(crate) shim: i32,
    /// The container's state.
    pub(crate) phase: Phase,
    /// The log's end: all that was put out before is in front of it, all that comes after it will come over
    /// this connection too.
    pub(crate) log: Position,
    /// The number of the exec'd process, for `Kill` and `Resize`.
    #[serde(default)]
    pub(crate) exec: Option<u64>,
}

/// A place in a container's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The file's number.
    pub(crate) generation: u64,
    /// Bytes from its start.
    pub(crate) offset: u64,
}

/// A container's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Its process waits.
    Created {
        /// The process.
        pid: i32,
    },
    /// Its process runs.
    Running {
        /// The process.
        pid: i32,
        /// Since when.
        started_at: Timestamp,
    },
    /// It ended.
    Stopped(Ending),
}

/// A signal to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kill {
    /// signal(7).
    pub(crate) signal: i32,
    /// An exec'd process; the container's first one if none.
    #[serde(default)]
    pub(crate) exec: Option<u64>,
}

/// A terminal's new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resize {
    /// It.
    pub(crate) size: WindowSize,
    /// An exec'd process's; the container's if none.
    #[serde(default)]
    pub(crate) exec: Option<u64>,
}

/// Why a request was not carried out: an `Error` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: String,
    message: String,
    #[serde(default)]
    errno: Option<i32>,
}

/// From the agent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ToShim {
    /// First of all. Answered by `Opened` or `Failed`.
    Open(Open),
    /// Lets the created process run. Answered by `Done` or `Failed`, as are `Kill`, `Resize` and `Shutdown`.
    Start,
    /// A signal.
    Kill(Kill),
    /// A terminal's size.
    Resize(Resize),
    /// Kills all that is left; the shim ends when it has ended.
    Shutdown,
    /// For the process's standard input.
    Stdin(Vec<u8>),
    /// The process's standard input ends.
    CloseStdin,
    /// The client is busy with what came before, and alive.
    Progress,
}

/// From the shim.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FromShim {
    /// The `Open` was granted.
    Opened(Opened),
    /// The request was carried out.
    Done,
    /// It was not.
    Failed(Failure),
    /// A change of state.
    State(Phase),
    /// Output.
    Output(LogStream, Vec<u8>),
    /// The process ended, and all its output came before.
    Exit(ExitStatus),
    /// The log has grown.
    Grown,
}

mod kind {
    pub(super) const OPEN: u8 = 1;
    pub(super) const START: u8 = 2;
    pub(super) const KILL: u8 = 3;
    pub(super) const RESIZE: u8 = 4;
    pub(super) const SHUTDOWN: u8 = 5;
    pub(super) const STDIN: u8 = 6;
    pub(super) const CLOSE_STDIN: u8 = 7;
    pub(super) const PROGRESS: u8 = 8;
    pub(super) const OPENED: u8 = 64;
    pub(super) const DONE: u8 = 65;
    pub(super) const FAILED: u8 = 66;
    pub(super) const STATE: u8 = 67;
    pub(super) const STDOUT: u8 = 68;
    pub(super) const STDERR: u8 = 69;
    pub(super) const EXIT: u8 = 70;
    pub(super) const GROWN: u8 = 71;
}

/// One frame, its payload not looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

/// A message that can be sent.
pub(crate) trait Message: Sized {
    /// Appends the frame.
    fn encode(&self, out: &mut Vec<u8>) -> Result<()>;
    /// Reads a frame; nothing if its kind is not known here.
    fn decode(frame: Frame) -> Result<Option<Self>>;
}

impl Message for ToShim {
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Open(open) => json(kind::OPEN, open, out),
            Self::Start => frame(kind::START, &[], out),
            Self::Kill(kill) => json(kind::KILL, kill, out),
            Self::Resize(resize) => json(kind::RESIZE, resize, out),
            Self::Shutdown => frame(kind::SHUTDOWN, &[], out),
            Self::Stdin(data) => frame(kind::STDIN, data, out),
            Self::CloseStdin => frame(kind::CLOSE_STDIN, &[], out),
            Self::Progress => frame(kind::PROGRESS, &[], out),
        }
    }

    fn decode(frame: Frame) -> Result<Option<Self>> {
        Ok(Some(match frame.kind {
            kind::OPEN => Self::Open(parse(&frame)?),
            kind::START => Self::Start,
            kind::KILL => Self::Kill(parse(&frame)?),
            kind::RESIZE => Self::Resize(parse(&frame)?),
            kind::SHUTDOWN => Self::Shutdown,
            kind::STDIN => Self::Stdin(frame.payload),
            kind::CLOSE_STDIN => Self::CloseStdin,
            kind::PROGRESS => Self::Progress,
            _ => return Ok(None),
        }))
    }
}

impl Message for FromShim {
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Opened(opened) => json(kind::OPENED, opened, out),
            Self::Done => frame(kind::DONE, &[], out),
            Self::Failed(failure) => json(kind::FAILED, failure, out),
            Self::State(phase) => json(kind::STATE, phase, out),
            Self::Output(stream, data) => output(*stream, data, out),
            Self::Exit(exit) => json(kind::EXIT, exit, out),
            Self::Grown => frame(kind::GROWN, &[], out),
        }
    }

    fn decode(frame: Frame) -> Result<Option<Self>> {
        Ok(Some(match frame.kind {
            kind::OPENED => Self::Opened(parse(&frame)?),
            kind::DONE => Self::Done,
            kind::FAILED => Self::Failed(parse(&frame)?),
            kind::STATE => Self::State(parse(&frame)?),
            kind::STDOUT => Self::Output(LogStream::Stdout, frame.payload),
            kind::STDERR => Self::Output(LogStream::Stderr, frame.payload),
            kind::EXIT => Self::Exit(parse(&frame)?),
            kind::GROWN => Self::Grown,
            _ => return Ok(None),
        }))
    }
}

/// Appends `FromShim::Output` without a copy of its own.
pub(crate) fn output(stream: LogStream, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let kind = match stream {
        LogStream::Stdout => kind::STDOUT,
        LogStream::Stderr => kind::STDERR,
    };
    frame(kind, data, out)
}

/// Appends `ToShim::Stdin` without a copy of its own.
pub(crate) fn stdin(data: &[u8], out: &mut Vec<u8>) -> Result<()> {
    frame(kind::STDIN, data, out)
}

fn frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let length = payload.len() + 1;
    if length > MAX_FRAME {
        return Err(Error::Invalid(format!(
            "a message of {length} bytes to or from a shim is too long; at most {MAX_FRAME} bytes can be sent"
        )));
    }
    // Checked just now.
    #[allow(clippy::cast_possible_truncation)]
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
    Ok(())
}

fn json<T: Serialize>(kind: u8, value: &T, out: &mut Vec<u8>) -> Result<()> {
    let payload = serde_json::to_vec(value).map_err(|e| {
        Error::Internal(format!(
            "cannot put a message of kind {kind} into JSON: {e}"
        ))
    })?;
    frame(kind, &payload, out)
}

fn parse<T: DeserializeOwned>(frame: &Frame) -> Result<T> {
    serde_json::from_slice(&frame.payload).map_err(|e| {
        Error::Unsupported(format!(
            "a message of kind {} between agent and shim cannot be read ({e}); is the container's shim of another version?",
            frame.kind
        ))
    })
}

/// Cuts a stream of bytes into frames. Holds no memory while nothing is pending.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// More bytes from the stream.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message. Kinds that are not known are passed over.
    pub(crate) fn next<M: Message>(&mut self) -> Result<Option<M>> {
        while let Some(frame) = self.frame()? {
            if let Some(message) = M::decode(frame)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn frame(&mut self) -> Result<Option<Frame>> {
        let rest = &self.buffer[self.taken..];
        let whole = match rest.first_chunk::<4>() {
            None => None,
            Some(length) => {
                let length = u32::from_le_bytes(*length) as usize;
                if length == 0 || length > MAX_FRAME {
                    return Err(Error::Internal(format!(
                        "agent and shim do not understand each other: a message of {length} bytes was announced"
                    )));
                }
                rest.get(4..4 + length)
            }
        };
        let Some(whole) = whole else {
            // What was taken goes when it must, not with every frame.
            self.buffer.drain(..self.taken);
            self.taken = 0;
            if self.buffer.is_empty() {
                self.buffer = Vec::new();
            }
            return Ok(None);
        };
        let frame = Frame {
            kind: whole[0],
            payload: whole[1..].to_vec(),
        };
        self.taken += 4 + whole.len();
        Ok(Some(frame))
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let (kind, message, errno) = match error {
            Error::NotFound(m) => ("not-found", m.clone(), None),
            Error::AlreadyExists(m) => ("already-exists", m.clone(), None),
            Error::Invalid(m) => ("invalid", m.clone(), None),
            Error::Conflict(m) => ("conflict", m.clone(), None),
            Error::Unsupported(m) => ("unsupported", m.clone(), None),
            Error::Io { attempt, source } => match source.raw_os_error() {
                Some(errno) => ("io", attempt.clone(), Some(errno)),
                None => ("internal", error.to_string(), None),
            },
            Error::Internal(m) => ("internal", m.clone(), None),
        };
        Self {
            kind: kind.to_owned(),
            message,
            errno,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let message = failure.message;
        match (failure.kind.as_str(), failure.errno) {
            ("not-found", _) => Self::NotFound(message),
            ("already-exists", _) => Self::AlreadyExists(message),
            ("invalid", _) => Self::Invalid(message),
            ("conflict", _) => Self::Conflict(message),
            ("unsupported", _) => Self::Unsupported(message),
            ("io", Some(errno)) => Self::io(message, std::io::Error::from_raw_os_error(errno)),
            _ => Self::Internal(message),
        }
    }
}
