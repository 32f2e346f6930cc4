//! Something that happened to an object.

use super::{Id, Kind, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventAction {
    /// It was made.
    Created,
    /// It changed.
    Updated,
    /// It was removed.
    Removed,
}

/// Something that happened to an object, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The index of the log entry that did it; events of one entry share it.
    pub index: u64,
    /// When.
    pub time: Timestamp,
    /// What it happened to.
    pub kind: Kind,
    /// The object's id.
    pub id: Id,
    /// The object's name.
    pub name: String,
    /// What happened.
    pub action: EventAction,
    /// Details, such as `state`, `node`, `exit_code`, `message`.
    pub attributes: BTreeMap<String, String>,
}
