//! The object model: node, service, task, image, network; and the values they are made of.
//!
//! Plain data with validation. No I/O, no clock, no randomness: times and ids are handed in.

mod constraint;
mod event;
mod health;
mod id;
mod image;
mod network;
mod node;
mod quantity;
mod query;
mod restart;
mod service;
mod task;
mod usage;

pub use constraint::{Constraint, Operator};
pub use event::{Event, EventAction};
pub use health::{Health, HealthPlan, HealthState, HealthTest};
pub use id::{Id, NodeId, Timestamp, validate_name};
pub use image::{HealthCheck, HistoryEntry, Image, ImageConfig, ImageReference};
pub use network::{Network, NetworkSpec};
pub use node::{Availability, Capacity, Node, NodeChange, NodeHealth, NodeRole, RaftStatus};
pub use quantity::{Cpus, format_bytes, parse_bytes, parse_duration};
pub use query::{Answer, Endpoint, Freshness, Info, Kind, Lookup, Object, Query, Read, Scope};
pub use restart::{Restart, RestartPolicy};
pub use service::{Port, Protocol, Service, ServiceChange, ServiceSpec};
pub use task::{
    DesiredState, ExitStatus, Mount, MountSource, NetworkMode, Resources, Task, TaskSpec,
    TaskState, TaskStatus,
};
pub use usage::{DiskUsage, ImageUsage, TaskUsage, VolumeUsage};
