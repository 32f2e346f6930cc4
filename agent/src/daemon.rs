//! The program: hands an agent this host's runtime, kernel, network, disk and clock, and serves its sockets until it is told
//! to end.

use crate::agent::{Agent, AgentConfig};
use crate::builtin;
use crate::config::Config;
use crate::lock::DataLock;
use crate::node::SystemKernel;
use crate::rootless;
use crate::runtime::Runtime;
use anyhow::{Context, Result};
use futures_util::FutureExt;
use std::path::Path;
use std::sync::Arc;
use swarm_api::{Backend, Control, grpc};
use swarm_member::World;
use swarm_runtime::host::{Host, HostConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The version that `version` and every node's record tell.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

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
    let agent = Agent::new(
        agent_config(&config),
        World::system(&config.data_dir),
        Arc::new(SystemKernel::open()),
        Arc::clone(&host) as Arc<dyn Runtime>,
    );
    let agent = Arc::new(agent.with_image_rate(config.image_rate));
    agent.resume().await?;

    let stop = CancellationToken::new();
    let alone = tokio::spawn(collect_alone(
        Arc::clone(&agent),
        Arc::clone(&host),
        stop.clone(),
    ));
    let backend: Arc<dyn Backend> = host;
    let mut sockets = vec![serve(
        &run_dir.join("host.sock"),
        grpc::routes(Arc::clone(&backend), None),
        &stop,
    )];
    let (front, control): (_, Arc<dyn Control>) = if config.rootless {
        (Arc::clone(&backend), Arc::new(rootless::Alone))
    } else {
        (agent.backend(), agent.clone())
    };
    sockets.push(serve(
        &run_dir.join("cluster.sock"),
        grpc::routes(front, Some(control)),
        &stop,
    ));
    info!(version = VERSION, name = %config.name, "swarmd is ready");

    let mut failed = None;
    let mut ended = futures_util::future::select_all(&mut sockets).fuse();
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: ending; containers go on"),
        _ = interrupt.recv() => info!("SIGINT: ending; containers go on"),
        (outcome, _, _) = &mut ended => failed = Some(outcome),
    }
    drop(ended);
    stop.cancel();
    let _ = alone.await;
    agent.stop().await;
    match failed {
        None => Ok(()),
        Some(outcome) => outcome.context("a socket's server ended")?,
    }
}

/// Looks after the images of a host that is in no cluster.
async fn collect_alone(agent: Arc<Agent>, host: Arc<Host>, stop: CancellationToken) {
    let Some(interval) = host.collect_interval() else {
        return;
    };
    let rest = || tokio::time::sleep(interval);
    while stop.run_until_cancelled(rest()).await.is_some() {
        // Entering or leaving a cluster holds this: then it is no time for it.
        let Ok(part) = agent.part.try_lock() else {
            continue;
        };
        if part.is_some() {
            continue;
        }
        let collected = async {
            for (reference, used_at) in host.overdue_images(|_| false, |_| false).await? {
                if host.evict_image(&reference, used_at).await? {
                    info!(%reference, "removed an image that nobody has used for long, or for want of room");
                }
            }
            Ok::<_, swarm_api::Error>(())
        };
        if let Err(why) = collected.await {
            tracing::debug!(%why, "images are looked after later");
        }
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
        gc: config.gc.clone(),
    }
}

fn agent_config(config: &Config) -> AgentConfig {
    AgentConfig {
        name: config.name.clone(),
        version: VERSION.into(),
        listen: config.listen,
        advertise: config.advertise,
        dns_listen: config.dns_listen,
    }
}
