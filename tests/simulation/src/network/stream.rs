//! One stream: two pipes, what is under way in each, and the end that a program holds.

use super::{Fabric, Inner, Micros};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What may be under way or unread in one direction.
const WINDOW: usize = 256 * 1024;

/// Both directions of a stream. `pipes[0]` is from who opened it.
pub(super) struct Ends {
    pub(super) pipes: [Pipe; 2],
    pub(super) open: bool,
    pub(super) refused: bool,
    pub(super) opening: Option<Waker>,
}

/// One direction: from the end of this side to the other's.
pub(super) struct Pipe {
    pub(super) from: SocketAddr,
    under_way: VecDeque<(Micros, Segment)>,
    unread: VecDeque<u8>,
    size: usize,
    ended: bool,
    /// The end that writes has been closed or lost.
    pub(super) gone: bool,
    /// Broken: reading and writing fail.
    pub(super) reset: bool,
    pub(super) pumping: bool,
    pub(super) retries: u32,
    last: Micros,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

enum Segment {
    Bytes(Vec<u8>),
    End,
    Reset,
}

impl Pipe {
    pub(super) fn new(from: SocketAddr) -> Self {
        Self {
            from,
            under_way: VecDeque::new(),
            unread: VecDeque::new(),
            size: 0,
            ended: false,
            gone: false,
            reset: false,
            pumping: false,
            retries: 0,
            last: 0,
            reader: None,
            writer: None,
        }
    }

    /// The end that writes is gone without a word.
    pub(super) fn forget(&mut self) {
        self.gone = true;
        self.under_way.clear();
    }

    pub(super) fn drop_under_way(&mut self) {
        self.under_way.clear();
    }

    /// The other end is told that this one has ended.
    pub(super) fn break_off(&mut self, now: Micros) {
        self.push(now, Segment::Reset);
    }

    pub(super) fn next_due(&self) -> Option<Micros> {
        self.under_way.front().map(|(at, _)| *at)
    }

    pub(super) fn wakers(&mut self) -> impl Iterator<Item = Waker> + use<> {
        [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
    }

    /// What was due by `now` has arrived.
    pub(super) fn arrive(&mut self, now: Micros) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.next_due().is_some_and(|at| at <= now)
            && let Some((_, segment)) = self.under_way.pop_front()
        {
            match segment {
                Segment::Bytes(bytes) => self.unread.extend(bytes),
                Segment::End => self.ended = true,
                Segment::Reset => {
                    self.reset = true;
                    wakers.extend(self.wakers());
                }
            }
            wakers.extend(self.reader.take());
        }
        wakers
    }

    fn push(&mut self, at: Micros, segment: Segment) {
        // In order.
        self.last = self.last.max(at);
        self.under_way.push_back((self.last, segment));
    }
}

/// One end of a stream, as a program holds it.
pub(super) struct SimStream {
    fabric: Fabric,
    id: u64,
    side: usize,
}

impl SimStream {
    pub(super) fn new(fabric: Fabric, id: u64, side: usize) -> Self {
        Self { fabric, id, side }
    }
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Inner {
    fn send(&mut self, id: u64, side: usize, segment: Segment) {
        let Some(ends) = self.streams.get(&id) else {
            return;
        };
        let (from, to) = (ends.pipes[side].from, ends.pipes[1 - side].from);
        let link = self.link(from.ip(), to.ip());
        let at = self.now + self.delay(link);
        let traffic = self.traffic.entry(from.ip()).or_default();
        traffic.segments += 1;
        if let Segment::Bytes(bytes) = &segment {
            traffic.bytes += bytes.len() as u64;
        }
        if let Some(ends) = self.streams.get_mut(&id) {
            ends.pipes[side].push(at, segment);
        }
        self.start_pump(id, side);
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.fabric.lock();
        let Some(ends) = inner.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(broken()));
        };
        let pipe = &mut ends.pipes[1 - self.side];
        if !pipe.unread.is_empty() {
            let count = buf.remaining().min(pipe.unread.len());
            let bytes: Vec<u8> = pipe.unread.drain(..count).collect();
            buf.put_slice(&bytes);
            pipe.size -= count;
            let waker = pipe.writer.take();
            drop(inner);
            if let Some(waker) = waker {
                waker.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if pipe.reset {
            return Poll::Ready(Err(broken()));
        }
        if pipe.ended {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.fabric.lock();
        let Some(ends) = inner.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(broken()));
        };
        if ends.pipes[1 - self.side].reset {
            return Poll::Ready(Err(broken()));
        }
        let pipe = &mut ends.pipes[self.side];
        if pipe.reset || pipe.gone {
            return Poll::Ready(Err(broken()));
        }
        let room = WINDOW.saturating_sub(pipe.size);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = room.min(buf.len());
        pipe.size += count;
        inner.send(self.id, self.side, Segment::Bytes(buf[..count].to_vec()));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.fabric.lock();
        inner.send(self.id, self.side, Segment::End);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut inner = self.fabric.lock();
        let Some(ends) = inner.streams.get_mut(&self.id) else {
            return;
        };
        // What the host lost with its power or its programs is gone already.
        if !ends.pipes[self.side].gone {
            let unread = !ends.pipes[1 - self.side].unread.is_empty();
            let last = if unread { Segment::Reset } else { Segment::End };
            inner.send(self.id, self.side, last);
            if let Some(ends) = inner.streams.get_mut(&self.id) {
                ends.pipes[self.side].gone = true;
            }
        }
        inner.tidy(self.id);
    }
}
