//! Storage that knows what was written to it since it was opened: a page that reads back as something else (a write that
//! went to another place, decay) is an error before anyone makes use of it. What was there before is for the database's
//! own checksums to judge, which are looked at as a whole when it is opened.

use crate::checksum::crc32;
use redb::{BackendError, StorageBackend};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The database writes and reads whole multiples of this, from multiples of it; what is not so is let through unseen.
const PAGE: u64 = 4096;

/// Storage with a checksum in memory for each page that was written or read since it was opened.
#[derive(Debug)]
pub(crate) struct Summed {
    inner: Box<dyn StorageBackend>,
    sums: Mutex<BTreeMap<u64, u32>>,
}

impl Summed {
    pub(crate) fn new(inner: Box<dyn StorageBackend>) -> Self {
        Self {
            inner,
            sums: Mutex::default(),
        }
    }

    fn sums(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pages that lie within a piece, each with its number.
fn pages(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let skip = usize::try_from(offset.next_multiple_of(PAGE) - offset).unwrap_or(usize::MAX);
    let first = offset.div_ceil(PAGE);
    let whole = bytes.get(skip..).unwrap_or_default();
    (first..).zip(whole.chunks_exact(PAGE as usize))
}

impl StorageBackend for Summed {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)?;
        let mut sums = self.sums();
        for (page, bytes) in pages(offset, out) {
            let sum = crc32(&[bytes]);
            if *sums.entry(page).or_insert(sum) != sum {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the disk gives back something else than was written, at {}",
                        page * PAGE
                    ),
                ));
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)?;
        self.sums().split_off(&(len / PAGE));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        {
            let mut sums = self.sums();
            let end = offset + data.len() as u64;
            // Of a page that is written in part nothing is known any more.
            for page in offset / PAGE..end.div_ceil(PAGE) {
                sums.remove(&page);
            }
        }
        self.inner.write(offset, data)?;
        let mut sums = self.sums();
        for (page, bytes) in pages(offset, data) {
            sums.insert(page, crc32(&[bytes]));
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
