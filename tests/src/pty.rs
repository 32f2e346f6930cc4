//! A command on a terminal of its own, as a person would have it.

use crate::command;
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A command and the other end of its terminal. Dropping it kills the command.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Starts `command` as the leader of a session whose controlling terminal is a new one of this size. The helper
    /// `setsid` (util-linux) makes it so.
    ///
    /// # Errors
    /// Where there is no terminal to be had, or the command cannot be started.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Result<Self> {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // So that the command does not hold the other end of its own terminal.
        rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
        tcsetwinsize(&master, size(rows, columns))?;
        let mut session = Command::new("setsid");
        session
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm")
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave));
        let child = session
            .spawn()
            .with_context(|| format!("cannot start `{}`", command::line(&session)))?;
        drop(session);
        let master = File::from(master);
        let mut reader = master.try_clone()?;
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // EIO is how a terminal says that its last user is gone.
            while let Ok(n @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            master,
            child,
            screen,
            seen: String::new(),
        })
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Changes the window's size; the kernel sends SIGWINCH.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        Ok(tcsetwinsize(&self.master, size(rows, columns))?)
    }

    /// Waits until `text` is on the screen, and takes all up to it away.
    ///
    /// # Errors
    /// When it did not come within `limit`.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(e) => bail!(
                    "{text:?} did not come on the terminal ({e}); there is {:?}",
                    self.seen
                ),
            }
        }
    }

    /// Waits for the command's end and returns its exit code.
    ///
    /// # Errors
    /// When it did not end within `limit`.
    pub fn end(&mut self, limit: Duration) -> Result<i32> {
        match command::wait(&mut self.child, limit)? {
            Some(status) => Ok(status.code().unwrap_or(-1)),
            None => bail!(
                "the command did not end within {limit:?}; there is {:?}",
                self.seen
            ),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_a_real_terminal_and_its_resizes() {
        let limit = Duration::from_secs(10);
        let mut shell = Command::new("/bin/sh");
        // No trap for SIGWINCH: dash's `read` takes one that comes while it waits for the end of its input.
        shell.args(["-c", "tty; stty size; while read line; do echo got $line; stty size; [ $line = bye ] && exit 5; done"]);
        let mut terminal = Terminal::start(&shell, 30, 100).unwrap();
        terminal.expect("/dev/pts/", limit).unwrap();
        terminal.expect("30 100", limit).unwrap();
        terminal.resize(40, 90).unwrap();
        terminal.send("hello\r").unwrap();
        terminal.expect("got hello", limit).unwrap();
        terminal.expect("40 90", limit).unwrap();
        terminal.send("bye\r").unwrap();
        terminal.expect("got bye", limit).unwrap();
        assert_eq!(terminal.end(limit).unwrap(), 5);
    }
}
