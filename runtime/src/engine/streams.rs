//! A process's streams over a connection to its shim: input pumped in, output given as it is asked for, so that
//! a reader who is slow slows the process and loses nothing.

use super::cleanup::blocking;
use super::connection::{self, Reader, Writer};
use super::container::Container;
use super::logs::Cursor;
use super::types::ContainerState;
use crate::shim::log::Entry;
use crate::shim::protocol::{FromShim, Kill, Purpose, Resize, ToShim};
use crate::{Error, Result};
use futures_util::StreamExt;
use oci_spec::runtime::Process;
use std::{collections::VecDeque, sync::Arc};
use swarm_api::BoxStream;
use swarm_api::backend::{AttachOptions, Input, LogStream, Output, WindowSize};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

type OutputStream = BoxStream<swarm_api::Result<Output>>;

struct Live {
    container: Arc<Container>,
    /// What was put out before, until it is read.
    replay: Option<Cursor>,
    ready: VecDeque<Output>,
    connection: Option<Connection>,
    exec: bool,
    finished: bool,
}

struct Connection {
    reader: Reader,
    writer: Arc<Mutex<Writer>>,
    _input: AbortOnDropHandle<()>,
}

/// Joins the streams of the container's first process.
pub(super) async fn attach(
    container: Arc<Container>,
    options: AttachOptions,
    input: BoxStream<Input>,
) -> Result<OutputStream> {
    let mut replay = None;
    if options.replay {
        // Opened before the connection: what is rotated away meanwhile can still be read.
        let dir = container.shared.dir.clone();
        let cursor = move || {
            Cursor::open(&dir)
                .map_err(|e| Error::io(format!("read the log in {}", dir.display()), e))
        };
        replay = Some(blocking(cursor).await?);
    }
    let size = options.size;
    let opened = open(&container, Purpose::Attach { size }).await?;
    let connection = match opened {
        Some((opened, reader, writer)) => {
            if let Some(replay) = &mut replay {
                replay.until(opened.log);
            }
            Some(Connection::new(&container, None, reader, writer, input))
        }
        None if replay.is_some() => None,
        None => {
            return Err(Error::Conflict(format!(
                "container {} has ended; it cannot be attached to",
                container.id()
            )));
        }
    };
    Ok(Live::new(container, replay, connection, false).stream())
}

/// Runs a further process and joins its streams.
pub(super) async fn exec(
    container: Arc<Container>,
    process: &Process,
    stdin: bool,
    size: Option<WindowSize>,
    input: BoxStream<Input>,
) -> Result<OutputStream> {
    let purpose = Purpose::Exec {
        process: Box::new(process.clone()),
        stdin,
        size,
    };
    let Some((opened, reader, writer)) = open(&container, purpose).await? else {
        return Err(Error::Conflict(format!(
            "nothing can be run in container {}: it has ended",
            container.id()
        )));
    };
    let connection = Connection::new(&container, opened.exec, reader, writer, input);
    Ok(Live::new(container, None, Some(connection), true).stream())
}

/// A connection for `purpose`; none where the container has ended.
async fn open(
    container: &Container,
    purpose: Purpose,
) -> Result<Option<(crate::shim::protocol::Opened, Reader, Writer)>> {
    if container.state().is_stopped() {
        return Ok(None);
    }
    let opened = match connection::connect(&container.shared.run).await? {
        Some(stream) => connection::open(stream, purpose).await,
        None => Ok(None),
    };
    match opened {
        Ok(Some(opened)) => Ok(Some(opened)),
        // The shim is about to end, or has: what it wrote down is told over the other connection, soon.
        Ok(None) => {
            container.shared.stopped().await;
            Ok(None)
        }
        Err(error) => {
            if matches!(error, Error::Conflict(_)) && has_just_ended(container).await {
                return Ok(None);
            }
            Err(error)
        }
    }
}

/// Whether a refusal was because of an end that is not known here yet: the shim answers the other connection in
/// order, so that an answer there comes after the news.
async fn has_just_ended(container: &Container) -> bool {
    let _ = container
        .request(ToShim::Kill(Kill {
            signal: 0,
            exec: None,
        }))
        .await;
    container.state().is_stopped()
}

impl Connection {
    fn new(
        container: &Arc<Container>,
        exec: Option<u64>,
        reader: Reader,
        writer: Writer,
        input: BoxStream<Input>,
    ) -> Self {
        let writer = Arc::new(Mutex::new(writer));
        let pump = pump(container.clone(), exec, writer.clone(), input);
        Self {
            reader,
            writer,
            _input: AbortOnDropHandle::new(tokio::spawn(pump)),
        }
    }
}

/// Carries input to the process. Signals and sizes go over the engine's own connection, where bytes that the
/// process does not read are not in their way.
async fn pump(
    container: Arc<Container>,
    exec: Option<u64>,
    writer: Arc<Mutex<Writer>>,
    mut input: BoxStream<Input>,
) {
    while let Some(input) = input.next().await {
        let sent = match input {
            Input::Stdin(data) => writer.lock().await.send_stdin(&data).await,
            Input::CloseStdin => writer.lock().await.send(&ToShim::CloseStdin).await,
            Input::Resize(size) => {
                container
                    .request(ToShim::Resize(Resize { size, exec }))
                    .await
            }
            Input::Signal(signal) => container.request(ToShim::Kill(Kill { signal, exec })).await,
        };
        if let Err(error) = sent {
            tracing::debug!(container = container.id(), %error, "input was not taken");
        }
    }
}

impl Live {
    fn new(
        container: Arc<Container>,
        replay: Option<Cursor>,
        connection: Option<Connection>,
        exec: bool,
    ) -> Self {
        Self {
            container,
            replay,
            ready: VecDeque::new(),
            connection,
            exec,
            finished: false,
        }
    }

    fn stream(self) -> OutputStream {
        futures_util::stream::unfold(self, |mut live| async move {
            let item = live.next().await.transpose()?;
            if matches!(item, Err(_) | Ok(Output::Exit(_))) {
                live.finished = true;
                live.connection = None;
            }
            Some((item.map_err(Into::into), live))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Output>> {
        if self.finished {
            return Ok(None);
        }
        loop {
            if let Some(output) = self.ready.pop_front() {
                return Ok(Some(output));
            }
            if self.replay.is_some() {
                self.read_replay().await?;
                continue;
            }
            let Some(connection) = &mut self.connection else {
                return Ok(Some(Output::Exit(self.exit().await?)));
            };
            match connection.reader.next().await? {
                Some(FromShim::Output(stream, data)) => return Ok(Some(output(stream, data))),
                Some(FromShim::Exit(exit)) => return Ok(Some(Output::Exit(exit))),
                Some(_) => {}
                None => return Ok(Some(Output::Exit(self.exit().await?))),
            }
        }
    }

    /// Reads some of what was put out before. The shim hears that its client lives meanwhile.
    async fn read_replay(&mut self) -> Result<()> {
        let Some(mut cursor) = self.replay.take() else {
            return Ok(());
        };
        if let Some(connection) = &self.connection
            && let Ok(mut writer) = connection.writer.try_lock()
        {
            // Its end shows when it is read.
            let _ = writer.send(&ToShim::Progress).await;
        }
        let id = self.container.id().to_owned();
        let (cursor, entries) = blocking(move || {
            let entries = cursor
                .read()
                .map_err(|e| Error::io(format!("read the log of container {id}"), e))?;
            Ok((cursor, entries))
        })
        .await?;
        if entries.is_empty() {
            return Ok(());
        }
        self.replay = Some(cursor);
        for entry in entries {
            if let Entry::Output(record) = entry {
                self.ready.push_back(output(record.stream, record.data));
            }
        }
        Ok(())
    }

    /// How the process ended, where the connection did not say: the container has ended, the shim was killed, or
    /// it has cut this client off.
    async fn exit(&self) -> Result<swarm_api::model::ExitStatus> {
        let id = self.container.id();
        let alive = ToShim::Kill(Kill {
            signal: 0,
            exec: None,
        });
        let alive = self.connection.is_some() && self.container.request(alive).await.is_ok();
        if alive && !self.container.state().is_stopped() {
            return Err(Error::Conflict(format!(
                "nothing of container {id}'s output was taken for too long, so that it was cut off; attach again"
            )));
        }
        match self.container.shared.stopped().await {
            ContainerState::Stopped { exit, .. } if !self.exec => Ok(exit),
            _ => Err(Error::Conflict(format!(
                "container {id} ended while a process was run in it, and how that ended is not known"
            ))),
        }
    }
}

fn output(stream: LogStream, data: Vec<u8>) -> Output {
    match stream {
        LogStream::Stdout => Output::Stdout(data.into()),
        LogStream::Stderr => Output::Stderr(data.into()),
    }
}
