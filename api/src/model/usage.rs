//! What takes up a host's disk. Sizes are bytes as on the disk: blocks, not lengths.

use super::{Id, ImageReference, TaskState, Timestamp};
use serde::{Deserialize, Serialize};

/// What takes up one host's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct DiskUsage {
    /// The host's name.
    pub node_name: String,
    /// Why it could not be asked; nothing else is said then.
    pub error: Option<String>,
    /// The file system of the data directory.
    pub disk_total: u64,
    /// What is free of it.
    pub disk_free: u64,
    /// All layers, each once.
    pub layers: u64,
    /// What would be free if all images that nothing uses were removed.
    pub reclaimable: u64,
    /// Images, by digest.
    pub images: Vec<ImageUsage>,
    /// Tasks' containers.
    pub tasks: Vec<TaskUsage>,
    /// Volumes.
    pub volumes: Vec<VolumeUsage>,
}

/// What an image takes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsage {
    /// Its names.
    pub names: Vec<ImageReference>,
    /// Its digest.
    pub digest: String,
    /// Layers that other images have as well.
    pub shared: u64,
    /// Layers that no other image has.
    pub unique: u64,
    /// How many tasks' containers stand on it.
    pub tasks: u32,
    /// When it was last used, or came.
    pub used_at: Timestamp,
}

/// What a task's container takes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskUsage {
    /// The task's name.
    pub task: String,
    /// The task's id.
    pub task_id: Id,
    /// Its state.
    pub state: TaskState,
    /// What it has written into its root file system.
    pub writable: u64,
    /// The limit of that.
    pub limit: Option<u64>,
    /// Its log.
    pub log: u64,
}

/// What a volume takes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUsage {
    /// Its name; empty if it has none.
    pub name: String,
    /// The task that it goes with, where it has no name.
    pub task: Option<String>,
    /// What is in it.
    pub size: u64,
    /// How many tasks have it mounted.
    pub tasks: u32,
}
