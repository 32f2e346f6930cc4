//! The words between the parent and the container's process before its program runs: one packet each. Must not know what they are about.

use crate::{Error, Result};
use rustix::io::Errno;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Longest text of one word, bytes; longer ones are cut.
const LONGEST: usize = 4096;

/// What one side tells the other.
#[derive(Debug)]
pub(super) enum Word {
    /// The other side may go on.
    Go,
    /// Everything up to the next step is done. With the terminal, or the root mount, where there is one.
    Done(Option<OwnedFd>),
    /// The pid of the process made in between.
    Pid(i32),
    /// It failed.
    Failed(Error),
    /// The other side has gone: its program runs, or it has ended.
    Gone,
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// A new socket at a path, to which `Channel::connect` connects.
pub(super) fn gate(path: &Path) -> Result<OwnedFd> {
    let failed = |e| Error::io(format!("make the socket {}", path.display()), e);
    let socket = net::socket_with(
        net::AddressFamily::UNIX,
        net::SocketType::SEQPACKET,
        net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)?;
    let address = net::SocketAddrUnix::new(path).map_err(failed)?;
    net::bind(&socket, &address).map_err(failed)?;
    net::listen(&socket, 1).map_err(failed)?;
    Ok(socket)
}

/// Both ends of a new channel. They close at exec.
pub(super) fn pair() -> Result<(Channel, Channel)> {
    net::socketpair(
        net::AddressFamily::UNIX,
        net::SocketType::SEQPACKET,
        net::SocketFlags::CLOEXEC,
        None,
    )
    .map(|(a, b)| (Channel(a), Channel(b)))
    .map_err(|e| Error::io("make a socket pair for the container's process", e))
}

impl Channel {
    /// Waits at a listening socket for somebody to connect.
    pub(super) fn accept(gate: &OwnedFd) -> Result<Self> {
        rustix::io::retry_on_intr(|| net::accept_with(gate, net::SocketFlags::CLOEXEC))
            .map(Self)
            .map_err(|e| Error::io("wait for the container's start", e))
    }

    /// Connects to such a socket; `None` if nobody waits there any more.
    pub(super) fn connect(gate: &Path) -> Result<Option<Self>> {
        let failed = |e| Error::io(format!("connect to {}", gate.display()), e);
        let socket = net::socket_with(
            net::AddressFamily::UNIX,
            net::SocketType::SEQPACKET,
            net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let address = net::SocketAddrUnix::new(gate).map_err(failed)?;
        match rustix::io::retry_on_intr(|| net::connect(&socket, &address)) {
            Ok(()) => Ok(Some(Self(socket))),
            Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Says a word.
    pub(super) fn send(&self, word: &Word) -> Result<()> {
        let (packet, fd) = encode(word);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut extra = SendAncillaryBuffer::new(&mut space);
        let fds = fd.iter().map(AsFd::as_fd).collect::<Vec<_>>();
        if !fds.is_empty() {
            extra.push(SendAncillaryMessage::ScmRights(&fds));
        }
        rustix::io::retry_on_intr(|| {
            net::sendmsg(
                &self.0,
                &[IoSlice::new(&packet)],
                &mut extra,
                SendFlags::NOSIGNAL,
            )
        })
        .map(drop)
        .map_err(|e| Error::io("speak to the container's process", e))
    }

    /// Waits for the next word.
    pub(super) fn recv(&self) -> Result<Word> {
        let mut packet = [0u8; LONGEST + 8];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut extra = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut packet)],
                &mut extra,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let got = match got {
            Ok(got) => got,
            Err(rustix::io::Errno::CONNRESET) => return Ok(Word::Gone),
            Err(e) => return Err(Error::io("hear from the container's process", e)),
        };
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(Error::Internal(
                "a word of the container's process is too long".to_owned(),
            ));
        }
        let fd = extra.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        decode(packet.get(..got.bytes).unwrap_or_default(), fd)
    }

    /// Waits for leave to go on; an error if the other side has gone.
    pub(super) fn wait(&self) -> Result<Option<OwnedFd>> {
        match self.recv()? {
            Word::Go => Ok(None),
            Word::Done(fd) => Ok(fd),
            Word::Failed(error) => Err(error),
            Word::Gone => Err(Error::Internal(
                "the process on the other side has ended before its work was done".to_owned(),
            )),
            Word::Pid(_) => Err(Error::Internal("an unexpected word".to_owned())),
        }
    }
}

fn encode(word: &Word) -> (Vec<u8>, Option<&OwnedFd>) {
    let failed = |kind: u8, errno: i32, text: &str| {
        let mut packet = vec![b'F', kind];
        packet.extend(errno.to_ne_bytes());
        packet.extend(text.as_bytes().iter().take(LONGEST));
        (packet, None)
    };
    match word {
        Word::Go => (vec![b'G'], None),
        Word::Done(fd) => (vec![b'D'], fd.as_ref()),
        Word::Gone => (Vec::new(), None),
        Word::Pid(pid) => {
            let mut packet = vec![b'P'];
            packet.extend(pid.to_ne_bytes());
            (packet, None)
        }
        Word::Failed(error) => match error {
            Error::NotFound(text) => failed(b'n', 0, text),
            Error::AlreadyExists(text) => failed(b'a', 0, text),
            Error::Invalid(text) => failed(b'i', 0, text),
            Error::Conflict(text) => failed(b'c', 0, text),
            Error::Unsupported(text) => failed(b'u', 0, text),
            Error::Internal(text) => failed(b't', 0, text),
            Error::Io { attempt, source } => match source.raw_os_error() {
                Some(errno) => failed(b'o', errno, attempt),
                None => failed(b't', 0, &error.to_string()),
            },
        },
    }
}

fn decode(packet: &[u8], fd: Option<OwnedFd>) -> Result<Word> {
    let number = |bytes: &[u8]| {
        bytes
            .first_chunk::<4>()
            .map_or(0, |b| i32::from_ne_bytes(*b))
    };
    Ok(match packet {
        [] => Word::Gone,
        [b'G'] => Word::Go,
        [b'D'] => Word::Done(fd),
        [b'P', pid @ ..] => Word::Pid(number(pid)),
        [b'F', kind, rest @ ..] => {
            let text = String::from_utf8_lossy(rest.get(4..).unwrap_or_default()).into_owned();
            Word::Failed(match kind {
                b'n' => Error::NotFound(text),
                b'a' => Error::AlreadyExists(text),
                b'i' => Error::Invalid(text),
                b'c' => Error::Conflict(text),
                b'u' => Error::Unsupported(text),
                b'o' => Error::io(text, io::Error::from_raw_os_error(number(rest))),
                _ => Error::Internal(text),
            })
        }
        _ => {
            return Err(Error::Internal(
                "a word of the container's process is not understood".to_owned(),
            ));
        }
    })
}
