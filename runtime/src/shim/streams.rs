//! The standard streams of one process, from the shim's side: pipes, or the master of its terminal.

use crate::container::Stdio;
use crate::{Error, Result};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    collections::VecDeque,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use swarm_api::backend::{LogStream, WindowSize};

/// Standard input that may wait for the process before no more is taken from clients.
const INPUT_LIMIT: usize = 64 << 10;

/// End of transmission: what a terminal takes for the end of input.
const EOT: u8 = 4;

/// One process's streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    terminal: Option<OwnedFd>,
    /// The terminal's other side, kept open: a container's terminal is there while nobody uses it (an init opens its console for
    /// each message anew).
    other_side: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    input: VecDeque<u8>,
    input_ends: bool,
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    Ended,
}

impl Streams {
    /// Streams for a process to come: what it is given, and what stays here. With a terminal, `adopt` gives the
    /// master once it is there.
    pub(super) fn new(
        terminal: bool,
        stdin: bool,
        size: Option<WindowSize>,
    ) -> Result<(Stdio, Self)> {
        if terminal {
            return Ok((Stdio::Terminal { size }, Self::default()));
        }
        let (input, ours_in) = if stdin {
            let (read, write) = pipe()?;
            unblock(&write)?;
            (read, Some(write))
        } else {
            let null = File::open("/dev/null").map_err(|e| Error::io("open /dev/null", e))?;
            (null.into(), None)
        };
        let (ours_out, out) = pipe()?;
        let (ours_err, err) = pipe()?;
        unblock(&ours_out)?;
        unblock(&ours_err)?;
        let theirs = Stdio::Fds {
            stdin: input,
            stdout: out,
            stderr: err,
        };
        let ours = Self {
            stdin: ours_in,
            stdout: Some(ours_out),
            stderr: Some(ours_err),
            ..Self::default()
        };
        Ok((theirs, ours))
    }

    /// Takes the terminal's master.
    pub(super) fn adopt(&mut self, master: Option<OwnedFd>) -> Result<()> {
        if let Some(master) = &master {
            unblock(master)?;
        }
        self.terminal = master;
        Ok(())
    }

    /// The same, for a terminal that stays whether or not it is used, until `let_go`.
    pub(super) fn adopt_console(&mut self, master: Option<OwnedFd>) -> Result<()> {
        self.adopt(master)?;
        self.other_side = self.terminal.as_ref().map(other_side).transpose()?;
        Ok(())
    }

    /// Who used the console has ended: it ends with the last of its output.
    pub(super) fn let_go(&mut self) {
        self.other_side = None;
    }

    /// The streams that can still give output.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (LogStream, BorrowedFd<'_>)> {
        let stdout = self.terminal.as_ref().or(self.stdout.as_ref());
        stdout
            .map(|fd| (LogStream::Stdout, fd.as_fd()))
            .into_iter()
            .chain(
                self.stderr
                    .as_ref()
                    .map(|fd| (LogStream::Stderr, fd.as_fd())),
            )
    }

    /// Reads from one of them; it is closed when it has ended.
    pub(super) fn read(&mut self, stream: LogStream, buffer: &mut [u8]) -> Read {
        let (slot, terminal) = match (stream, &self.terminal) {
            (LogStream::Stdout, Some(_)) => (&mut self.terminal, true),
            (LogStream::Stdout, None) => (&mut self.stdout, false),
            (LogStream::Stderr, _) => (&mut self.stderr, false),
        };
        let Some(fd) = slot else { return Read::Ended };
        let mut again = terminal && self.other_side.is_some();
        loop {
            match rustix::io::read(&*fd, &mut *buffer) {
                // Somebody has hung it up (vhangup(2), as a login does): it is opened anew, once in a while.
                Err(Errno::IO) if again => {
                    again = false;
                    match other_side(fd) {
                        Ok(new) => self.other_side = Some(new),
                        Err(_) => break,
                    }
                }
                Ok(0) => break,
                Ok(n) => return Read::Bytes(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Read::Nothing,
                // The last of a terminal's users has closed it.
                Err(Errno::IO) if terminal => break,
                Err(_) => break,
            }
        }
        *slot = None;
        Read::Ended
    }

    /// Bytes for the process. Dropped where it has no standard input.
    pub(super) fn feed(&mut self, data: &[u8]) {
        if self.has_input() && !self.input_ends {
            self.input.extend(data);
            self.push_input();
        }
    }

    /// No bytes will follow.
    pub(super) fn end_input(&mut self) {
        if self.input_ends || !self.has_input() {
            return;
        }
        if self.terminal.is_some() {
            self.input.push_back(EOT);
        } else {
            self.input_ends = true;
        }
        self.push_input();
    }

    /// Whether more may be taken from clients.
    pub(super) fn takes_input(&self) -> bool {
        self.input.len() < INPUT_LIMIT
    }

    /// Where input waits to be written to.
    pub(super) fn waiting_input(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.terminal.as_ref().or(self.stdin.as_ref())?;
        (!self.input.is_empty()).then(|| fd.as_fd())
    }

    /// Writes what the process can take now.
    pub(super) fn push_input(&mut self) {
        while !self.input.is_empty() {
            let Some(fd) = self.terminal.as_ref().or(self.stdin.as_ref()) else {
                break;
            };
            match rustix::io::write(fd, self.input.as_slices().0) {
                Ok(n) => drop(self.input.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // The process has closed it.
                    self.stdin = None;
                    break;
                }
            }
        }
        self.input = VecDeque::new();
        if self.input_ends {
            self.stdin = None;
        }
    }

    /// The terminal's new size.
    pub(super) fn resize(&self, size: WindowSize) -> Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        let size = rustix::termios::Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| Error::io("set the size of the container's terminal", e))
    }

    /// Its client has gone: a terminal hangs up (its process gets SIGHUP), without one its input ends.
    pub(super) fn hang_up(&mut self) {
        self.terminal = None;
        self.end_input();
    }

    /// Closes everything.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    fn has_input(&self) -> bool {
        self.terminal.is_some() || self.stdin.is_some()
    }
}

fn other_side(master: &OwnedFd) -> Result<OwnedFd> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    ioctl_tiocgptpeer(master, flags).map_err(|e| Error::io("open the container's terminal", e))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC)
        .map_err(|e| Error::io("make a pipe for the container's streams", e))
}

fn unblock(fd: &OwnedFd) -> Result<()> {
    rustix::io::ioctl_fionbio(fd, true)
        .map_err(|e| Error::io("make one of the container's streams non-blocking", e))
}
