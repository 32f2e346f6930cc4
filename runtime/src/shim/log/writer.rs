//! Writes a container's log. A disk that is full costs the log records, never the container its progress.

use super::{encode, encode_lost, file_name};
use crate::shim::protocol::Position;
use crate::{Error, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use swarm_api::backend::LogStream;
use swarm_api::model::Timestamp;

/// More than one record's line takes at most; what grew beyond it is given back.
const KEPT_BUFFER: usize = 32 << 10;

/// The log of one container, open for writing.
#[derive(Debug)]
pub(crate) struct LogWriter<S = Directory> {
    store: S,
    max_bytes: u64,
    position: Position,
    /// Per stream: whether the last record ended within a line.
    within: [bool; 2],
    lost: u64,
    buffer: Vec<u8>,
}

/// Where log files are. A seam for tests: a disk that is full.
pub(crate) trait Store {
    /// Begins the file of that number, and removes the one two before it.
    fn begin(&mut self, generation: u64) -> io::Result<()>;
    /// Appends to the file begun last.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file begun last after a failed `append`.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// Log files in a directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    file: Option<File>,
}

impl LogWriter<Directory> {
    /// A new log in `path`. A file is begun once it takes more than `max_bytes`.
    pub(crate) fn new(path: &Path, max_bytes: u64) -> Result<Self> {
        let store = Directory {
            path: path.to_owned(),
            file: None,
        };
        Self::with_store(store, max_bytes)
            .map_err(|e| Error::io(format!("begin a log in {}", path.display()), e))
    }
}

impl<S: Store> LogWriter<S> {
    pub(crate) fn with_store(mut store: S, max_bytes: u64) -> io::Result<Self> {
        store.begin(0)?;
        Ok(Self {
            store,
            max_bytes,
            position: Position::default(),
            within: [false; 2],
            lost: 0,
            buffer: Vec::new(),
        })
    }

    /// Where the next record will be.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Appends what was read from a stream. What cannot be written is counted, and told by the next record
    /// that can.
    pub(crate) fn append(&mut self, time: Timestamp, stream: LogStream, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let within = match stream {
            LogStream::Stdout => 0,
            LogStream::Stderr => 1,
        };
        self.buffer.clear();
        let continues = self.within[within] && self.lost == 0;
        let encoded = if self.lost > 0 {
            encode_lost(time, self.lost, &mut self.buffer)
        } else {
            Ok(())
        }
        .and_then(|()| encode(time, stream, data, continues, &mut self.buffer));
        if encoded.is_ok() && self.write().is_ok() {
            if self.lost > 0 {
                // What other streams had begun before the gap ends at it.
                self.within = [false; 2];
            }
            self.lost = 0;
            self.within[within] = data.last() != Some(&b'\n');
        } else {
            self.lost = self.lost.saturating_add(data.len() as u64);
        }
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
    }

    #[cfg(test)]
    pub(super) fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    fn write(&mut self) -> io::Result<()> {
        let length = self.buffer.len() as u64;
        if self.position.offset > 0 && self.position.offset + length > self.max_bytes {
            self.store.begin(self.position.generation + 1)?;
            self.position = Position {
                generation: self.position.generation + 1,
                offset: 0,
            };
        }
        if let Err(error) = self.store.append(&self.buffer) {
            // Half a record must not stay. If even that fails, the reader passes over what it cannot read.
            let _ = self.store.cut(self.position.offset);
            return Err(error);
        }
        self.position.offset += length;
        Ok(())
    }
}

impl Store for Directory {
    fn begin(&mut self, generation: u64) -> io::Result<()> {
        if let Some(old) = generation.checked_sub(2) {
            match fs::remove_file(self.path.join(file_name(old))) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let path = self.path.join(file_name(generation));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |f| f.set_len(length))
    }
}
