//! Holds the rooms together for as long as the program runs: one host's runtime from the start, and the cluster's
//! part while the host is in one. The only place that knows all of them.

use crate::backend::ClusterBackend;
use crate::config::Config;
use crate::front::Front;
use crate::lock::DataLock;
use crate::node::Node;
use crate::{address, builtin, leader, node};
use anyhow::{Context, Result};
use futures_util::FutureExt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use swarm_api::{Backend, Control, grpc};
use swarm_member::{Member, MemberConfig};
use swarm_runtime::host::{Host, HostConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The version that `version` and every node's record tell.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The file below the data directory with the address that `init` or `join` was given.
const ADVERTISED: &str = "advertise-addr";

/// One agent.
pub struct Daemon {
    pub(crate) config: Config,
    pub(crate) host: Arc<Host>,
    front: Arc<Front>,
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

/// Runs the agent until SIGTERM or SIGINT; containers go on.
///
/// # Errors
/// What keeps it from starting: a data directory in use, a socket that cannot be made, a damaged state.
pub async fn run(config: Config) -> Result<()> {
    // Before anything else, so that a signal is never lost to the default.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let _lock = DataLock::take(&config.data_dir)?;
    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("cannot make the directory {}", config.run_dir.display()))?;
    let run_dir = config.run_dir.clone();
    let host = Host::open(host_config(&config)).await?;
    let daemon = Arc::new(Daemon {
        front: Arc::new(Front::new(VERSION, &config.name)),
        part: Mutex::new(None),
        host: Arc::clone(&host),
        config,
    });
    daemon.resume().await?;

    let stop = CancellationToken::new();
    let backend: Arc<dyn Backend> = host;
    let mut sockets = vec![serve(
        &run_dir.join("host.sock"),
        grpc::routes(backend, None),
        &stop,
    )];
    let front: Arc<dyn Backend> = daemon.front.clone();
    let control: Arc<dyn Control> = daemon.clone();
    sockets.push(serve(
        &run_dir.join("cluster.sock"),
        grpc::routes(front, Some(control)),
        &stop,
    ));
    info!(version = VERSION, name = %daemon.config.name, "swarmd is ready");

    let mut failed = None;
    let mut ended = futures_util::future::select_all(&mut sockets).fuse();
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: ending; containers go on"),
        _ = interrupt.recv() => info!("SIGINT: ending; containers go on"),
        (outcome, _, _) = &mut ended => failed = Some(outcome),
    }
    drop(ended);
    stop.cancel();
    if let Some(part) = daemon.part.lock().await.take() {
        daemon.front.close();
        part.end(false).await;
        part.member.shutdown().await;
    }
    match failed {
        None => Ok(()),
        Some(outcome) => outcome.context("a socket's server ended")?,
    }
}

fn serve(
    path: &Path,
    routes: tonic::service::Routes,
    stop: &CancellationToken,
) -> JoinHandle<Result<()>> {
    let (path, stop) = (path.to_owned(), stop.clone());
    tokio::spawn(async move {
        grpc::serve_unix(&path, routes, stop.cancelled_owned()).await?;
        Ok(())
    })
}

fn host_config(config: &Config) -> HostConfig {
    HostConfig {
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        node_name: config.name.clone(),
        // Not the path it was started by: that may be another version by then.
        shim: vec!["/proc/self/exe".into(), "shim".into()],
        version: VERSION.into(),
        builtin: vec![builtin::whoami()],
        registry: config.registry.clone(),
    }
}

impl Daemon {
    /// Takes up the part in a cluster that this host had before.
    async fn resume(&self) -> Result<()> {
        if !Member::is_member(&self.config.data_dir) {
            return Ok(());
        }
        let member = Member::resume(self.member_config(None)?)
            .await
            .context("cannot take up this host's place in its cluster")?;
        self.take_part(member, &mut *self.part.lock().await).await?;
        Ok(())
    }

    /// Starts what a member does.
    pub(crate) async fn take_part(
        &self,
        member: Member,
        part: &mut Option<Part>,
    ) -> swarm_api::Result<()> {
        let node = Node::start(
            member.clone(),
            Arc::clone(&self.host),
            self.node_config(&member),
        )
        .await?;
        let stop = CancellationToken::new();
        let backend = ClusterBackend::new(member.clone(), Arc::clone(&self.host));
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
        part.end(true).await;
        part.member.shutdown().await;
        if let Err(why) = Member::forget(&self.config.data_dir) {
            warn!(%why, "cannot remove what this host knew of its cluster");
        }
        let _ = std::fs::remove_file(self.config.data_dir.join(ADVERTISED));
    }

    fn node_config(&self, member: &Member) -> node::NodeConfig {
        let (dns_listen, dns_required) = self.config.dns_listen;
        node::NodeConfig {
            dns_listen,
            dns_required,
            underlay: member.advertise().ip(),
        }
    }

    /// What membership is started with. `given` is what the user asks to be reached at; it is kept for later starts.
    pub(crate) fn member_config(&self, given: Option<IpAddr>) -> swarm_api::Result<MemberConfig> {
        let kept = self.config.data_dir.join(ADVERTISED);
        let advertise = match given.or(self.config.advertise) {
            Some(ip) => ip,
            None => match std::fs::read_to_string(&kept)
                .ok()
                .and_then(|t| t.trim().parse().ok())
            {
                Some(ip) => ip,
                None => address::of_default_route()?,
            },
        };
        if let Some(ip) = given {
            std::fs::write(&kept, format!("{ip}\n")).map_err(|e| {
                swarm_api::Error::Internal(format!("cannot write {}: {e}", kept.display()))
            })?;
        }
        Ok(MemberConfig {
            data_dir: self.config.data_dir.clone(),
            listen: self.config.listen,
            advertise: SocketAddr::new(advertise, self.config.listen.port()),
            name: self.config.name.clone(),
            version: VERSION.into(),
            capacity: node::capacity(),
            routes: grpc::routes(Arc::clone(&self.host) as Arc<dyn Backend>, None),
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
