//! The following side of observation: keeps a replica up to date from whichever node serves it,
//! and keeps a durable copy of it, so that a node that restarts while it is cut off still knows
//! what it knew. It does not know who the nodes are: dialling is handed in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::disk::{self, Disk};
use crate::replica::serialise;
use crate::snapshot_file::{self, Encoded};
use crate::{Error, ObserveItem, ObserveStream, Replica};

const CACHE_FILE: &str = "observed.snap";
/// Beats that may be missed before a source counts as gone.
const MISSED_BEATS: u32 = 3;

/// Settings of an [`Observer`].
#[derive(Clone, Copy, Debug)]
pub struct ObserverConfig {
    /// How long dialling a source may take. Default 3 s.
    pub dial_timeout: Duration,
    /// A source that is itself staler than this is left for another one. Default 5 s.
    pub max_staleness: Duration,
    /// The shortest pause before another source is tried; it doubles with each failure up to
    /// [`retry_max`](Self::retry_max). Default 100 ms.
    pub retry_min: Duration,
    /// See [`retry_min`](Self::retry_min). Default 3 s.
    pub retry_max: Duration,
    /// The durable copy is written at most this often, and only after a change. Default 10 s.
    pub cache_interval: Duration,
    /// And it takes no more of the disk than this, in bytes per second, however large it is. Default 128 KiB.
    pub cache_rate: u32,
}

impl Default for ObserverConfig {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(3),
            max_staleness: Duration::from_secs(5),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(3),
            cache_interval: Duration::from_secs(10),
            cache_rate: 128 * 1024,
        }
    }
}

/// A source could not be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct DialError(
    /// Which source was tried and what came back.
    pub String,
);

/// Opens streams to other nodes; the agent provides it.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// Asks some node to serve everything after entry `from`. `attempt` grows by one with each
    /// call: choose another node when it does, near and idle ones first. The other side serves
    /// [`Replica::observe`]; the stream ends when the connection does.
    ///
    /// # Errors
    /// When that node does not answer, or there is none.
    async fn dial(&self, attempt: u64, from: u64) -> Result<ObserveStream, DialError>;
}

/// Feeds a replica by observation whenever Raft does not. Stops when dropped.
#[derive(Debug)]
pub struct Observer {
    follow: JoinHandle<()>,
    cache: JoinHandle<()>,
    store: Cache,
}

impl Observer {
    /// Loads the durable copy into `replica`, if it is newer, and starts to follow.
    ///
    /// A damaged copy is reported, removed and done without.
    ///
    /// # Errors
    /// [`Error::Storage`] if the disk cannot be read.
    pub async fn start(
        replica: Replica,
        disk: Arc<dyn Disk>,
        dial: Arc<dyn Dial>,
        config: ObserverConfig,
    ) -> Result<Self, Error> {
        let store = Cache {
            replica: replica.clone(),
            disk,
        };
        let cached = store.load().await?;
        Ok(Self {
            follow: tokio::spawn(follow(replica, dial, config)),
            cache: tokio::spawn(store.clone().keep(cached, config)),
            store,
        })
    }

    /// Stops following and writes the durable copy a last time.
    ///
    /// # Errors
    /// [`Error::Storage`] if the copy cannot be written.
    pub async fn shutdown(self) -> Result<(), Error> {
        self.follow.abort();
        self.cache.abort();
        if self.store.replica.fed_by_raft() || self.store.replica.applied_index() == 0 {
            return Ok(());
        }
        self.store.save().await.map(drop)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.follow.abort();
        self.cache.abort();
    }
}

async fn follow(replica: Replica, dial: Arc<dyn Dial>, config: ObserverConfig) {
    let mut feed = replica.watch_feed();
    let mut pause = config.retry_min;
    for attempt in 0.. {
        // The sender lives as long as `replica`.
        let _ = feed.wait_for(|fed_by_raft| !fed_by_raft).await;
        let before = replica.applied_index();
        let ended = tokio::select! {
            ended = follow_one(&replica, dial.as_ref(), attempt, &config) => ended,
            _ = feed.wait_for(|fed_by_raft| *fed_by_raft) => {
                tracing::debug!("raft feeds the replica now");
                pause = config.retry_min;
                continue;
            }
        };
        tracing::debug!(attempt, "observation ended: {ended}");
        if !replica.fed_by_raft() {
            replica.set_leader(None);
        }
        if replica.applied_index() > before || matches!(ended, Ended::AfterService(_)) {
            pause = config.retry_min;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(config.retry_max);
    }
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot dial a source: {0}")]
    Dial(String),
    #[error("the source went away: {0}")]
    AfterService(&'static str),
    #[error("the source is stale for {0:?}")]
    Stale(Option<Duration>),
    #[error("{0}")]
    Refused(#[from] Error),
}

async fn follow_one(
    replica: &Replica,
    dial: &dyn Dial,
    attempt: u64,
    config: &ObserverConfig,
) -> Ended {
    let dialled = tokio::time::timeout(
        config.dial_timeout,
        dial.dial(attempt, replica.applied_index()),
    );
    let mut stream = match dialled.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Ended::Dial(e.to_string()),
        Err(_) => return Ended::Dial(format!("no answer within {:?}", config.dial_timeout)),
    };
    let patience = replica.config().heartbeat * MISSED_BEATS;
    let opened = Instant::now();
    loop {
        let item = match tokio::time::timeout(patience, stream.next()).await {
            Ok(Some(item)) => item,
            Ok(None) => return Ended::AfterService("the stream ended"),
            Err(_) => return Ended::AfterService("it fell silent"),
        };
        let taken = match item {
            ObserveItem::Snapshot { index, bytes } => replica.restore_observed(index, &bytes),
            ObserveItem::Entry { index, command } => replica.apply_observed(index, command),
            ObserveItem::Heartbeat {
                applied,
                stale_for,
                leader,
            } => {
                if !replica.fed_by_raft() {
                    replica.set_leader(leader);
                }
                if let Some(at) = stale_for.and_then(|age| Instant::now().checked_sub(age))
                    && applied <= replica.applied_index()
                {
                    replica.mark_fresh(at);
                }
                // A source gets a moment to become fresh itself before it is left.
                if stale_for.is_none_or(|age| age > config.max_staleness)
                    && opened.elapsed() >= config.max_staleness
                {
                    return Ended::Stale(stale_for);
                }
                Ok(())
            }
        };
        if let Err(e) = taken {
            tracing::warn!("observation: {e}");
            return Ended::Refused(e);
        }
    }
}

/// The durable copy of an observed replica.
#[derive(Clone)]
struct Cache {
    replica: Replica,
    disk: Arc<dyn Disk>,
}

impl Cache {
    /// The index of the copy, 0 if there is none.
    async fn load(&self) -> Result<u64, Error> {
        let bytes = disk::run(&self.disk, |disk| disk.read(CACHE_FILE))
            .await
            .map_err(|e| Error::Storage(format!("reading {CACHE_FILE}: {e}")))?;
        let Some(bytes) = bytes else { return Ok(0) };
        let restored = snapshot_file::decode(CACHE_FILE, &bytes).and_then(|(header, body)| {
            let index = <[u8; 8]>::try_from(header).map_err(|_| Error::Corrupt {
                file: CACHE_FILE.into(),
                detail: "its header is not an index".into(),
            })?;
            let index = u64::from_le_bytes(index);
            self.replica.restore(index, body)?;
            Ok(index)
        });
        match restored {
            Ok(index) => Ok(index),
            Err(e) => {
                tracing::warn!("the cached replica is unusable and is fetched anew: {e}");
                let _ = disk::run(&self.disk, |disk| disk.remove(CACHE_FILE)).await;
                Ok(0)
            }
        }
    }

    /// Says of what index the copy is, and how long.
    async fn save(&self) -> Result<(u64, usize), Error> {
        let (index, frozen) = self.replica.freeze();
        let body = serialise(frozen).await;
        let length = body.len();
        disk::run(&self.disk, move |disk| {
            let header = index.to_le_bytes();
            disk.write_atomic(CACHE_FILE, &Encoded::new(&header, &body).parts())
        })
        .await
        .map_err(|e| Error::Storage(format!("writing {CACHE_FILE}: {e}")))?;
        Ok((index, length))
    }

    async fn keep(self, mut cached: u64, config: ObserverConfig) {
        let mut interval = config.cache_interval;
        let mut applied = self.replica.watch_applied();
        let mut feed = self.replica.watch_feed();
        loop {
            // Raft keeps its own log and snapshots.
            let _ = feed.wait_for(|fed_by_raft| !fed_by_raft).await;
            let _ = applied.wait_for(|applied| *applied > cached).await;
            tokio::time::sleep(interval).await;
            if self.replica.fed_by_raft() {
                continue;
            }
            match self.save().await {
                Ok((index, length)) => {
                    cached = index;
                    let rate = f64::from(config.cache_rate.max(1));
                    let time = Duration::from_secs_f64(length as f64 / rate);
                    interval = config.cache_interval.max(time);
                }
                Err(e) => tracing::warn!("the replica is not cached: {e}"),
            }
        }
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}
