//! Between an asynchronous stream of bytes and a thread that reads or writes: bounded channels, so that the slower
//! side holds the faster one.

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use std::io::{BufRead, Read};
use swarm_api::{BoxStream, Error, Result};
use tokio::sync::mpsc;

const CHUNKS: usize = 8;
pub(super) const CHUNK: usize = 64 << 10;

enum Piece {
    Data(Bytes),
    /// The stream ended by itself. Without it, whoever sent it has gone.
    End,
}

/// A stream that a thread reads.
pub(crate) struct StreamReader {
    pieces: mpsc::Receiver<Piece>,
    now: Bytes,
    ended: bool,
}

impl BufRead for StreamReader {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        while self.now.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => self.now = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(std::io::Error::other("its sender has gone")),
            }
        }
        Ok(&self.now)
    }

    fn consume(&mut self, amount: usize) {
        self.now.advance(amount);
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// Lets `work` read `stream` in a thread of its own. The stream's own error comes before what `work` makes of it.
pub(crate) async fn read_in_thread<T: Send + 'static>(
    mut stream: BoxStream<Result<Bytes>>,
    work: impl FnOnce(StreamReader) -> crate::Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, pieces) = mpsc::channel(CHUNKS);
    let worker = tokio::task::spawn_blocking(move || {
        work(StreamReader {
            pieces,
            now: Bytes::new(),
            ended: false,
        })
    });
    let mut failure = None;
    loop {
        let piece = match stream.next().await {
            Some(Ok(bytes)) => Piece::Data(bytes),
            Some(Err(e)) => {
                failure = Some(e);
                break;
            }
            None => Piece::End,
        };
        let end = matches!(piece, Piece::End);
        if sender.send(piece).await.is_err() || end {
            break;
        }
    }
    drop(sender);
    let outcome = worker
        .await
        .map_err(|e| Error::Internal(format!("the thread that reads the archive ended: {e}")))?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(outcome?),
    }
}

/// A stream of what `work` passes to its sink, in a thread of its own. The sink returns false when nobody reads on.
pub(crate) fn write_in_thread(
    work: impl FnOnce(&mut dyn FnMut(&[u8]) -> bool) -> crate::Result<()> + Send + 'static,
) -> BoxStream<Result<Bytes>> {
    pieces_in_thread(move |sink| {
        work(&mut |bytes| {
            let mut chunks = bytes.chunks(CHUNK);
            chunks.all(|chunk| sink(Bytes::copy_from_slice(chunk)))
        })
    })
}

/// As [`write_in_thread`], of pieces that go as they are.
pub(super) fn pieces_in_thread(
    work: impl FnOnce(&mut dyn FnMut(Bytes) -> bool) -> crate::Result<()> + Send + 'static,
) -> BoxStream<Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let mut sink = |bytes| sender.blocking_send(Ok(bytes)).is_ok();
        if let Err(e) = work(&mut sink) {
            let _ = sender.blocking_send(Err(e.into()));
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver).boxed()
}
