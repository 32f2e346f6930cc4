//! Finds the containers of an earlier life of the agent again.

use super::container::{Container, Shared};
use super::types::EngineConfig;
use super::{cleanup, connection};
use crate::shim::files::{self, Ending};
use crate::shim::launch::Launch;
use crate::shim::protocol::Purpose;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::broadcast;

/// How the name of a directory begins that is being removed. No container's id begins so.
pub(super) const REMOVED: &str = ".removed-";

/// How long a shim may take to answer before it is taken for dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file `launch.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    #[serde(flatten)]
    pub(super) launch: Launch,
    /// The host's boot in which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
}

/// The host's boot, which is another one after each start.
pub(super) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// The ids of the containers in the state directory. What was about to be removed is.
pub(super) fn ids(config: &EngineConfig) -> Result<Vec<String>> {
    let attempt = || format!("read the containers in {}", config.state_dir.display());
    let mut ids = Vec::new();
    for entry in fs::read_dir(&config.state_dir).map_err(|e| Error::io(attempt(), e))? {
        let entry = entry.map_err(|e| Error::io(attempt(), e))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with(REMOVED) {
            if let Err(error) = cleanup::remove_tree(&entry.path()) {
                tracing::warn!(%error, "what is left of a removed container stays");
            }
        } else if super::check_id(&name).is_ok() && entry.path().is_dir() {
            ids.push(name);
        }
    }
    Ok(ids)
}

/// One container, with its shim if that lives.
pub(super) async fn recover(
    id: &str,
    dir: PathBuf,
    run: PathBuf,
    boot: &str,
    events: broadcast::Sender<(String, super::ContainerState)>,
) -> Result<Container> {
    let shared = |state| Shared::new(id, dir.clone(), run.clone(), state, events.clone());
    if let Some(ending) = ending(&dir) {
        return Ok(Container::ended(shared(ending.into())));
    }
    let opening = async {
        match connection::connect(&run).await? {
            Some(stream) => connection::open(stream, Purpose::Control).await,
            None => Ok(None),
        }
    };
    match tokio::time::timeout(PATIENCE, opening).await {
        Ok(Ok(Some((opened, reader, writer)))) => {
            let shared = shared(opened.phase.into());
            return Ok(Container::connected(
                shared,
                opened.shim,
                reader,
                writer,
                None,
            ));
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::warn!(container = id, %error, "a shim cannot be used"),
        Err(_) => tracing::warn!(container = id, "a shim does not answer"),
    }
    // It may have ended just now, in order.
    if let Some(ending) = ending(&dir) {
        return Ok(Container::ended(shared(ending.into())));
    }
    let why = why(&dir, boot);
    let ending = cleanup::kill_rest(id, &dir, why).await;
    Ok(Container::ended(shared(ending.into())))
}

fn ending(dir: &Path) -> Option<Ending> {
    files::read(&dir.join(files::ENDING)).ok().flatten()
}

fn why(dir: &Path, boot: &str) -> String {
    let order: Option<Order> = files::read(&dir.join(files::LAUNCH)).ok().flatten();
    match order {
        None => "it was not made completely: the agent or its host went down meanwhile".to_owned(),
        Some(order) if order.boot.as_deref() != Some(boot) => "its host was restarted".to_owned(),
        Some(_) => "its shim had ended when the agent came back, so that what ran in it was killed"
            .to_owned(),
    }
}
