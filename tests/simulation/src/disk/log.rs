//! The log database's storage: what is there, what of it is durable, and what was written since.

use super::{Condition, SimDisk, full};
use crate::dice::Dice;
use redb::StorageBackend;
use std::io;

/// What a disk writes at a time; a write of several may be torn between two.
const SECTOR: usize = 512;

/// What one folder's log database is kept in.
#[derive(Default)]
pub(super) struct Log {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Writes and lengths since the last sync, in order.
    since: Vec<Written>,
    /// A sync was answered that was none.
    lied: bool,
    /// What was opened in an earlier life cannot be used.
    life: u64,
}

enum Written {
    Bytes(u64, Vec<u8>),
    Length(usize),
}

impl Log {
    pub(super) fn open(&mut self) -> u64 {
        self.life += 1;
        self.life
    }

    pub(super) fn close(&mut self) {
        self.life += 1;
    }

    pub(super) fn emptied(&self) -> Self {
        Self {
            life: self.life + 1,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    /// Of what was not synced each write is kept, lost or torn. A disk that lied may have had all of it in a cache.
    pub(super) fn lose_power(&mut self, dice: &mut Dice) {
        self.life += 1;
        if std::mem::take(&mut self.lied) && dice.chance(700) {
            self.since.clear();
        }
        for written in std::mem::take(&mut self.since) {
            match written {
                Written::Length(len) if dice.chance(500) => self.durable.resize(len, 0),
                Written::Bytes(at, bytes) => {
                    let whole = bytes.len().div_ceil(SECTOR);
                    let sectors = match dice.roll(3) {
                        0 => 0,
                        1 => whole,
                        _ => dice.index(whole + 1),
                    };
                    let kept = (sectors * SECTOR).min(bytes.len());
                    put(&mut self.durable, at, &bytes[..kept]);
                }
                Written::Length(_) => {}
            }
        }
        self.current = self.durable.clone();
    }

    fn sync(&mut self) {
        self.lied = false;
        for written in std::mem::take(&mut self.since) {
            match written {
                Written::Length(len) => self.durable.resize(len, 0),
                Written::Bytes(at, bytes) => put(&mut self.durable, at, &bytes),
            }
        }
    }
}

/// Writes beyond the end make it longer, as a file does.
fn put(bytes: &mut Vec<u8>, at: u64, new: &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let end = at.saturating_add(new.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(new);
}

/// The storage as the database has it open.
pub(super) struct LogHandle {
    disk: SimDisk,
    folder: String,
    life: u64,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogHandle")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl LogHandle {
    pub(super) fn new(disk: SimDisk, folder: String, life: u64) -> Self {
        Self { disk, folder, life }
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Log, &mut Condition, &mut Dice) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut inner = self.disk.lock();
        let inner = &mut *inner;
        let folder = inner.folders.entry(self.folder.clone()).or_default();
        if folder.log.life != self.life {
            return Err(io::Error::other("the power was lost since this was opened"));
        }
        work(&mut folder.log, &mut inner.condition, &mut inner.dice)
    }
}

impl StorageBackend for LogHandle {
    fn len(&self) -> io::Result<u64> {
        self.with(|log, _, _| Ok(log.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|log, _, _| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let part = log.current.get(start..start + out.len());
            out.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|log, condition, _| {
            let len = usize::try_from(len).map_err(io::Error::other)?;
            if len > log.current.len() && condition.full {
                return Err(full());
            }
            log.current.resize(len, 0);
            log.since.push(Written::Length(len));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|log, condition, _| {
            if condition.full {
                return Err(full());
            }
            if condition.lies {
                log.lied = true;
            } else {
                log.sync();
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|log, condition, dice| {
            if condition.full {
                return Err(full());
            }
            let mut at = offset;
            if condition.misdirects > 0 {
                condition.misdirects -= 1;
                let sectors = log.current.len().saturating_sub(data.len()) / SECTOR;
                at = (dice.index(sectors.max(1)) * SECTOR) as u64;
            }
            put(&mut log.current, at, data);
            log.since.push(Written::Bytes(at, data.to_vec()));
            Ok(())
        })
    }
}
