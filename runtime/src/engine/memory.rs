//! Waits until processes of a container are killed for want of memory.

use crate::container::Cgroup;
use crate::{Error, Result};
use std::iter::RepeatN;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;

/// Follows one container.
#[derive(Debug)]
pub struct OomWatch {
    // Any descriptor that can be polled and is told apart by no more than that it is readable.
    ready: Receiver,
    pauses: RepeatN<Duration>,
    cgroup: Cgroup,
}

impl OomWatch {
    pub(super) fn new(cgroup: Cgroup) -> Result<Self> {
        let events = cgroup.oom_events()?;
        let pauses = events.pauses();
        let ready = Receiver::from_owned_fd_unchecked(events.into()).map_err(failed)?;
        Ok(Self {
            ready,
            pauses,
            cgroup,
        })
    }

    /// Waits until more than `known` of the container's processes were killed for memory, and says how many. Where it is dropped,
    /// some may be told with the next ones only.
    ///
    /// # Errors
    /// When the container is gone.
    pub async fn more_than(&self, known: u64) -> Result<u64> {
        loop {
            let kills = self.cgroup.oom_kills()?;
            if kills > known {
                return Ok(kills);
            }
            self.ready.readable().await.map_err(failed)?;
            // Until nothing is left, which makes it unready.
            while self.ready.try_read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
            for pause in self.pauses.clone() {
                if self.cgroup.oom_kills()? > known {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn failed(e: std::io::Error) -> Error {
    Error::io("wait for a container to run out of memory", e)
}
