//! Reads a container's log files forwards while they grow and are rotated, and backwards to find where the last
//! so many lines begin. Blocks on the disk.

use crate::shim::log::{Entry, decode, file_name, generation};
use crate::shim::protocol::Position;
use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use swarm_api::backend::LogStream;

/// What is read at once.
const BLOCK: usize = 64 << 10;

/// A place in the log from which it is read on. The files that were there when it was opened stay readable,
/// whatever rotation does.
#[derive(Debug)]
pub(in crate::engine) struct Cursor {
    dir: PathBuf,
    files: VecDeque<(u64, File)>,
    newest: Option<u64>,
    offset: u64,
    pending: Vec<u8>,
    until: Option<Position>,
}

impl Cursor {
    /// At the log's beginning.
    pub(in crate::engine) fn open(dir: &Path) -> io::Result<Self> {
        let mut cursor = Self {
            dir: dir.to_owned(),
            files: VecDeque::new(),
            newest: None,
            offset: 0,
            pending: Vec::new(),
            until: None,
        };
        cursor.look_for_more()?;
        Ok(cursor)
    }

    /// Ends at `position`, which is the end of a record.
    pub(in crate::engine) fn until(&mut self, position: Position) {
        self.until = Some(position);
    }

    /// The next entries; none when all there is now has been read.
    pub(in crate::engine) fn read(&mut self) -> io::Result<Vec<Entry>> {
        loop {
            let Some(&(number, ref file)) = self.files.front() else {
                if self.look_for_more()? {
                    continue;
                }
                return Ok(Vec::new());
            };
            let room = match self.until {
                Some(until) if until.generation < number => return Ok(Vec::new()),
                Some(until) if until.generation == number => {
                    until.offset.saturating_sub(self.offset)
                }
                _ => u64::MAX,
            };
            let mut block = vec![0; BLOCK.min(usize::try_from(room).unwrap_or(BLOCK))];
            let n = file.read_at(&mut block, self.offset)?;
            if n > 0 {
                self.offset += n as u64;
                self.pending.extend_from_slice(&block[..n]);
                let entries = self.take_lines();
                if entries.is_empty() {
                    continue;
                }
                return Ok(entries);
            }
            if room == 0 {
                return Ok(Vec::new());
            }
            let length = file.metadata()?.len();
            if length < self.offset {
                // A record that did not fit on the disk was taken back.
                self.offset = length;
                self.pending.clear();
                continue;
            }
            if length > self.offset {
                continue;
            }
            // A file is complete once there is a newer one; what was written to it until then is read first.
            let more = self.files.len() > 1 || self.look_for_more()?;
            let (_, file) = &self.files[0];
            if file.metadata()?.len() > self.offset {
                continue;
            }
            if !more {
                return Ok(Vec::new());
            }
            self.files.pop_front();
            self.offset = 0;
            self.pending.clear();
        }
    }

    /// Opens files that came since.
    fn look_for_more(&mut self) -> io::Result<bool> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Some(number) = entry?.file_name().to_str().and_then(generation)
                && self.newest.is_none_or(|newest| number > newest)
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let mut found = false;
        for number in numbers {
            match File::open(self.dir.join(file_name(number))) {
                Ok(file) => {
                    self.files.push_back((number, file));
                    self.newest = Some(number);
                    found = true;
                }
                // Rotated away meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    fn take_lines(&mut self) -> Vec<Entry> {
        let Some(last) = self.pending.iter().rposition(|b| *b == b'\n') else {
            return Vec::new();
        };
        let rest = self.pending.split_off(last + 1);
        let whole = std::mem::replace(&mut self.pending, rest);
        whole
            .split_inclusive(|b| *b == b'\n')
            .filter_map(decode)
            .collect()
    }

    /// Goes to where the last `lines` lines begin, or earlier: returns how many lines begin from there on that are
    /// too many. Reads backwards, and no more than it must.
    pub(in crate::engine) fn go_to_tail(&mut self, lines: u64) -> io::Result<u64> {
        let mut count = Backwards::default();
        for index in (0..self.files.len()).rev() {
            let mut end = self.files[index].1.metadata()?.len();
            let mut rest: Vec<u8> = Vec::new();
            while end > 0 {
                let size = BLOCK.min(usize::try_from(end).unwrap_or(BLOCK));
                let start = end - size as u64;
                let mut block = vec![0; size];
                self.files[index].1.read_exact_at(&mut block, start)?;
                block.append(&mut rest);
                // The piece in front of the first line end belongs to a line that begins further ahead.
                let whole = match block.iter().position(|b| *b == b'\n') {
                    _ if start == 0 => 0,
                    Some(first) => first + 1,
                    None => block.len(),
                };
                let mut at = block.len();
                for line in block[whole..].split_inclusive(|b| *b == b'\n').rev() {
                    at -= line.len();
                    if let Some(entry) = decode(line) {
                        count.add(&entry);
                    }
                    if count.is_enough(lines) {
                        self.files.drain(..index);
                        self.offset = start + at as u64;
                        return Ok(count.lines - lines);
                    }
                }
                block.truncate(whole);
                rest = block;
                end = start;
            }
        }
        Ok(count.all().saturating_sub(lines))
    }
}

/// Counts the lines that begin in entries, from the last one on.
#[derive(Debug, Default)]
struct Backwards {
    lines: u64,
    /// Per stream: a line was met whose beginning is further ahead.
    open: [bool; 2],
}

impl Backwards {
    fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::Lost { .. } => {
                self.lines = self.all() + 1;
                self.open = [false; 2];
            }
            Entry::Output(record) => {
                let index = usize::from(record.stream == LogStream::Stderr);
                let pieces = record.data.split_inclusive(|b| *b == b'\n').count() as u64;
                self.lines += pieces - u64::from(record.continues).min(pieces);
                self.open[index] = record.continues;
            }
        }
    }

    fn is_enough(&self, lines: u64) -> bool {
        self.lines >= lines && self.open == [false; 2]
    }

    /// All lines, where nothing is further ahead: what continues a line that was rotated away counts as one.
    fn all(&self) -> u64 {
        self.lines + self.open.iter().filter(|open| **open).count() as u64
    }
}
