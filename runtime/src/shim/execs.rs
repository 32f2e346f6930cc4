//! The further processes in a container. Each belongs to the connection that asked for it, and goes on without
//! it, unless it has a terminal.

use super::client::Client;
use super::streams::{Read, Streams};
use crate::container::{Cgroup, ExecTarget, Executed, exec};
use crate::shim::protocol::FromShim;
use crate::{Error, Result};
use oci_spec::runtime::{Process, Spec};
use std::os::fd::{AsFd, BorrowedFd};
use swarm_api::backend::{LogStream, WindowSize};
use swarm_api::model::ExitStatus;

/// One of them.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) id: u64,
    pub(super) streams: Streams,
    process: Executed,
    exit: Option<ExitStatus>,
}

/// What is wanted.
pub(super) struct Wanted<'a> {
    pub(super) init: i32,
    pub(super) spec: &'a Spec,
    pub(super) cgroup: &'a Cgroup,
    pub(super) process: &'a Process,
    pub(super) stdin: bool,
    pub(super) size: Option<WindowSize>,
}

impl Exec {
    pub(super) fn new(id: u64, wanted: &Wanted<'_>) -> Result<Self> {
        let terminal = wanted.process.terminal() == Some(true);
        let (stdio, mut streams) = Streams::new(terminal, wanted.stdin, wanted.size)?;
        let target = ExecTarget {
            pid: wanted.init,
            spec: wanted.spec,
            cgroup: wanted.cgroup,
        };
        let mut process = exec(&target, wanted.process, stdio)?;
        streams.adopt(process.terminal.take())?;
        Ok(Self {
            id,
            streams,
            process,
            exit: None,
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.exit.is_some()
    }

    /// Its process was collected.
    pub(super) fn ended(&mut self, exit: ExitStatus) {
        self.exit = Some(exit);
    }

    /// Carries output to its client, if it still has one, as far as that keeps up. Returns whether it is over:
    /// the process has ended and all that it put out was sent on.
    pub(super) fn carry(&mut self, client: Option<&mut Client>, buffer: &mut [u8]) -> bool {
        let mut client = client;
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            loop {
                if client.as_ref().is_some_and(|c| c.is_behind()) {
                    return false;
                }
                match self.streams.read(stream, buffer) {
                    Read::Bytes(n) => {
                        if let Some(client) = &mut client {
                            client.say_output(stream, &buffer[..n]);
                        }
                        // Others want their turn; but what a process left in the pipe goes at once.
                        if self.exit.is_none() {
                            break;
                        }
                    }
                    Read::Nothing | Read::Ended => break,
                }
            }
        }
        let Some(exit) = self.exit else { return false };
        if let Some(client) = client {
            client.say(&FromShim::Exit(exit));
        }
        self.streams.close();
        true
    }
}

/// A refusal to run anything in a container that does not run.
pub(super) fn not_running(id: &str, state: &str) -> Error {
    Error::Conflict(format!("nothing can be run in container {id}: it {state}"))
}
