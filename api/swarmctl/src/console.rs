//! The user's side of a process's streams: what is typed, the window's size and signals go in; output comes out.

use crate::detach::DetachKeys;
use crate::terminal::{self, RawMode};
use crate::{failure, render};
use anyhow::Result;
use bytes::Bytes;
use futures_util::StreamExt;
use swarm_api::BoxStream;
use swarm_api::backend::{Input, Output};
use swarm_api::model::ExitStatus;
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const KILL: i32 = 9;
/// Bytes read from standard input at once.
const PIECE: usize = 32 << 10;
/// Inputs that may wait to be sent: what is typed faster waits in the kernel.
const WAITING: usize = 16;

/// What becomes of standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// It is not read.
    Ignored,
    /// It is passed on; its end too.
    Passed,
    /// It is passed on; its end is not.
    PassedOpen,
}

/// Why the streams are not followed any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process ended.
    Exit(ExitStatus),
    /// The user detached; the process goes on.
    Detached,
    /// swarmctl is to end by this signal.
    Signalled(i32),
    /// The streams ended without a word of the process's end.
    Silent,
}

/// Standard input, the signals and the terminal, in the hands of a process far away.
pub(crate) struct Console {
    inputs: mpsc::Sender<Input>,
    detached: mpsc::Receiver<()>,
    wants_raw: bool,
    raw: Option<RawMode>,
    signals: [(i32, Signal); 4],
    window: Signal,
    interrupts: u32,
}

impl Console {
    /// Takes them over. The terminal stays as it is until [`Console::follow`], so that ctrl-c ends a wait.
    pub(crate) fn open(tty: bool, stdin: Stdin) -> Result<(Self, BoxStream<Input>)> {
        let (inputs, receiver) = mpsc::channel(WAITING);
        let (detach, detached) = mpsc::channel(1);
        let take = |kind: SignalKind| -> Result<(i32, Signal)> {
            Ok((kind.as_raw_value(), signal(kind)?))
        };
        let signals = [
            take(SignalKind::interrupt())?,
            take(SignalKind::terminate())?,
            take(SignalKind::hangup())?,
            take(SignalKind::quit())?,
        ];
        let window = signal(SignalKind::window_change())?;
        let wants_raw = tty && stdin != Stdin::Ignored && terminal::has_input();
        if stdin != Stdin::Ignored {
            let keys = wants_raw.then(DetachKeys::default);
            let (inputs, close) = (inputs.clone(), stdin == Stdin::Passed);
            std::thread::Builder::new()
                .name("stdin".into())
                .spawn(move || read_input(keys, close, &inputs, &detach))?;
        }
        let console = Self {
            inputs,
            detached,
            wants_raw,
            raw: None,
            signals,
            window,
            interrupts: 0,
        };
        Ok((console, ReceiverStream::new(receiver).boxed()))
    }

    /// The process is there: with a terminal, every key is its own from now on, until the console is dropped.
    fn connected(&mut self) -> Result<()> {
        if self.wants_raw {
            self.raw = Some(RawMode::enter()?);
        }
        Ok(())
    }

    /// Waits for what the process cannot be told as input: a signal, or that the user detaches. A new window size is
    /// sent on. Safe to be cancelled.
    pub(crate) async fn interrupted(&mut self) -> End {
        let [int, term, hup, quit] = &mut self.signals;
        loop {
            tokio::select! {
                Some(()) = self.detached.recv() => return End::Detached,
                _ = int.1.recv() => return End::Signalled(int.0),
                _ = term.1.recv() => return End::Signalled(term.0),
                _ = hup.1.recv() => return End::Signalled(hup.0),
                _ = quit.1.recv() => return End::Signalled(quit.0),
                _ = self.window.recv() => {
                    if let Some(size) = terminal::size() {
                        let _ = self.inputs.try_send(Input::Resize(size));
                    }
                }
            }
        }
    }

    /// Writes what the process puts out, its terminal in raw mode, until it ends, or the user has enough of it.
    pub(crate) async fn follow(
        &mut self,
        output: &mut BoxStream<swarm_api::Result<Output>>,
    ) -> Result<End> {
        self.connected()?;
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        loop {
            let item = tokio::select! {
                item = output.next() => item,
                end = self.interrupted() => match self.pass_on(end) {
                    Some(end) => return Ok(end),
                    None => continue,
                },
            };
            match item.transpose()? {
                None => return Ok(End::Silent),
                Some(Output::Exit(status)) => return Ok(End::Exit(status)),
                Some(Output::Stdout(bytes)) => {
                    let written = async {
                        stdout.write_all(&bytes).await?;
                        stdout.flush().await
                    };
                    if let Some(end) = self.unless_interrupted(written).await? {
                        return Ok(end);
                    }
                }
                Some(Output::Stderr(bytes)) => {
                    let written = async {
                        stderr.write_all(&bytes).await?;
                        stderr.flush().await
                    };
                    if let Some(end) = self.unless_interrupted(written).await? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Finishes a write, which whoever reads our output may hold up for long, while signals still count.
    async fn unless_interrupted(
        &mut self,
        written: impl Future<Output = std::io::Result<()>>,
    ) -> Result<Option<End>> {
        tokio::pin!(written);
        loop {
            tokio::select! {
                done = &mut written => {
                    done?;
                    return Ok(None);
                }
                end = self.interrupted() => {
                    if let Some(end) = self.pass_on(end) {
                        return Ok(Some(end));
                    }
                }
            }
        }
    }

    /// A signal goes to the process; the second one kills it, the third one ends swarmctl. In raw mode ctrl-c is a
    /// key, so a signal is meant for swarmctl.
    fn pass_on(&mut self, end: End) -> Option<End> {
        let End::Signalled(number) = end else {
            return Some(end);
        };
        self.interrupts += 1;
        if self.raw.is_some() || self.interrupts > 2 {
            return Some(End::Signalled(number));
        }
        let sent = if self.interrupts == 2 {
            failure::say("killing it; once more to leave it alone");
            KILL
        } else {
            number
        };
        // Where the way is blocked, the next signal tries again.
        let _ = self.inputs.try_send(Input::Signal(sent));
        None
    }
}

/// Tells how a process ended, where the exit code does not say it.
pub(crate) fn explain(status: &ExitStatus) {
    if status.oom_killed {
        failure::say("the kernel killed it: it used more memory than its limit");
    }
}

/// The exit code of a command whose streams have ended so.
pub(crate) fn code(end: &End, what: &str) -> Result<i32> {
    match end {
        End::Exit(status) => {
            explain(status);
            Ok(status.code)
        }
        End::Detached => {
            failure::say(&format!("detached; {what} goes on"));
            Ok(0)
        }
        End::Signalled(number) => Ok(128 + number),
        End::Silent => anyhow::bail!(
            "the streams of {what} broke off at {}, and how it ended is not known",
            render::time(render::now())
        ),
    }
}

/// Reads standard input to its end. A thread of its own, because a read cannot be cancelled.
fn read_input(
    mut keys: Option<DetachKeys>,
    close: bool,
    inputs: &mpsc::Sender<Input>,
    detach: &mpsc::Sender<()>,
) {
    let mut piece = vec![0; PIECE];
    loop {
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut piece) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            // Nothing can be read any more, as at its end.
            Err(_) => 0,
        };
        if count == 0 {
            if close {
                let _ = inputs.blocking_send(Input::CloseStdin);
            }
            return;
        }
        let (typed, detached) = match &mut keys {
            Some(keys) => keys.filter(&piece[..count]),
            None => (piece[..count].to_vec(), false),
        };
        if !typed.is_empty()
            && inputs
                .blocking_send(Input::Stdin(Bytes::from(typed)))
                .is_err()
        {
            return;
        }
        if detached {
            let _ = detach.blocking_send(());
            return;
        }
    }
}
