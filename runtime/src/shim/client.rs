//! One connection to the shim: what waits to be sent, and what has come in part.

use crate::Result;
use crate::shim::protocol::{self, Decoder, FromShim, Message, ToShim};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};
use swarm_api::backend::LogStream;

/// Output that may wait for a client before the process it comes from has to wait too.
const LIMIT: usize = 128 << 10;

/// What a buffer that is empty may keep.
const KEPT: usize = 4 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Not said yet.
    New,
    /// Requests and states.
    Control,
    /// The container's streams.
    Attach,
    /// Notices of the log's growth.
    Follow,
    /// The streams of that exec'd process.
    Exec(u64),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) role: Role,
    socket: OwnedFd,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
    moved: Instant,
    gone: bool,
}

impl Client {
    /// `socket` must not block.
    pub(super) fn new(id: u64, role: Role, socket: OwnedFd) -> Self {
        Self {
            id,
            role,
            socket,
            decoder: Decoder::default(),
            out: Vec::new(),
            sent: 0,
            moved: Instant::now(),
            gone: false,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it hung up, or was hung up on.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether anything waits to be sent.
    pub(super) fn has_waiting(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Whether so much waits that nothing more should be read for it.
    pub(super) fn is_behind(&self) -> bool {
        self.out.len() - self.sent >= LIMIT
    }

    /// How long nothing was taken by it, and no sign of life came.
    pub(super) fn still_for(&self) -> Duration {
        self.moved.elapsed()
    }

    /// Hangs up.
    pub(super) fn drop_it(&mut self) {
        self.gone = true;
    }

    /// Sends a message, now or when it can be taken.
    pub(super) fn say(&mut self, message: &FromShim) {
        if message.encode(&mut self.out).is_err() {
            self.gone = true;
        }
        self.flush();
    }

    /// Sends output.
    pub(super) fn say_output(&mut self, stream: LogStream, data: &[u8]) {
        if protocol::output(stream, data, &mut self.out).is_err() {
            self.gone = true;
        }
        self.flush();
    }

    /// Sends what can be taken.
    pub(super) fn flush(&mut self) {
        while self.has_waiting() && !self.gone {
            match send(
                &self.socket,
                &self.out[self.sent..],
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(n) => {
                    self.sent += n;
                    self.moved = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.sent >= LIMIT {
                        self.out.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => self.gone = true,
            }
        }
        self.sent = 0;
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
    }

    /// Reads what has come, at most a buffer full.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) {
        match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => self.gone = true,
            Ok((_, n)) => {
                self.decoder.feed(&buffer[..n]);
                self.moved = Instant::now();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.gone = true,
        }
    }

    /// The next message that has come whole.
    pub(super) fn next(&mut self) -> Result<Option<ToShim>> {
        self.decoder.next()
    }
}
