//! What clients ask of the shim, and what it answers.

use super::super::client::Role;
use super::super::execs::{Exec, Wanted, not_running};
use super::super::files::{self, Ending, Started};
use super::super::protocol::{Failure, FromShim, Kill, Open, Phase, Purpose, Resize, ToShim};
use super::super::streams::Streams;
use super::super::{kernel, read_spec};
use super::{DRAIN, Keeper, Progress};
use crate::{Error, Result};
use rustix::event::PollFlags;
use std::{collections::VecDeque, io, os::fd::AsFd, time::Instant};
use swarm_api::model::ExitStatus;

impl Keeper {
    pub(super) fn serve_client(&mut self, id: u64, ready: PollFlags, buffer: &mut [u8]) {
        let Some(index) = self.clients.iter().position(|c| c.id == id) else {
            return;
        };
        let client = &mut self.clients[index];
        if ready.contains(PollFlags::OUT) {
            client.flush();
        }
        if !ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        client.receive(buffer);
        let mut requests = VecDeque::new();
        loop {
            match client.next() {
                Ok(Some(request)) => requests.push_back(request),
                Ok(None) => break,
                Err(error) => {
                    client.say(&FromShim::Failed(Failure::from(&error)));
                    // What a newer agent wants of an older shim is refused; bytes that are no frames end it.
                    if !matches!(error, Error::Unsupported(_)) {
                        client.drop_it();
                        break;
                    }
                }
            }
        }
        for request in requests {
            self.request(index, request);
        }
    }

    fn request(&mut self, index: usize, request: ToShim) {
        let role = self.clients[index].role;
        let done = match (request, role) {
            (ToShim::Open(open), Role::New) => {
                let answer = match self.open(index, open) {
                    Ok(exec) => FromShim::Opened(self.opened(exec)),
                    Err(error) => FromShim::Failed(Failure::from(&error)),
                };
                return self.clients[index].say(&answer);
            }
            (ToShim::Start, Role::Control) => self.start(),
            (ToShim::Kill(kill), Role::Control) => self.kill(kill),
            (ToShim::Resize(resize), Role::Control) => self.resize(resize),
            (ToShim::Shutdown, Role::Control) => self.shutdown(),
            (ToShim::Stdin(data), _) => return self.input(role, |streams| streams.feed(&data)),
            (ToShim::CloseStdin, _) => return self.input(role, Streams::end_input),
            (ToShim::Progress, _) => return,
            (ToShim::Open(_), _) => {
                Err(Error::Invalid("the connection is open already".to_owned()))
            }
            (_, _) => Err(Error::Invalid(
                "the connection is not one for control".to_owned(),
            )),
        };
        let answer = match done {
            Ok(()) => FromShim::Done,
            Err(error) => FromShim::Failed(Failure::from(&error)),
        };
        self.clients[index].say(&answer);
    }

    fn open(&mut self, index: usize, open: Open) -> Result<Option<u64>> {
        match open.purpose {
            Purpose::Control => self.clients[index].role = Role::Control,
            Purpose::Follow => {
                self.must_be_alive("its log be followed")?;
                self.clients[index].role = Role::Follow;
            }
            Purpose::Attach { size } => {
                self.must_be_alive("it be attached to")?;
                if let Some(size) = size {
                    self.streams.resize(size)?;
                }
                self.clients[index].role = Role::Attach;
            }
            Purpose::Exec {
                process,
                stdin,
                size,
            } => {
                match self.phase() {
                    Phase::Running { .. } if matches!(self.progress, Progress::Alive) => {}
                    Phase::Created { .. } => {
                        return Err(not_running(self.id(), "has not been started"));
                    }
                    _ => return Err(not_running(self.id(), "has ended")),
                }
                let id = self.number();
                let spec = read_spec(&self.dir)?;
                let exec = Exec::new(
                    id,
                    &Wanted {
                        init: self.container.pid(),
                        spec: &spec,
                        cgroup: self.container.cgroup(),
                        process: &process,
                        stdin,
                        size,
                    },
                )?;
                drop((spec, process));
                kernel::trim_memory();
                self.execs.push(exec);
                self.clients[index].role = Role::Exec(id);
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn id(&self) -> &str {
        self.dir
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
    }

    fn must_be_alive(&self, what: &str) -> Result<()> {
        match self.progress {
            Progress::Ended { .. } => {
                let id = self.id();
                Err(Error::Conflict(format!(
                    "container {id} has ended; no more can {what}"
                )))
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self) -> Result<()> {
        let id = self.id();
        if !matches!(self.progress, Progress::Alive) {
            return Err(Error::Conflict(format!(
                "container {id} cannot be started: it has ended"
            )));
        }
        if self.started_at.is_some() {
            return Err(Error::Conflict(format!(
                "container {id} was started already"
            )));
        }
        if let Err(error) = self.container.start() {
            self.start_failed(&error);
            return Err(error);
        }
        let at = files::now();
        self.started_at = Some(at);
        // Without it only the time would be missing, should the shim be killed.
        let _ = files::write(&self.dir.join(files::STARTED), &Started { at });
        let phase = self.phase();
        for client in self.clients.iter_mut().filter(|c| c.role == Role::Control) {
            client.say(&FromShim::State(phase.clone()));
        }
        Ok(())
    }

    /// The exit codes are a shell's: 127 where the program is not there, 126 where it cannot be run.
    fn start_failed(&mut self, error: &Error) {
        let missing = matches!(error, Error::NotFound(_))
            || matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        self.progress = Progress::Draining {
            ending: Ending {
                exit: ExitStatus {
                    code: if missing { 127 } else { 126 },
                    ..ExitStatus::default()
                },
                started_at: None,
                finished_at: files::now(),
                message: error.to_string(),
            },
            until: Instant::now() + DRAIN,
        };
        let _ = self.shutdown();
    }

    fn kill(&mut self, kill: Kill) -> Result<()> {
        let id = self.id();
        let ended = || {
            Error::Conflict(format!(
                "the process in container {id} has ended; no signal can be sent to it"
            ))
        };
        let process = match kill.exec {
            None => match self.progress {
                Progress::Alive => self.container.pidfd(),
                _ => return Err(ended()),
            },
            Some(exec) => match self.execs.iter().find(|e| e.id == exec) {
                Some(exec) if !exec.has_ended() => exec.pidfd(),
                _ => return Err(ended()),
            },
        };
        kernel::send(process, kill.signal)
            .map_err(|e| Error::io(format!("send signal {} to container {id}", kill.signal), e))
    }

    fn resize(&mut self, resize: Resize) -> Result<()> {
        match resize.exec {
            None => self.streams.resize(resize.size),
            Some(id) => match self.execs.iter().find(|e| e.id == id) {
                Some(exec) => exec.streams.resize(resize.size),
                None => Ok(()),
            },
        }
    }

    fn shutdown(&mut self) -> Result<()> {
        if let Progress::Ended { collected, .. } = &mut self.progress {
            *collected = true;
            return Ok(());
        }
        // Both, since the one may not know of a process that the other does.
        let _ = kernel::send(self.container.pidfd().as_fd(), libc::SIGKILL);
        self.container.cgroup().signal_all(libc::SIGKILL)
    }

    fn input(&mut self, role: Role, give: impl FnOnce(&mut Streams)) {
        match role {
            Role::Attach => give(&mut self.streams),
            Role::Exec(id) => {
                if let Some(exec) = self.execs.iter_mut().find(|e| e.id == id) {
                    give(&mut exec.streams);
                }
            }
            Role::New | Role::Control | Role::Follow => {}
        }
    }
}
