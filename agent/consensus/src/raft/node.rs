//! A consensus node: the interface, and the life of the Raft instance behind it, which is reopened
//! from the disk when its storage fails.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{CheckIsLeaderError, ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::applier::Applier;
use super::driver::Driver;
use super::log::LogStore;
use super::network::Network;
use super::rpc::Handler;
use super::shared::Shared;
use super::snapshots::Snapshots;
use super::status::{Role, Status};
use super::trial;
use super::types::{Raft, Vote};
use super::wire::{self, Reply, Request};
use super::witness::Testimony;
use crate::{ConsensusConfig, Disk, Error, RaftTransport, Replica};

/// Pause before a failed instance is reopened: doubles from the first to the second.
const REOPEN_MIN: Duration = Duration::from_millis(250);
const REOPEN_MAX: Duration = Duration::from_secs(10);
/// The most that one piece of a snapshot holds.
const SNAPSHOT_PIECE: u64 = 1024 * 1024;

/// A command that was agreed on and applied on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its place in the log.
    pub index: u64,
    /// What the state machine answered.
    pub outcome: Bytes,
}

/// A node that is, or may become, a voter. Clones are the same node; it lives until
/// [`shutdown`](Self::shutdown).
///
/// Every node that may be a voter runs one, also while it is not a member of the group: a leader
/// can add only a node that listens.
#[derive(Clone)]
pub struct Consensus {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: ConsensusConfig,
    pub(super) transport: Arc<dyn RaftTransport>,
    disk: Arc<dyn Disk>,
    replica: Replica,
    pub(super) shared: Arc<Shared>,
    running: RwLock<Result<Running, Error>>,
    status: watch::Sender<Status>,
    snapshot_failure: watch::Sender<Option<String>>,
    reads: mpsc::UnboundedSender<oneshot::Sender<Result<u64, Error>>>,
    /// A hand-over is going on: no new commands.
    pub(super) leaving: AtomicBool,
    /// Changes of the voters, one at a time.
    pub(super) changes: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// An open instance.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    snapshots: Snapshots,
}

impl Consensus {
    /// Opens the node's log on `disk`, or an empty one, and starts to take part. What the log
    /// says to be committed is in `replica` when this returns.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::WrongNode`], [`Error::Corrupt`], [`Error::Storage`].
    pub async fn start(
        config: ConsensusConfig,
        disk: Arc<dyn Disk>,
        transport: Arc<dyn RaftTransport>,
        replica: Replica,
    ) -> Result<Self, Error> {
        config.validate()?;
        let (reads, waiting_reads) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            shared: Shared::new(&config),
            running: RwLock::new(Err(Error::NotRunning("it is starting".into()))),
            status: watch::Sender::new(Status {
                node_id: config.node_id,
                role: Role::Down,
                ..Status::default()
            }),
            snapshot_failure: watch::Sender::new(None),
            reads,
            leaving: AtomicBool::new(false),
            changes: tokio::sync::Mutex::new(()),
            stop: watch::Sender::new(false),
            tasks: Mutex::new(Vec::new()),
            config,
            transport,
            disk,
            replica,
        });
        let first = inner.open().await;
        let first = match first {
            Ok(running) => {
                inner.set_running(Ok(running.clone()));
                Ok(running)
            }
            Err(e) => Err(inner.loss(&e).ok_or(e)?),
        };
        let tasks = vec![
            tokio::spawn(supervise(Arc::clone(&inner), first)),
            tokio::spawn(confirm_reads(Arc::clone(&inner), waiting_reads)),
        ];
        *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(Self { inner })
    }

    /// Founds a cluster of which this node is the only voter, and waits until it leads it.
    ///
    /// # Errors
    /// [`Error::AlreadyInitialized`] if it belongs to one already (nothing is changed then),
    /// [`Error::Timeout`] if it does not come to lead, and what the storage says.
    pub async fn initialize(&self) -> Result<(), Error> {
        let node_id = self.inner.config.node_id;
        let running = self.inner.running()?;
        match running.raft.initialize(BTreeSet::from([node_id])).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                return Err(Error::AlreadyInitialized {
                    node_id,
                    voters: self.status().voters,
                });
            }
            Err(RaftError::APIError(e)) => return Err(Error::Membership(e.to_string())),
            Err(RaftError::Fatal(e)) => return Err(self.inner.fatal(&running, &e)),
        }
        let mut status = self.watch_status();
        self.within("becoming the leader of the new cluster", async {
            status
                .wait_for(Status::is_leader)
                .await
                .map(|_| ())
                .map_err(|_| Error::Stopped)
        })
        .await
    }

    /// Whether this node belongs to a cluster: it has a log.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.inner
            .running()
            .is_ok_and(|running| running.log.last().is_some())
    }

    /// Has a command agreed on and applied here, and gives its place and outcome. Only on the
    /// leader. Commands proposed at the same time share their trips to the disk.
    ///
    /// # Errors
    /// Certainly not applied: [`Error::NotLeader`], [`Error::TooLarge`], [`Error::NotRunning`],
    /// [`Error::Stopped`] when returned at once. Possibly applied, now or later:
    /// [`Error::Deposed`], [`Error::Timeout`], [`Error::Storage`] and the others after a wait. A command that must
    /// not be doubled carries a number of its own.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, Error> {
        let limit = self.inner.config.max_command;
        if command.len() > limit {
            return Err(Error::TooLarge {
                bytes: command.len(),
                limit,
            });
        }
        let running = self.leading()?;
        self.inner.replica.claim();
        self.within("the proposal", async {
            match running.raft.client_write(command).await {
                Ok(written) => Ok(Proposed {
                    index: written.log_id.index,
                    outcome: written.data,
                }),
                // Also said of an entry that was in the log and was sent to others.
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                    let leader = self.other_leader();
                    Err(Error::Deposed { leader })
                }
                Err(RaftError::APIError(e)) => Err(Error::Membership(e.to_string())),
                Err(RaftError::Fatal(e)) => Err(self.inner.fatal(&running, &e)),
            }
        })
        .await
    }

    /// Confirms with a quorum that this node leads, and waits until the replica contains
    /// everything that was committed before the call. A read of the replica after it is
    /// linearizable. Concurrent calls share one round.
    ///
    /// Gives the index; another node that asked for it may wait for that index on its own
    /// replica ([`Replica::wait_for`]) and read there.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::NoQuorum`], [`Error::Timeout`] and what the storage says.
    pub async fn linearizable_read(&self) -> Result<u64, Error> {
        let (answer, answered) = oneshot::channel();
        self.within("the linearizable read", async {
            self.inner.reads.send(answer).map_err(|_| Error::Stopped)?;
            let index = answered.await.map_err(|_| Error::Stopped)??;
            self.inner.replica.wait_for(index).await;
            Ok(index)
        })
        .await
    }

    /// Answers a message that another node's [`RaftTransport::send`] brought here. The caller has
    /// authenticated the sender as a node of this cluster.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::NotRunning`], [`Error::Stopped`].
    pub async fn handle_rpc(&self, body: &[u8]) -> Result<Bytes, Error> {
        let request = wire::decode(body)?;
        if let Request::Witness { from, lost } = request {
            return wire::encode(&Reply::Witness(self.inner.testify(from, lost)));
        }
        let handler = Handler {
            running: self.inner.running()?,
            shared: &self.inner.shared,
            replica: &self.inner.replica,
            leads: self.inner.status.borrow().is_leader(),
        };
        wire::encode(&handler.answer(request).await)
    }

    /// This node's view of the group and of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.status.borrow().clone()
    }

    /// Follows [`status`](Self::status).
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// The replica that this node feeds.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.inner.replica
    }

    /// Makes a snapshot soon, whatever the length of the log.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Stopped`].
    pub async fn make_snapshot(&self) -> Result<(), Error> {
        let running = self.inner.running()?;
        running
            .raft
            .trigger()
            .snapshot()
            .await
            .map_err(|e| self.inner.fatal(&running, &e))
    }

    /// Stops taking part and closes the log. A leader had better
    /// [hand over](Self::hand_over) first.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(
            &mut *self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for task in tasks {
            let _ = task.await;
        }
    }

    /// The instance, if this node leads and is not about to leave.
    pub(super) fn leading(&self) -> Result<Running, Error> {
        let running = self.inner.running()?;
        let leads = running.raft.metrics().borrow().state.is_leader();
        if !leads || self.inner.leaving.load(Ordering::SeqCst) {
            return Err(self.not_leader());
        }
        Ok(running)
    }

    pub(super) fn not_leader(&self) -> Error {
        let leader = self.other_leader();
        Error::NotLeader { leader }
    }

    fn other_leader(&self) -> Option<u64> {
        let status = self.inner.status.borrow();
        // Its own view may be a moment old.
        status.leader.filter(|id| *id != status.node_id)
    }

    pub(super) async fn within<T>(
        &self,
        attempted: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let waited = self.inner.config.request_timeout;
        tokio::time::timeout(waited, work)
            .await
            .unwrap_or(Err(Error::Timeout { attempted, waited }))
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn running(&self) -> Result<Running, Error> {
        self.running
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What this node was told by node `from`.
    fn testify(&self, from: u64, lost: bool) -> Testimony {
        let witness = &self.shared.witness;
        if lost {
            witness.is_lost(from);
        } else {
            witness.is_on_trial(from);
        }
        match self.running() {
            Ok(running) => witness.testify(from, running.log.vote(), running.log.last()),
            Err(_) => witness.testify(from, Vote::default(), None),
        }
    }

    fn set_running(&self, running: Result<Running, Error>) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = running;
    }

    /// What a fatal error of the library means to a caller of the instance `running`.
    pub(super) fn fatal(&self, running: &Running, e: &Fatal<u64>) -> Error {
        if let Some(why) = running.log.failure() {
            return Error::Storage(why);
        }
        if *self.stop.borrow() {
            return Error::Stopped;
        }
        match e {
            Fatal::StorageError(e) => Error::Storage(e.to_string()),
            Fatal::Stopped | Fatal::Panicked => match self.running() {
                Err(e) => e,
                Ok(_) => Error::NotRunning(e.to_string()),
            },
        }
    }

    async fn open(&self) -> Result<Running, Error> {
        let config = library_config(&self.config)?;
        self.shared.distrust();
        let witness = Arc::clone(&self.shared.witness);
        let log = LogStore::open(&self.disk, self.config.node_id, Arc::clone(&witness)).await?;
        let snapshots = Snapshots::new(Arc::clone(&self.disk), self.snapshot_failure.clone());
        let opened = async {
            let applier = Applier::open(
                self.replica.clone(),
                log.clone(),
                snapshots.clone(),
                witness,
            )
            .await?;
            let network = Network {
                transport: Arc::clone(&self.transport),
                log: log.clone(),
                shared: Arc::clone(&self.shared),
                retry: self.config.heartbeat,
            };
            Raft::new(
                self.config.node_id,
                Arc::new(config),
                network,
                log.clone(),
                applier,
            )
            .await
            .map_err(|e| Error::Storage(e.to_string()))
        };
        match opened.await {
            Ok(raft) => Ok(Running {
                raft,
                log,
                snapshots,
            }),
            Err(e) => {
                log.close(&self.disk).await;
                Err(e)
            }
        }
    }

    /// Why the log is lost, where that is what is wrong with it, and others have it.
    fn loss(&self, e: &Error) -> Option<String> {
        match e {
            Error::Corrupt { file, detail } if !self.transport.others().is_empty() => {
                Some(format!("{file} is damaged: {detail}"))
            }
            _ => None,
        }
    }

    /// This node's log is not what others were told. It takes no part before they know.
    fn tell_of_loss(&self, why: &str) {
        let failure = format!(
            "{why}; this node has no vote until a majority of the others has taken it out of the voters, and then begins a \
             new log by itself; replace the disk if this happens again"
        );
        tracing::error!("this node's log is lost: {failure}");
        self.set_running(Err(Error::NotRunning(failure.clone())));
        self.status.send_modify(|status| {
            status.role = Role::Down;
            status.leader = None;
            status.has_quorum = false;
            status.failure = Some(failure);
            status.lost.insert(self.config.node_id);
        });
    }

    async fn clear(&self) -> std::io::Result<()> {
        crate::disk::run(&self.disk, crate::Disk::clear).await
    }

    async fn close(&self, running: Running) {
        let _ = running.raft.shutdown().await;
        running.snapshots.close().await;
        running.log.close(&self.disk).await;
    }
}

/// Keeps an instance running until the node is stopped. `first` is one, or why the log is lost.
async fn supervise(inner: Arc<Inner>, first: Result<Running, String>) {
    let mut stop = inner.stop.subscribe();
    let (mut current, mut lost) = match first {
        Ok(first) => (Some(first), None),
        Err(why) => (None, Some(why)),
    };
    let mut pause = REOPEN_MIN;
    loop {
        if let Some(why) = lost.take() {
            inner.tell_of_loss(&why);
            tokio::select! {
                () = trial::wait_to_begin_anew(&inner) => {}
                _ = stop.wait_for(|stop| *stop) => {
                    inner.set_running(Err(Error::Stopped));
                    return;
                }
            }
            match inner.clear().await {
                Ok(()) => {
                    tracing::warn!("nobody counts on the lost log any more: a new one is begun");
                }
                Err(e) => tracing::error!("the lost log cannot be cleared away: {e}"),
            }
        }
        let why = if let Some(running) = current.take() {
            let driver = Driver {
                config: inner.config.clone(),
                raft: running.raft.clone(),
                log: running.log.clone(),
                replica: inner.replica.clone(),
                transport: Arc::clone(&inner.transport),
                shared: Arc::clone(&inner.shared),
                snapshots: running.snapshots.clone(),
                status: inner.status.clone(),
            };
            let started = tokio::time::Instant::now();
            let on_trial = async {
                match trial::stand(&inner, &running).await {
                    Some(why) => why,
                    None => std::future::pending().await,
                }
            };
            let failed = tokio::select! {
                why = driver.run() => Some(why),
                why = on_trial => {
                    lost = Some(why.clone());
                    Some(why)
                }
                _ = stop.wait_for(|stop| *stop) => None,
            };
            let reason = match &failed {
                Some(why) => Error::NotRunning(why.clone()),
                None => Error::Stopped,
            };
            inner.set_running(Err(reason));
            inner.replica.release();
            inner.close(running).await;
            if started.elapsed() > REOPEN_MAX {
                pause = REOPEN_MIN;
            }
            failed
        } else {
            match inner.open().await {
                Ok(running) => {
                    tracing::info!("consensus runs again");
                    inner.set_running(Ok(running.clone()));
                    current = Some(running);
                    continue;
                }
                Err(e) => {
                    lost = inner.loss(&e);
                    Some(e.to_string())
                }
            }
        };
        inner.status.send_modify(|status| {
            status.role = Role::Down;
            status.leader = None;
            status.has_quorum = false;
            status.failure.clone_from(&why);
        });
        let Some(why) = why else { return };
        tracing::error!("consensus stopped and is reopened in {pause:?}: {why}");
        inner.set_running(Err(Error::NotRunning(why)));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => {
                inner.set_running(Err(Error::Stopped));
                return;
            }
        }
        pause = (pause * 2).min(REOPEN_MAX);
    }
}

/// Confirms leadership once for all reads that wait.
async fn confirm_reads(
    inner: Arc<Inner>,
    mut waiting: mpsc::UnboundedReceiver<oneshot::Sender<Result<u64, Error>>>,
) {
    let mut stop = inner.stop.subscribe();
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            count = waiting.recv_many(&mut batch, 1024) => count,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if count == 0 {
            return;
        }
        batch.retain(|answer| !answer.is_closed());
        let node = Consensus {
            inner: Arc::clone(&inner),
        };
        let confirmed = match node.inner.running() {
            Err(e) => Err(e),
            Ok(running) => match running.raft.get_read_log_id().await {
                Ok((read, _)) => Ok(read.map_or(0, |id| id.index)),
                Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => {
                    Err(node.not_leader())
                }
                Err(RaftError::APIError(e)) => Err(Error::NoQuorum(e.to_string())),
                Err(RaftError::Fatal(e)) => Err(inner.fatal(&running, &e)),
            },
        };
        for answer in batch.drain(..) {
            // Who asked may have given up.
            let _ = answer.send(confirmed.clone());
        }
    }
}

/// The library's settings. Its own election timer is off (`driver` stands in its place); what it
/// still does with its election timeout is to refuse votes for that long after a heartbeat, which
/// is kept short so that a hand-over is quick: `rpc` keeps the real lease.
fn library_config(config: &ConsensusConfig) -> Result<Config, Error> {
    let heartbeat = u64::try_from(config.heartbeat.as_millis()).unwrap_or(u64::MAX / 2);
    Config {
        cluster_name: "swarm".into(),
        heartbeat_interval: heartbeat,
        election_timeout_min: heartbeat + 1,
        election_timeout_max: heartbeat + 2,
        enable_elect: false,
        install_snapshot_timeout: 30_000,
        snapshot_max_chunk_size: SNAPSHOT_PIECE,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_threshold),
        max_in_snapshot_log_to_keep: config.keep_behind_snapshot,
        replication_lag_threshold: config.snapshot_threshold + config.keep_behind_snapshot,
        purge_batch_size: 256.min(config.snapshot_threshold),
        max_payload_entries: 512,
        ..Config::default()
    }
    .validate()
    .map_err(|e| Error::Config(e.to_string()))
}
