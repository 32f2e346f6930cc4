//! File systems written to the disk, once for all who ask meanwhile: layers that are whole at about the same time wait for
//! one sync, not each for its own. On an SD card one takes a second.

use rustix::io::Errno;
use std::fs::File;
use std::sync::{Condvar, Mutex, PoisonError};

/// Syncs of one file system.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    turns: Mutex<Turns>,
    ended: Condvar,
}

/// Numbers of syncs, in the order in which they begin.
#[derive(Debug, Default)]
struct Turns {
    begun: u64,
    running: bool,
    /// Who waits for one to end.
    waiting: usize,
    /// The last that ended well. What was written before it began is on the disk.
    done: u64,
}

impl Syncs {
    /// Returns when all that was written to the file system of `file` before is on the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn sync(&self, file: &File) -> Result<(), Errno> {
        self.by(|| rustix::fs::syncfs(file))
    }

    fn by(&self, sync: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // One that runs already may have passed by what was just written.
        let wanted = turns.begun + 1;
        loop {
            if turns.done >= wanted {
                return Ok(());
            }
            if !turns.running {
                turns.running = true;
                turns.begun += 1;
                let own = turns.begun;
                drop(turns);
                let outcome = sync();
                turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
                turns.running = false;
                if outcome.is_ok() {
                    turns.done = own;
                }
                self.ended.notify_all();
                // Where it failed, each of the others tries itself, and is told itself.
                return outcome;
            }
            turns.waiting += 1;
            turns = (self.ended.wait(turns)).unwrap_or_else(PoisonError::into_inner);
            turns.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    #[test]
    fn those_who_come_while_one_runs_share_the_next() {
        let syncs = Arc::new(Syncs::default());
        let count = Arc::new(AtomicUsize::new(0));
        let (entered, first_runs) = mpsc::channel();
        let (let_go, held) = mpsc::channel::<()>();
        let first = std::thread::spawn({
            let (syncs, count) = (Arc::clone(&syncs), Arc::clone(&count));
            move || {
                syncs.by(|| {
                    count.fetch_add(1, Ordering::SeqCst);
                    entered.send(()).unwrap();
                    held.recv().unwrap();
                    Ok(())
                })
            }
        });
        first_runs.recv().unwrap();
        let others: Vec<_> = (0..4)
            .map(|_| {
                let (syncs, count) = (Arc::clone(&syncs), Arc::clone(&count));
                std::thread::spawn(move || {
                    syncs.by(|| {
                        count.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    })
                })
            })
            .collect();
        while syncs.turns.lock().unwrap().waiting < 4 {
            std::thread::yield_now();
        }
        let_go.send(()).unwrap();
        first.join().unwrap().unwrap();
        for other in others {
            other.join().unwrap().unwrap();
        }
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn who_came_before_a_sync_that_failed_is_not_told_that_all_is_well() {
        let syncs = Syncs::default();
        assert_eq!(syncs.by(|| Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(syncs.by(|| Ok(())), Ok(()));
        assert_eq!(syncs.by(|| Err(Errno::NOSPC)), Err(Errno::NOSPC));
    }
}
