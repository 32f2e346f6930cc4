//! What every member does from its replica: runs the tasks that are placed on it, tells what becomes of them, and
//! keeps images, networks and names as the replica has them.
//!
//! The shells here are thin; what is to be done is decided in pure functions, most of them in `swarm_cluster`. It must
//! not know who leads, and asks a peer for nothing but layers of images.

mod backoff;
mod capacity;
mod collect;
mod dns;
mod footing;
mod images;
mod kernel;
mod lanes;
mod local;
mod networks;
mod reconcile;
mod report;
#[cfg(test)]
mod tests;
mod warnings;

pub use capacity::capacity;
pub use collect::{Overdue, View};
pub use kernel::{Kernel, SystemKernel};
pub use warnings::Warnings;

use crate::runtime::Runtime;
use crate::share::Fetcher;
use dns::Dns;
use footing::Footing;
use futures_util::future::join_all;
use images::Images;
use local::Local;
use networks::Networks;
use reconcile::{Reconciler, remove_task};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_api::Result;
use swarm_api::model::{NodeHealth, NodeId, Task};
use swarm_cluster::State;
use swarm_member::Member;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Pause between two looks at what tells of no change.
const LOOK: Duration = Duration::from_millis(200);
/// The longest that a task may take to stop when its host leaves the cluster.
const LAST_STOP: Duration = Duration::from_secs(10);

/// What a node is started with.
#[derive(Clone)]
pub struct NodeConfig {
    /// Where programs of the host resolve the cluster's names.
    pub dns_listen: SocketAddr,
    /// Whether it was asked for, so that a failure to listen there is an error and not a warning.
    pub dns_required: bool,
    /// The address that other nodes reach this host at.
    pub underlay: IpAddr,
    /// What programs this host's network.
    pub kernel: Arc<dyn Kernel>,
    /// What gets images.
    pub(crate) fetcher: Arc<Fetcher>,
}

/// What this host does for its cluster, until [`Node::stop`].
pub struct Node {
    local: Arc<Local>,
    networks: Arc<Networks>,
    warnings: Warnings,
    stop: CancellationToken,
    /// Everything but name resolution, which is to be there for as long as a task is.
    loops: Mutex<JoinSet<()>>,
    names: Mutex<JoinSet<()>>,
    stop_names: CancellationToken,
}

impl Node {
    /// Starts everything that follows the replica of `member`.
    ///
    /// # Errors
    /// When an address for DNS that was asked for cannot be listened at.
    pub async fn start(member: Member, host: Arc<dyn Runtime>, config: NodeConfig) -> Result<Self> {
        let warnings = Warnings::default();
        let (footing, sure) = watch::channel(Footing::Unsure);
        let local = Arc::new(Local::new(Arc::clone(&host)));
        let networks = Arc::new(Networks::new(
            member.clone(),
            Arc::clone(&local),
            Arc::clone(&config.kernel),
            config.underlay,
            warnings.clone(),
            sure.clone(),
        ));
        let (dns, bound) = Dns::start(
            member.clone(),
            config.kernel,
            Arc::clone(&networks),
            warnings.clone(),
            config.dns_listen,
            config.dns_required,
        )
        .await?;
        let images = Arc::new(Images::new(
            member.clone(),
            Arc::clone(&host),
            config.fetcher,
        ));
        let reconciler = Arc::new(Reconciler::new(
            member.clone(),
            Arc::clone(&local),
            Arc::clone(&images),
            Arc::clone(&networks),
            sure,
        ));

        let (stop, stop_names) = (CancellationToken::new(), CancellationToken::new());
        let mut loops = JoinSet::new();
        let mut names = JoinSet::new();
        loops.spawn({
            let (member, stop) = (member.clone(), stop.clone());
            async move {
                let _ = stop
                    .run_until_cancelled(footing::find(member, footing))
                    .await;
            }
        });
        loops.spawn(reconciler.run(stop.clone()));
        loops.spawn(collect::run(member.clone(), host, stop.clone()));
        loops.spawn({
            let (local, stop) = (Arc::clone(&local), stop.clone());
            async move { report::run(member, &local, stop).await }
        });
        loops.spawn({
            let (local, stop) = (Arc::clone(&local), stop.clone());
            async move { images.keep(&local, stop).await }
        });
        loops.spawn({
            let (networks, stop) = (Arc::clone(&networks), stop.clone());
            async move { networks.run(stop).await }
        });
        names.spawn({
            let stop = stop_names.clone();
            async move { dns.run(bound, stop).await }
        });
        Ok(Self {
            local,
            networks,
            warnings,
            stop,
            loops: Mutex::new(loops),
            names: Mutex::new(names),
            stop_names,
        })
    }

    /// What is wrong with this node at present; a handle that stays up to date.
    #[must_use]
    pub fn warnings(&self) -> Warnings {
        self.warnings.clone()
    }

    /// Ends following the replica. Containers and networks stay as they are; with `leave`, all tasks of the cluster
    /// are stopped and removed, and so is everything of its networks.
    pub async fn stop(&self, leave: bool) {
        self.stop.cancel();
        ended(&self.loops).await;
        if leave {
            let tasks = self.local.tasks();
            join_all(tasks.iter().map(|task| self.take_away(task))).await;
        }
        self.stop_names.cancel();
        ended(&self.names).await;
        if leave {
            self.networks.teardown().await;
        }
    }

    async fn take_away(&self, task: &Task) {
        if !task.status.state.is_final() && self.local.host_has(&task.id) {
            let timeout = task.spec.stop_timeout().min(LAST_STOP);
            // What is not stopped is killed when it is removed.
            if let Err(why) = self.local.host.stop_task(&task.id, timeout).await {
                tracing::debug!(task = task.name, %why, "a task was not stopped before its removal");
            }
        }
        if let Err(why) = remove_task(&self.local, &self.networks, &task.id).await {
            tracing::warn!(task = task.name, %why, "something of a task stays on this host");
        }
    }
}

/// Waits until all of them have ended.
async fn ended(loops: &Mutex<JoinSet<()>>) {
    let mut loops = std::mem::take(&mut *loops.lock().unwrap_or_else(PoisonError::into_inner));
    while loops.join_next().await.is_some() {}
}

/// What the replica says of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Nothing yet: the replica is empty, because nobody has been heard from. It asks for nothing.
    Unknown,
    /// The host is in the cluster.
    In,
    /// The host has left the cluster or was taken out of it, and with it its tasks.
    Out,
}

/// What concerns this host's tasks: another whenever there may be something to do to them, or to tell of them.
fn own(state: &State, node: NodeId) -> (Part, Option<NodeHealth>, u64) {
    let health = state.nodes.get(&node).map(|n| n.health);
    (part(state, node), health, state.tasks.revision_of(node))
}

fn part(state: &State, node: NodeId) -> Part {
    if state.cluster.is_empty() {
        Part::Unknown
    } else if state.nodes.contains_key(&node) {
        Part::In
    } else {
        Part::Out
    }
}
