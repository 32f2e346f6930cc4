//! Waiting for a container's process in the foreground: signals go on to it, and its terminal to the caller's.

use nix::sys::{
    signal::SigSet,
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid},
    pty::{OpenptFlags, ioctl_tiocgptpeer},
    termios::{
        OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};
use std::os::fd::{AsFd, OwnedFd};
use swarm_runtime::{Error, Result, container::WindowSize};

/// Signals to this process, held back.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Holds back all of them from now on.
    pub(crate) fn block() -> Result<Self> {
        let all = SigSet::all();
        all.thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map(Self)
            .map_err(|e| Error::io("hold back signals", e))
    }

    fn next(&self) -> Result<Option<i32>> {
        let read = self.0.read_signal();
        let read = read.map_err(|e| Error::io("read which signal came", e))?;
        Ok(read.and_then(|signal| i32::try_from(signal.ssi_signo).ok()))
    }
}

/// The size of the caller's terminal, where it has one.
pub(crate) fn size() -> Option<WindowSize> {
    let size = tcgetwinsize(rustix::stdio::stdin()).ok()?;
    crate::create::window(size.ws_row.into(), size.ws_col.into())
}

/// Waits for a child to end, and nothing more.
pub(crate) fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    }
}

/// Waits for a child to end; signals to this process go on to it. With a terminal the caller's standard streams are its other end.
/// Returns the exit code; 128 and the signal's number if one ended it.
pub(crate) fn wait(pid: i32, terminal: Option<OwnedFd>, signals: Signals) -> Result<u8> {
    let child =
        Pid::from_raw(pid).ok_or_else(|| Error::Internal("there is no process".to_owned()))?;
    let mut relay = terminal.map(Relay::new).transpose()?;
    loop {
        let (of_terminal, of_input) = wait_for_events(&signals.0, relay.as_ref())?;
        if let Some(relay) = &mut relay {
            relay.carry(of_terminal, of_input);
        }
        while let Some(signal) = signals.next()? {
            match signal {
                libc::SIGCHLD => {
                    if let Some(code) = ended(child)? {
                        if let Some(relay) = &mut relay {
                            relay.drain();
                        }
                        return Ok(code);
                    }
                }
                libc::SIGWINCH if relay.is_some() => {
                    if let Some(relay) = &relay {
                        relay.resize();
                    }
                }
                // The terminal's own business, or a matter of this process alone.
                libc::SIGPIPE | libc::SIGURG | libc::SIGTTIN | libc::SIGTTOU => {}
                other => {
                    if let Some(signal) = Signal::from_named_raw(other) {
                        let _ = kill_process(child, signal);
                    }
                }
            }
        }
    }
}

fn ended(child: Pid) -> Result<Option<u8>> {
    // Others may have ended too: they are not waited for, this program ends soon.
    let status = waitpid(Some(child), WaitOptions::NOHANG)
        .map_err(|e| Error::io("wait for the container's process", e))?;
    Ok(status.map(|(_, status)| code(status)))
}

fn code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(255)
}

fn wait_for_events(signals: &SignalFd, relay: Option<&Relay>) -> Result<(bool, bool)> {
    let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
    let stdin = rustix::stdio::stdin();
    if let Some(relay) = relay {
        fds.push(PollFd::new(&relay.master, PollFlags::IN));
        if relay.input {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
    }
    rustix::io::retry_on_intr(|| poll(&mut fds, None))
        .map_err(|e| Error::io("wait for the container", e))?;
    let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
    Ok((ready(1), ready(2)))
}

/// The caller's terminal and the container's, joined. The caller's is put back as it was when this is dropped.
#[derive(Debug)]
struct Relay {
    master: OwnedFd,
    /// The terminal's other side, kept open: it is there while nobody in the container uses it, as an init's console.
    other_side: Option<OwnedFd>,
    /// Whether there is still something to read for the container.
    input: bool,
    before: Option<Termios>,
}

impl Relay {
    fn new(master: OwnedFd) -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        let failed = |e| Error::io("set the terminal to raw mode", e);
        let mut before = None;
        if isatty(stdin) {
            let mut mode = tcgetattr(stdin).map_err(failed)?;
            before = Some(mode.clone());
            mode.make_raw();
            tcsetattr(stdin, OptionalActions::Now, &mode).map_err(failed)?;
        }
        Ok(Self {
            other_side: other_side(&master),
            master,
            input: true,
            before,
        })
    }

    fn carry(&mut self, of_terminal: bool, of_input: bool) {
        let mut buffer = [0u8; 16 * 1024];
        if of_terminal {
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(length) => write_all(
                    rustix::stdio::stdout(),
                    buffer.get(..length).unwrap_or_default(),
                ),
                // Somebody has hung it up (vhangup(2)).
                Err(_) => self.other_side = other_side(&self.master),
            }
        }
        if of_input {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(length) if length > 0 => {
                    write_all(&self.master, buffer.get(..length).unwrap_or_default());
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                _ => {
                    self.input = false;
                    // The end of a file is the end of a terminal's input.
                    write_all(&self.master, &[4]);
                }
            }
        }
    }

    /// What was still written before the end.
    fn drain(&mut self) {
        let _ = rustix::fs::fcntl_getfl(&self.master)
            .and_then(|flags| rustix::fs::fcntl_setfl(&self.master, flags | OFlags::NONBLOCK));
        let mut buffer = [0u8; 16 * 1024];
        while let Ok(length) = rustix::io::read(&self.master, &mut buffer) {
            if length == 0 {
                break;
            }
            write_all(
                rustix::stdio::stdout(),
                buffer.get(..length).unwrap_or_default(),
            );
        }
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let size: Winsize = size;
            let _ = tcsetwinsize(&self.master, size);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

fn other_side(master: &OwnedFd) -> Option<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    ioctl_tiocgptpeer(master, flags).ok()
}

fn write_all(to: impl AsFd, mut data: &[u8]) {
    while !data.is_empty() {
        match rustix::io::write(&to, data) {
            Ok(written) => data = data.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
