//! One agent: the rooms that are a host's part in a cluster, while it is in one. What is around it is handed in, so that it
//! runs in a simulation as it does in `swarmd`. The only place that knows all rooms.

use crate::backend::ClusterBackend;
use crate::front::Front;
use crate::leader;
use crate::node::{Kernel, Node, NodeConfig};
use crate::runtime::Runtime;
use crate::share::{Fetcher, Share};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use swarm_api::{Backend, Error, Result, grpc};
use swarm_member::{Member, MemberConfig, World};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The folder, and the file in it, with the address that `init` or `join` was given.
const FOLDER: &str = "agent";
const ADVERTISED: &str = "advertise-addr";

/// What an agent is told.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The node's name.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// Where other agents are listened for.
    pub listen: SocketAddr,
    /// Where others reach this host, if the operator says so.
    pub advertise: Option<IpAddr>,
    /// Where programs of the host resolve names, and whether that was asked for.
    pub dns_listen: (SocketAddr, bool),
}

/// One agent.
pub struct Agent {
    config: AgentConfig,
    world: World,
    kernel: Arc<dyn Kernel>,
    host: Arc<dyn Runtime>,
    pub(crate) front: Arc<Front>,
    share: Share,
    /// The part in a cluster; locked while a host enters or leaves one.
    pub(crate) part: Mutex<Option<Part>>,
}

/// This host's part in a cluster.
pub(crate) struct Part {
    pub(crate) member: Member,
    node: Node,
    leader: JoinHandle<()>,
    stop: CancellationToken,
}

impl Agent {
    /// An agent that is in no cluster yet; see [`Agent::resume`].
    #[must_use]
    pub fn new(
        config: AgentConfig,
        world: World,
        kernel: Arc<dyn Kernel>,
        host: Arc<dyn Runtime>,
    ) -> Self {
        Self {
            front: Arc::new(Front::new(&config.version, &config.name)),
            share: Share::default(),
            part: Mutex::new(None),
            config,
            world,
            kernel,
            host,
        }
    }

    /// Bounds what is sent to peers of images, and what is received from them; in bytes a second.
    #[must_use]
    pub fn with_image_rate(mut self, rate: Option<u64>) -> Self {
        self.share = Share::new(rate);
        self
    }

    /// Takes up the part in a cluster that this host had before, if it had one.
    ///
    /// # Errors
    /// A damaged state, a port in use.
    pub async fn resume(&self) -> Result<()> {
        if !Member::is_member(&self.world) {
            return Ok(());
        }
        let member = Member::resume(self.member_config(None)?)
            .await
            .map_err(|why| why.context("cannot take up this host's place in its cluster"))?;
        self.take_part(member, &mut *self.part.lock().await).await
    }

    /// Ends the part in a cluster until the next start; containers go on.
    pub async fn stop(&self) {
        if let Some(part) = self.part.lock().await.take() {
            self.front.end();
            self.host.share(None);
            part.end(false).await;
            part.member.shutdown().await;
        }
    }

    /// What answers users: the cluster, where this host is in one.
    #[must_use]
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.front) as Arc<dyn Backend>
    }

    /// This host as a member of its cluster.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it is in none.
    pub async fn member(&self) -> Result<Member> {
        let part = self.part.lock().await;
        part.as_ref()
            .map(|p| p.member.clone())
            .ok_or_else(|| self.front.absence())
    }

    /// As [`Agent::member`], where that can be said at once.
    #[must_use]
    pub fn try_member(&self) -> Option<Member> {
        let part = self.part.try_lock().ok()?;
        part.as_ref().map(|p| p.member.clone())
    }

    /// Starts what a member does.
    pub(crate) async fn take_part(&self, member: Member, part: &mut Option<Part>) -> Result<()> {
        let host = Arc::clone(&self.host);
        let fetcher = (self.share).fetcher(member.clone(), Arc::clone(&self.host));
        let config = self.node_config(&member, Arc::clone(&fetcher));
        let node = Node::start(member.clone(), host, config).await?;
        self.host
            .share(Some(Arc::new(self.share.peers(member.clone()))));
        let stop = CancellationToken::new();
        let backend = ClusterBackend::new(member.clone(), Arc::clone(&self.host), fetcher);
        self.front.open(Arc::new(backend), node.warnings());
        *part = Some(Part {
            leader: tokio::spawn(leader::run(member.clone(), stop.clone())),
            member,
            node,
            stop,
        });
        Ok(())
    }

    /// Ends what a member does, its tasks included.
    pub(crate) async fn give_up(&self, part: Part) {
        self.front.close();
        self.host.share(None);
        part.end(true).await;
        part.member.shutdown().await;
        if let Err(why) = Member::forget(&self.world) {
            warn!(%why, "cannot remove what this host knew of its cluster");
        }
        if let Ok(folder) = self.world.storage.folder(FOLDER) {
            let _ = folder.remove(ADVERTISED);
        }
    }

    fn node_config(&self, member: &Member, fetcher: Arc<Fetcher>) -> NodeConfig {
        let (dns_listen, dns_required) = self.config.dns_listen;
        NodeConfig {
            dns_listen,
            dns_required,
            underlay: member.advertise().ip(),
            kernel: Arc::clone(&self.kernel),
            fetcher,
        }
    }

    /// What membership is started with. `given` is what the user asks to be reached at; it is kept for later starts.
    pub(crate) fn member_config(&self, given: Option<IpAddr>) -> Result<MemberConfig> {
        let kept = |e| {
            let dir = self.world.storage.describe(FOLDER);
            Error::Internal(format!("cannot use {dir}/{ADVERTISED}: {e}"))
        };
        let folder = self.world.storage.folder(FOLDER).map_err(kept)?;
        let advertise = match given.or(self.config.advertise) {
            Some(ip) => ip,
            None => match folder
                .read(ADVERTISED)
                .ok()
                .flatten()
                .and_then(|t| address(&t))
            {
                Some(ip) => ip,
                None => self.kernel.address()?,
            },
        };
        if let Some(ip) = given {
            folder
                .write_atomic(ADVERTISED, &[format!("{ip}\n").as_bytes()])
                .map_err(kept)?;
        }
        Ok(MemberConfig {
            world: self.world.clone(),
            listen: self.config.listen,
            advertise: SocketAddr::new(advertise, self.config.listen.port()),
            name: self.config.name.clone(),
            version: self.config.version.clone(),
            capacity: self.kernel.capacity(),
            routes: grpc::routes(Arc::clone(&self.host) as Arc<dyn Backend>, None)
                .add_service(self.share.server(Arc::clone(&self.host))),
        })
    }
}

impl Part {
    async fn end(&self, leave: bool) {
        self.stop.cancel();
        self.node.stop(leave).await;
        self.leader.abort();
    }
}

fn address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}
