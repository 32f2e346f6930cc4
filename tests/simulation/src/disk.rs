//! The disk of a simulated host. What was not synced when the power is lost is kept, lost or torn, each write by itself; it
//! can be full, slow, write to the wrong place, and lie about what is durable.
//!
//! It must not know what is kept on it.

mod log;
mod once;

use crate::dice::Dice;
use bytes::Bytes;
use log::{Log, LogHandle};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_consensus::Disk;
use swarm_member::Storage;

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Condition {
    /// There is no room for more.
    pub full: bool,
    /// It says that things are durable which are not.
    pub lies: bool,
    /// So many of the next writes to a log go to other places.
    pub misdirects: u8,
    /// How long a write takes.
    pub latency: Duration,
}

/// A host's disk. Clones are the same.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Inner>>);

struct Inner {
    condition: Condition,
    folders: BTreeMap<String, Folder>,
    power_losses: u64,
    dice: Dice,
}

#[derive(Default)]
struct Folder {
    files: BTreeMap<String, Bytes>,
    /// Files as they were before the disk lied.
    durable: BTreeMap<String, Option<Bytes>>,
    log: Log,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            condition: Condition::default(),
            folders: BTreeMap::new(),
            power_losses: 0,
            dice,
        })))
    }

    /// What is wrong with it.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.lock().condition
    }

    /// Makes something wrong with it, or right again.
    pub fn set(&self, change: impl FnOnce(&mut Condition)) {
        change(&mut self.lock().condition);
    }

    /// The power is lost.
    pub fn lose_power(&self) {
        let mut inner = self.lock();
        inner.power_losses += 1;
        let Inner { folders, dice, .. } = &mut *inner;
        for folder in folders.values_mut() {
            folder.log.lose_power(dice);
            for (name, before) in std::mem::take(&mut folder.durable) {
                match before {
                    Some(bytes) => folder.files.insert(name, bytes),
                    None => folder.files.remove(&name),
                };
            }
        }
    }

    /// The program that used it has ended: nothing that it has open can be used any more; nothing is lost.
    pub fn end(&self) {
        for folder in self.lock().folders.values_mut() {
            folder.log.close();
        }
    }

    /// How many bytes are on it.
    #[must_use]
    pub fn size(&self) -> usize {
        let inner = self.lock();
        let of = |folder: &Folder| {
            folder.log.len() + folder.files.values().map(Bytes::len).sum::<usize>()
        };
        inner.folders.values().map(of).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for SimDisk {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        self.lock().folders.entry(name.to_owned()).or_default();
        Ok(Arc::new(SimFolder {
            disk: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn describe(&self, name: &str) -> String {
        format!("disk:/{name}")
    }
}

struct SimFolder {
    disk: SimDisk,
    name: String,
}

impl SimFolder {
    fn with<T>(&self, work: impl FnOnce(&mut Folder, Condition) -> T) -> T {
        let mut inner = self.disk.lock();
        let condition = inner.condition;
        work(
            inner.folders.entry(self.name.clone()).or_default(),
            condition,
        )
    }
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left on device")
}

impl Disk for SimFolder {
    fn open_log(&self) -> io::Result<Box<dyn StorageBackend>> {
        let life = self.with(|folder, _| folder.log.open());
        Ok(Box::new(LogHandle::new(
            self.disk.clone(),
            self.name.clone(),
            life,
        )))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.with(|folder, _| folder.files.get(name).map(|bytes| bytes.to_vec())))
    }

    fn write_atomic(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        self.with(|folder, condition| {
            if condition.full {
                return Err(full());
            }
            let before = folder
                .files
                .insert(name.to_owned(), once::once(parts.concat()));
            if condition.lies {
                folder.durable.entry(name.to_owned()).or_insert(before);
            } else {
                folder.durable.remove(name);
            }
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|folder, _| {
            folder.files.remove(name);
            folder.durable.remove(name);
        });
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.with(|folder, _| folder.files.keys().cloned().collect()))
    }

    fn clear(&self) -> io::Result<()> {
        self.with(|folder, _| {
            let log = std::mem::take(&mut folder.log);
            *folder = Folder {
                log: log.emptied(),
                ..Folder::default()
            };
        });
        Ok(())
    }

    fn boot(&self) -> String {
        self.disk.lock().power_losses.to_string()
    }

    fn simulated(&self) -> Option<Duration> {
        Some(self.disk.condition().latency)
    }
}
