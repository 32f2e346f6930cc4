//! The shim's loop: what it waits for, and what it does when that comes.

mod requests;

use super::Made;
use super::client::{Client, Role};
use super::execs::Exec;
use super::files::{self, Ending};
use super::log::LogWriter;
use super::protocol::{self, FromShim, Opened, Phase};
use super::streams::{Read, Streams};
use crate::container::Created;
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use swarm_api::backend::LogStream;
use swarm_api::model::{ExitStatus, Timestamp};

/// How long a client may take nothing and give no sign of life while the container waits for it.
const STALL: Duration = Duration::from_secs(30);

/// How long output is awaited after the container's end, should a process outside of it hold the pipe.
const DRAIN: Duration = Duration::from_secs(1);

/// What one read takes. It is memory that stays in use.
const BUFFER: usize = 16 << 10;

/// One container, and everybody who is connected.
pub(super) struct Keeper {
    dir: PathBuf,
    container: Created,
    streams: Streams,
    log: LogWriter,
    wake: OwnedFd,
    listener: OwnedFd,
    clients: Vec<Client>,
    execs: Vec<Exec>,
    next: u64,
    started_at: Option<Timestamp>,
    oom_kills: u64,
    progress: Progress,
}

enum Progress {
    Alive,
    /// It ended, and what it left in the pipes is read.
    Draining {
        ending: Ending,
        until: Instant,
    },
    Ended {
        ending: Ending,
        /// Where its end could not be written down, the shim stays until it was asked for it.
        collected: bool,
    },
}

/// What `poll` waits for.
#[derive(Clone, Copy)]
enum Source {
    Children,
    Listener,
    Client(u64),
    Output(LogStream),
    Input,
    ExecOutput(u64),
    ExecInput(u64),
}

impl Keeper {
    pub(super) fn new(dir: &Path, made: Made, wake: OwnedFd, listener: OwnedFd) -> Result<Self> {
        // Where the kernel does not count them they are not told.
        let oom_kills = made.container.cgroup().oom_kills().unwrap_or(0);
        Ok(Self {
            dir: dir.to_owned(),
            container: made.container,
            streams: made.streams,
            log: made.log,
            wake,
            listener,
            clients: Vec::new(),
            execs: Vec::new(),
            next: 1,
            started_at: None,
            oom_kills,
            progress: Progress::Alive,
        })
    }

    /// The answer to a granted `Open`.
    pub(super) fn opened(&self, exec: Option<u64>) -> Opened {
        Opened {
            version: protocol::VERSION,
            shim: rustix::process::getpid().as_raw_nonzero().get(),
            phase: self.phase(),
            log: self.log.position(),
            exec,
        }
    }

    /// Until all is over.
    pub(super) fn keep(&mut self, control: Client) -> Result<()> {
        self.clients.push(control);
        let mut buffer = vec![0; BUFFER];
        // A child may have ended before the first wait.
        self.collect_children();
        while !self.is_over() {
            for (source, ready) in self.wait()? {
                self.serve(source, ready, &mut buffer);
            }
            self.move_on(&mut buffer);
        }
        let _ = self.container.cgroup().remove();
        Ok(())
    }

    fn phase(&self) -> Phase {
        let pid = self.container.pid();
        match (&self.progress, self.started_at) {
            (Progress::Ended { ending, .. }, _) => Phase::Stopped(ending.clone()),
            (_, Some(started_at)) => Phase::Running { pid, started_at },
            (_, None) => Phase::Created { pid },
        }
    }

    fn is_over(&self) -> bool {
        matches!(
            self.progress,
            Progress::Ended {
                collected: true,
                ..
            }
        ) && self.execs.is_empty()
            && !self.clients.iter().any(Client::has_waiting)
    }

    /// Whether the container's output may be read: nobody who is attached is too far behind. When it has ended,
    /// what is left is at most a pipe full, and is read in any case.
    fn may_read(&self) -> bool {
        !matches!(self.progress, Progress::Alive)
            || !self
                .clients
                .iter()
                .any(|c| c.role == Role::Attach && c.is_behind())
    }

    fn wait(&self) -> Result<Vec<(Source, PollFlags)>> {
        let mut sources = vec![Source::Children, Source::Listener];
        let mut fds = vec![
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        if self.may_read() {
            for (stream, fd) in self.streams.outputs() {
                sources.push(Source::Output(stream));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        if let Some(fd) = self.streams.waiting_input() {
            sources.push(Source::Input);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
        for exec in &self.execs {
            if !self.client_of(exec.id).is_some_and(Client::is_behind) {
                for (_, fd) in exec.streams.outputs() {
                    sources.push(Source::ExecOutput(exec.id));
                    fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                }
            }
            if let Some(fd) = exec.streams.waiting_input() {
                sources.push(Source::ExecInput(exec.id));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            }
        }
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.takes_from(client));
            flags.set(PollFlags::OUT, client.has_waiting());
            sources.push(Source::Client(client.id));
            fds.push(PollFd::from_borrowed_fd(client.fd(), flags));
        }
        let timeout = self.timeout().and_then(|t| Timespec::try_from(t).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("wait for the container", e)),
        }
        let ready = fds.iter().map(PollFd::revents);
        Ok(sources
            .into_iter()
            .zip(ready)
            .filter(|(_, ready)| !ready.is_empty())
            .collect())
    }

    /// None while nothing but an event can change anything, which is always so when nobody is behind.
    fn timeout(&self) -> Option<Duration> {
        let drain = match &self.progress {
            Progress::Draining { until, .. } => {
                Some(until.saturating_duration_since(Instant::now()))
            }
            _ => None,
        };
        let stalls = self
            .clients
            .iter()
            .filter(|c| self.can_stall(c))
            .map(|c| STALL.saturating_sub(c.still_for()));
        stalls.chain(drain).min()
    }

    fn can_stall(&self, client: &Client) -> bool {
        match self.progress {
            Progress::Alive => client.role == Role::Attach && client.is_behind(),
            _ => client.has_waiting(),
        }
    }

    fn takes_from(&self, client: &Client) -> bool {
        match client.role {
            Role::New | Role::Control | Role::Follow => true,
            Role::Attach => self.streams.takes_input(),
            Role::Exec(id) => self
                .execs
                .iter()
                .find(|e| e.id == id)
                .is_none_or(|e| e.streams.takes_input()),
        }
    }

    fn client_of(&self, exec: u64) -> Option<&Client> {
        self.clients.iter().find(|c| c.role == Role::Exec(exec))
    }

    fn serve(&mut self, source: Source, ready: PollFlags, buffer: &mut [u8]) {
        match source {
            Source::Children => {
                let mut count = [0; 8];
                let _ = rustix::io::read(&self.wake, &mut count);
                self.collect_children();
            }
            Source::Listener => self.accept(),
            Source::Output(stream) => {
                self.carry(stream, buffer);
            }
            Source::Input => self.streams.push_input(),
            Source::ExecOutput(id) => self.carry_exec(id, buffer),
            Source::ExecInput(id) => {
                if let Some(exec) = self.execs.iter_mut().find(|e| e.id == id) {
                    exec.streams.push_input();
                }
            }
            Source::Client(id) => self.serve_client(id, ready, buffer),
        }
    }

    /// What follows from what was just served.
    fn move_on(&mut self, buffer: &mut [u8]) {
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if self.can_stall(client) && client.still_for() >= STALL {
                self.clients[index].drop_it();
            }
        }
        let ended: Vec<u64> = self
            .execs
            .iter()
            .filter(|e| e.has_ended())
            .map(|e| e.id)
            .collect();
        for id in ended {
            self.carry_exec(id, buffer);
        }
        if let Progress::Draining { until, .. } = &self.progress
            && (self.streams.outputs().next().is_none() || Instant::now() >= *until)
        {
            self.end();
        }
        // An exec'd process goes on without its client; a terminal hangs up.
        let execs = &mut self.execs;
        self.clients.retain(|client| {
            if let (true, Role::Exec(id)) = (client.is_gone(), client.role)
                && let Some(exec) = execs.iter_mut().find(|e| e.id == id)
            {
                exec.streams.hang_up();
            }
            !client.is_gone()
        });
    }

    fn accept(&mut self) {
        use rustix::net::{SocketFlags, accept_with};
        while let Ok(socket) =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            let id = self.number();
            self.clients.push(Client::new(id, Role::New, socket));
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Output of the container goes to the log, and to all who are attached.
    fn carry(&mut self, stream: LogStream, buffer: &mut [u8]) -> bool {
        let Read::Bytes(n) = self.streams.read(stream, buffer) else {
            return false;
        };
        let data = &buffer[..n];
        self.log.append(files::now(), stream, data);
        for client in &mut self.clients {
            match client.role {
                Role::Attach => client.say_output(stream, data),
                // One notice that waits is enough.
                Role::Follow if !client.has_waiting() => client.say(&FromShim::Grown),
                _ => {}
            }
        }
        true
    }

    fn carry_exec(&mut self, id: u64, buffer: &mut [u8]) {
        let Some(index) = self.execs.iter().position(|e| e.id == id) else {
            return;
        };
        let client = self
            .clients
            .iter_mut()
            .find(|c| c.role == Role::Exec(id) && !c.is_gone());
        if self.execs[index].carry(client, buffer) {
            self.execs.swap_remove(index);
        }
    }

    fn collect_children(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.child_ended(pid.as_raw_nonzero().get(), status),
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn child_ended(&mut self, pid: i32, status: WaitStatus) {
        let signal = status.terminating_signal();
        let exit = ExitStatus {
            code: signal.map_or_else(|| status.exit_status().unwrap_or(-1), |s| 128 + s),
            signal,
            oom_killed: false,
        };
        if pid != self.container.pid() {
            if let Some(exec) = self.execs.iter_mut().find(|e| e.pid() == pid) {
                exec.ended(exit);
            }
            return;
        }
        // It has ended; nothing of it may go on.
        self.streams.let_go();
        let cgroup = self.container.cgroup();
        let oom_killed = cgroup.oom_kills().is_ok_and(|kills| kills > self.oom_kills);
        let _ = cgroup.signal_all(libc::SIGKILL);
        if let Progress::Alive = self.progress {
            self.progress = Progress::Draining {
                ending: Ending {
                    exit: ExitStatus { oom_killed, ..exit },
                    started_at: self.started_at,
                    finished_at: files::now(),
                    message: String::new(),
                },
                until: Instant::now() + DRAIN,
            };
        } else if let Progress::Draining { ending, .. } = &mut self.progress {
            // Its start had failed, and its end is what was awaited.
            ending.finished_at = files::now();
        }
    }

    /// All output was read: the end is written down, and then told.
    fn end(&mut self) {
        let Progress::Draining { ending, .. } = &self.progress else {
            return;
        };
        let ending = ending.clone();
        self.streams.close();
        let written = files::write(&self.dir.join(files::ENDING), &ending);
        self.progress = Progress::Ended {
            ending: ending.clone(),
            collected: written.is_ok(),
        };
        for client in &mut self.clients {
            match client.role {
                Role::Control => client.say(&FromShim::State(Phase::Stopped(ending.clone()))),
                Role::Attach | Role::Follow => client.say(&FromShim::Exit(ending.exit)),
                Role::New | Role::Exec(_) => {}
            }
        }
    }
}
