//! A container's log as a stream of lines. Follows it by the shim's notices, so that waiting costs nothing.

mod cursor;
mod lines;
#[cfg(test)]
mod tests;

use super::cleanup::blocking;
use super::connection::{self, Reader, Writer};
use super::container::Container;
use crate::shim::protocol::{FromShim, Purpose};
use crate::{Error, Result};
use bytes::Bytes;
use futures_util::StreamExt;
use lines::{Line, Lines};
use std::{collections::VecDeque, path::PathBuf, sync::Arc};
use swarm_api::BoxStream;
use swarm_api::backend::{LogOptions, LogStream};
use swarm_api::model::Timestamp;

pub(super) use cursor::Cursor;

/// What a log's stream is made of.
pub(super) type LogItem = swarm_api::Result<(Timestamp, LogStream, Bytes)>;

struct Reading {
    dir: PathBuf,
    cursor: Option<Cursor>,
    lines: Lines,
    ready: VecDeque<Line>,
    /// Lines that begin before this one are too many for `tail`.
    first: u64,
    since: Timestamp,
    /// The connection that tells of more; the writing half only holds it open.
    notices: Option<(Reader, Writer)>,
    finished: bool,
}

/// The log of `container`.
pub(super) async fn logs(
    container: Arc<Container>,
    options: LogOptions,
) -> Result<BoxStream<LogItem>> {
    let notices = if options.follow && !container.state().is_stopped() {
        follow(&container).await?
    } else {
        None
    };
    let dir = container.shared.dir.clone();
    let of = dir.clone();
    let (cursor, first) = blocking(move || {
        let read = || -> std::io::Result<(Cursor, u64)> {
            let mut cursor = Cursor::open(&of)?;
            let first = match options.tail {
                Some(lines) => cursor.go_to_tail(lines)?,
                None => 0,
            };
            Ok((cursor, first))
        };
        read().map_err(|e| unreadable(&of, e))
    })
    .await?;
    let reading = Reading {
        dir,
        cursor: Some(cursor),
        lines: Lines::default(),
        ready: VecDeque::new(),
        first,
        since: options.since.unwrap_or_default(),
        notices,
        finished: false,
    };
    let stream = futures_util::stream::unfold(reading, |mut reading| async move {
        let item = reading.next().await.transpose()?;
        if item.is_err() {
            reading.finished = true;
        }
        Some((item.map_err(Into::into), reading))
    });
    Ok(stream.boxed())
}

/// A connection that tells when the log has grown; none where the container has just ended.
async fn follow(container: &Container) -> Result<Option<(Reader, Writer)>> {
    let Some(stream) = connection::connect(&container.shared.run).await? else {
        return Ok(None);
    };
    match connection::open(stream, Purpose::Follow).await {
        Ok(opened) => Ok(opened.map(|(_, reader, writer)| (reader, writer))),
        Err(Error::Conflict(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unreadable(dir: &std::path::Path, error: std::io::Error) -> Error {
    Error::io(format!("read the log in {}", dir.display()), error)
}

impl Reading {
    async fn next(&mut self) -> Result<Option<(Timestamp, LogStream, Bytes)>> {
        loop {
            while let Some(line) = self.ready.pop_front() {
                if line.number >= self.first && line.time >= self.since {
                    return Ok(Some((line.time, line.stream, line.data)));
                }
            }
            if self.finished {
                return Ok(None);
            }
            if self.read().await? {
                continue;
            }
            // All that is there now was read.
            let over = match &mut self.notices {
                None => true,
                Some((notices, _)) => loop {
                    match notices.next().await? {
                        Some(FromShim::Grown) => break false,
                        Some(FromShim::Exit(_)) | None => break true,
                        Some(_) => {}
                    }
                },
            };
            if over && self.notices.take().is_none() {
                self.finished = true;
                let mut last = Vec::new();
                self.lines.finish(&mut last);
                self.ready.extend(last);
            }
        }
    }

    /// Reads some; whether there was any.
    async fn read(&mut self) -> Result<bool> {
        let Some(mut cursor) = self.cursor.take() else {
            return Ok(false);
        };
        let dir = self.dir.clone();
        let (cursor, entries) = blocking(move || {
            let entries = cursor.read().map_err(|e| unreadable(&dir, e))?;
            Ok((cursor, entries))
        })
        .await?;
        self.cursor = Some(cursor);
        let mut lines = Vec::new();
        let any = !entries.is_empty();
        for entry in entries {
            self.lines.add(entry, &mut lines);
        }
        self.ready.extend(lines);
        Ok(any)
    }
}
