//! What the agent tells a shim about its container, beside the OCI spec: the file `launch.json`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use swarm_api::backend::WindowSize;

/// One container's launch parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The layers' directories, topmost first. If there are none, the spec's `root.path` is the root as it is.
    pub lower: Vec<PathBuf>,
    /// Bytes of log kept before the file is rotated; one old file is kept beside it.
    pub log_max_bytes: u64,
    /// The most bytes that the container may write over its layers.
    #[serde(default)]
    pub storage: Option<u64>,
    /// Whether standard input stays open until an attached client closes it; else it is empty.
    pub stdin: bool,
    /// The terminal's first size, where the process has one.
    pub size: Option<WindowSize>,
}
