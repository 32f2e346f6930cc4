//! A disk in memory that can lose power and run full: for tests and simulations.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;

use crate::Disk;

/// A disk in memory. Clones are the same disk.
///
/// What the log database has written is lost by [`crash`](Self::crash) unless it was synced;
/// files written whole are durable at once, as the interface demands.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    inner: Arc<Inner>,
}

/// How often the log has been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncCount {
    /// Syncs of the log database.
    pub log: u64,
    /// Files written whole.
    pub files: u64,
}

#[derive(Debug, Default)]
struct Inner {
    log: Mutex<Log>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    full: AtomicBool,
    latency_us: AtomicU64,
    log_syncs: AtomicU64,
    file_writes: AtomicU64,
}

#[derive(Debug, Default)]
struct Log {
    /// Storage opened before the last crash must not write any more.
    generation: u64,
    crashes: u64,
    durable: Vec<u8>,
    current: Vec<u8>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: everything not synced is gone, and whoever has the log open can neither read
    /// nor write it any more.
    pub fn crash(&self) {
        let mut log = lock(&self.inner.log);
        log.generation += 1;
        log.crashes += 1;
        log.current = log.durable.clone();
    }

    /// Makes every write fail for want of space, or succeed again.
    pub fn set_full(&self, full: bool) {
        self.inner.full.store(full, Ordering::SeqCst);
    }

    /// Sets how long each write takes, on the runtime's clock. Default 0.
    pub fn set_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.inner.latency_us.store(micros, Ordering::SeqCst);
    }

    /// How often something was made durable so far.
    #[must_use]
    pub fn syncs(&self) -> SyncCount {
        SyncCount {
            log: self.inner.log_syncs.load(Ordering::SeqCst),
            files: self.inner.file_writes.load(Ordering::SeqCst),
        }
    }

    /// Flips one bit of the file `name`, as decay would. Says whether there is such a file.
    pub fn damage(&self, name: &str) -> bool {
        let mut files = lock(&self.inner.files);
        let Some(byte) = files.get_mut(name).and_then(|file| file.last_mut()) else {
            return false;
        };
        *byte ^= 1;
        true
    }
}

impl Inner {
    fn check_space(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "no space left on device",
            ));
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open_log(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut log = lock(&self.inner.log);
        log.generation += 1;
        Ok(Box::new(MemoryLog {
            inner: Arc::clone(&self.inner),
            generation: log.generation,
        }))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.inner.files).get(name).cloned())
    }

    fn write_atomic(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        self.inner.check_space()?;
        self.inner.file_writes.fetch_add(1, Ordering::SeqCst);
        lock(&self.inner.files).insert(name.to_owned(), parts.concat());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.inner.files).remove(name);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.inner.files).keys().cloned().collect())
    }

    fn clear(&self) -> io::Result<()> {
        let mut log = lock(&self.inner.log);
        *log = Log {
            generation: log.generation + 1,
            crashes: log.crashes,
            ..Log::default()
        };
        lock(&self.inner.files).clear();
        Ok(())
    }

    fn boot(&self) -> String {
        lock(&self.inner.log).crashes.to_string()
    }

    fn simulated(&self) -> Option<Duration> {
        Some(Duration::from_micros(
            self.inner.latency_us.load(Ordering::SeqCst),
        ))
    }
}

#[derive(Debug)]
struct MemoryLog {
    inner: Arc<Inner>,
    generation: u64,
}

impl MemoryLog {
    fn open(&self) -> io::Result<MutexGuard<'_, Log>> {
        let log = lock(&self.inner.log);
        if log.generation != self.generation {
            return Err(io::Error::other("the power was lost since this was opened"));
        }
        Ok(log)
    }
}

impl StorageBackend for MemoryLog {
    fn len(&self) -> io::Result<u64> {
        Ok(self.open()?.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let log = self.open()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let part = log
            .current
            .get(start..start + out.len())
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut log = self.open()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        if len > log.current.len() {
            self.inner.check_space()?;
        }
        log.current.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut log = self.open()?;
        self.inner.check_space()?;
        self.inner.log_syncs.fetch_add(1, Ordering::SeqCst);
        let Log {
            durable, current, ..
        } = &mut *log;
        durable.clone_from(current);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut log = self.open()?;
        self.inner.check_space()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let part = log
            .current
            .get_mut(start..start + data.len())
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        part.copy_from_slice(data);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
