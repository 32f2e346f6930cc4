//! One connection to a shim, asynchronously: frames in, frames out.

use crate::shim::files;
use crate::shim::protocol::{self, Decoder, FromShim, Message, Open, Opened, Purpose, ToShim};
use crate::{Error, Result};
use std::{io, os::fd::AsRawFd, path::Path};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// What comes from the shim.
#[derive(Debug)]
pub(super) struct Reader {
    half: OwnedReadHalf,
    decoder: Decoder,
}

/// What goes to it. The connection ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    half: OwnedWriteHalf,
    buffer: Vec<u8>,
}

/// A path to the socket in `run` that is short enough for an address, however long the directory's is: it goes
/// through the directory's descriptor, and is good while that is held.
pub(super) fn socket_path(run: &Path) -> io::Result<(std::fs::File, String)> {
    let dir = std::fs::File::open(run)?;
    let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), files::SOCKET);
    Ok((dir, path))
}

/// Connects to the shim whose socket is in `run`. Nothing where none listens there.
pub(super) async fn connect(run: &Path) -> Result<Option<UnixStream>> {
    let attempt = || format!("connect to the shim in {}", run.display());
    let connected = match socket_path(run) {
        Ok((_dir, path)) => UnixStream::connect(&path).await,
        Err(e) => Err(e),
    };
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    // It ended between hearing of the connection and taking it.
                    | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(Error::io(attempt(), e)),
    }
}

/// Says what the connection is for. Nothing where the shim ended instead of an answer.
pub(super) async fn open(
    stream: UnixStream,
    purpose: Purpose,
) -> Result<Option<(Opened, Reader, Writer)>> {
    let (mut reader, mut writer) = split(stream);
    let open = Open {
        version: protocol::VERSION,
        purpose,
    };
    if writer.send(&ToShim::Open(open)).await.is_err() {
        return Ok(None);
    }
    Ok(reader
        .opened()
        .await?
        .map(|opened| (opened, reader, writer)))
}

/// The two directions of a connection.
pub(super) fn split(stream: UnixStream) -> (Reader, Writer) {
    let (read, write) = stream.into_split();
    let reader = Reader {
        half: read,
        decoder: Decoder::default(),
    };
    let writer = Writer {
        half: write,
        buffer: Vec::new(),
    };
    (reader, writer)
}

impl Reader {
    /// The next message; none when the shim has hung up. May be cancelled and called again.
    pub(super) async fn next(&mut self) -> Result<Option<FromShim>> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            if self.half.readable().await.is_err() {
                return Ok(None);
            }
            // Not held over an await: an idle connection costs no buffer.
            let mut buffer = [0; 16 << 10];
            match self.half.try_read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(n) => self.decoder.feed(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // A shim that was killed resets the connection.
                Err(_) => return Ok(None),
            }
        }
    }

    /// The answer to an `Open`; none when the shim has hung up.
    pub(super) async fn opened(&mut self) -> Result<Option<Opened>> {
        loop {
            match self.next().await? {
                None => return Ok(None),
                Some(FromShim::Opened(opened)) => return Ok(Some(opened)),
                Some(FromShim::Failed(failure)) => return Err(failure.into()),
                Some(_) => {}
            }
        }
    }
}

impl Writer {
    /// Sends one message.
    pub(super) async fn send(&mut self, message: &ToShim) -> Result<()> {
        self.buffer.clear();
        message.encode(&mut self.buffer)?;
        self.push().await
    }

    /// Sends bytes for standard input.
    pub(super) async fn send_stdin(&mut self, data: &[u8]) -> Result<()> {
        for piece in data.chunks(32 << 10) {
            self.buffer.clear();
            protocol::stdin(piece, &mut self.buffer)?;
            self.push().await?;
        }
        Ok(())
    }

    async fn push(&mut self) -> Result<()> {
        let sent = self.half.write_all(&self.buffer).await;
        if self.buffer.capacity() > 4 << 10 {
            self.buffer = Vec::new();
        }
        sent.map_err(|e| Error::io("send to the container's shim", e))
    }
}
