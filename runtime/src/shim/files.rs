//! The files of one container's state directory, and the record of its end. Must not know who reads them.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use swarm_api::model::{ExitStatus, Timestamp};

/// The OCI runtime spec.
pub(crate) const SPEC: &str = "spec.json";
/// The `Launch`, and what the engine adds to it.
pub(crate) const LAUNCH: &str = "launch.json";
/// When the process was started.
pub(crate) const STARTED: &str = "started.json";
/// The `Ending`.
pub(crate) const ENDING: &str = "exit.json";
/// What the shim itself had to say: nothing, unless it failed.
pub(crate) const COMPLAINTS: &str = "shim.err";
/// The overlay's writable directory.
pub(crate) const UPPER: &str = "upper";
/// The overlay's work directory.
pub(crate) const WORK: &str = "work";
/// The shim's socket, in the container's run directory.
pub(crate) const SOCKET: &str = "shim.sock";

/// How a container ended. Written before anybody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// How its first process ended.
    pub exit: ExitStatus,
    /// When it was started, if it was.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// For people: why, where the exit status alone does not say it.
    #[serde(default)]
    pub message: String,
}

/// When a container's process was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Then.
    pub(crate) at: Timestamp,
}

/// Reads a JSON file; nothing if it is not there.
pub(crate) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("read {}", path.display()), e)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::Internal(format!("{} is not as it was written: {e}", path.display())))
}

/// Writes a JSON file so that a reader sees all of it or nothing. It outlives the writing process; after a
/// power cut it may be missing (nothing is forced to the disk: the container is gone then as well).
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value)
        .map_err(|e| Error::Internal(format!("cannot put {} into JSON: {e}", path.display())))?;
    let new: PathBuf = path.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&new);
        Error::io(format!("write {}", path.display()), e)
    })
}

/// Now, by the host's clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
