//! Joins the pieces of lines in a log. Pure.

use crate::shim::log::{Entry, Record};
use bytes::Bytes;
use swarm_api::backend::LogStream;
use swarm_api::model::Timestamp;

/// A line that is longer is given in pieces of about this length.
const LONGEST: usize = 256 << 10;

/// One line, with its end if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Its number in the order in which lines begin.
    pub(super) number: u64,
    /// When its first piece came.
    pub(super) time: Timestamp,
    /// From where.
    pub(super) stream: LogStream,
    /// Its bytes.
    pub(super) data: Bytes,
}

#[derive(Debug)]
struct Begun {
    number: u64,
    time: Timestamp,
    data: Vec<u8>,
}

/// The lines that have begun and not ended.
#[derive(Debug, Default)]
pub(super) struct Lines {
    next: u64,
    begun: [Option<Begun>; 2],
}

const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

impl Lines {
    /// The lines that this entry ends.
    pub(super) fn add(&mut self, entry: Entry, out: &mut Vec<Line>) {
        match entry {
            Entry::Output(record) => self.add_record(&record, out),
            Entry::Lost { time, bytes } => {
                self.finish(out);
                let number = self.number();
                out.push(Line {
                    number,
                    time,
                    stream: LogStream::Stderr,
                    data: format!("[{bytes} bytes of output were not kept: the disk was full]\n")
                        .into(),
                });
            }
        }
    }

    fn add_record(&mut self, record: &Record, out: &mut Vec<Line>) {
        let index = usize::from(record.stream == LogStream::Stderr);
        if !record.continues {
            self.end(index, out);
        }
        for piece in record.data.split_inclusive(|b| *b == b'\n') {
            if self.begun[index].is_none() {
                let number = self.number();
                self.begun[index] = Some(Begun {
                    number,
                    time: record.time,
                    data: Vec::new(),
                });
            }
            let Some(begun) = &mut self.begun[index] else {
                continue;
            };
            begun.data.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end(index, out);
            } else if begun.data.len() >= LONGEST {
                out.push(Line {
                    number: begun.number,
                    time: begun.time,
                    stream: record.stream,
                    data: std::mem::take(&mut begun.data).into(),
                });
            }
        }
    }

    /// Nothing follows: what has begun is a line as it is.
    pub(super) fn finish(&mut self, out: &mut Vec<Line>) {
        let mut last = Vec::new();
        for index in 0..STREAMS.len() {
            self.end(index, &mut last);
        }
        last.sort_by_key(|line| line.number);
        out.append(&mut last);
    }

    fn end(&mut self, index: usize, out: &mut Vec<Line>) {
        if let Some(begun) = self.begun[index].take()
            && !begun.data.is_empty()
        {
            out.push(Line {
                number: begun.number,
                time: begun.time,
                stream: STREAMS[index],
                data: begun.data.into(),
            });
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}
