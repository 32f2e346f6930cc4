//! Images on the move, how they were made, and what takes up the disk.

use super::{each, into_each, parse, present, tasks, texts, time};
use crate::backend::{CommitOptions, LayerProgress, PushEvent, Pushed};
use crate::model::{DiskUsage, HistoryEntry, Id, ImageUsage, TaskUsage, Timestamp, VolumeUsage};
use crate::{Error, Result};
use swarm_proto::v1;
use swarm_proto::v1::push_image_response;

impl From<LayerProgress> for v1::LayerProgress {
    fn from(l: LayerProgress) -> Self {
        Self {
            digest: l.digest,
            done_bytes: l.done,
            total_bytes: l.total,
            ready: l.ready,
        }
    }
}

impl From<v1::LayerProgress> for LayerProgress {
    fn from(l: v1::LayerProgress) -> Self {
        Self {
            digest: l.digest,
            done: l.done_bytes,
            total: l.total_bytes,
            ready: l.ready,
        }
    }
}

impl From<PushEvent> for v1::PushImageResponse {
    fn from(event: PushEvent) -> Self {
        use push_image_response::Event;
        Self {
            event: Some(match event {
                PushEvent::Layer(layer) => Event::Layer(layer.into()),
                PushEvent::Done(pushed) => Event::Done(v1::Pushed {
                    reference: pushed.reference.to_string(),
                    digest: pushed.digest,
                }),
            }),
        }
    }
}

impl TryFrom<v1::PushImageResponse> for PushEvent {
    type Error = Error;

    fn try_from(response: v1::PushImageResponse) -> Result<Self> {
        use push_image_response::Event;
        Ok(match present("event", response.event)? {
            Event::Layer(layer) => Self::Layer(layer.into()),
            Event::Done(pushed) => Self::Done(Pushed {
                reference: parse("reference", &pushed.reference)?,
                digest: pushed.digest,
            }),
        })
    }
}

impl From<HistoryEntry> for v1::HistoryEntry {
    fn from(e: HistoryEntry) -> Self {
        Self {
            created_at_unix_ms: e.created_at.map(|t| t.0),
            created_by: e.created_by,
            comment: e.comment,
            author: e.author,
            layer: e.layer,
            size_bytes: e.size,
        }
    }
}

impl From<v1::HistoryEntry> for HistoryEntry {
    fn from(e: v1::HistoryEntry) -> Self {
        Self {
            created_at: time(e.created_at_unix_ms),
            created_by: e.created_by,
            comment: e.comment,
            author: e.author,
            layer: e.layer,
            size: e.size_bytes,
        }
    }
}

/// Asks for an image of a task's container.
pub(crate) fn commit_request(task: String, name: String, o: CommitOptions) -> v1::CommitRequest {
    v1::CommitRequest {
        task,
        name,
        changes: o.changes,
        message: o.message,
        author: o.author,
        no_pause: o.no_pause,
    }
}

impl From<v1::CommitRequest> for CommitOptions {
    fn from(r: v1::CommitRequest) -> Self {
        Self {
            changes: r.changes,
            message: r.message,
            author: r.author,
            no_pause: r.no_pause,
        }
    }
}

impl From<DiskUsage> for v1::DiskUsage {
    fn from(u: DiskUsage) -> Self {
        Self {
            node_name: u.node_name,
            error: u.error,
            disk_total_bytes: u.disk_total,
            disk_free_bytes: u.disk_free,
            layers_bytes: u.layers,
            reclaimable_bytes: u.reclaimable,
            images: into_each(u.images),
            tasks: into_each(u.tasks),
            volumes: into_each(u.volumes),
        }
    }
}

impl TryFrom<v1::DiskUsage> for DiskUsage {
    type Error = Error;

    fn try_from(u: v1::DiskUsage) -> Result<Self> {
        Ok(Self {
            node_name: u.node_name,
            error: u.error,
            disk_total: u.disk_total_bytes,
            disk_free: u.disk_free_bytes,
            layers: u.layers_bytes,
            reclaimable: u.reclaimable_bytes,
            images: each(u.images)?,
            tasks: each(u.tasks)?,
            volumes: into_each(u.volumes),
        })
    }
}

impl From<ImageUsage> for v1::ImageUsage {
    fn from(u: ImageUsage) -> Self {
        Self {
            names: texts(&u.names),
            digest: u.digest,
            shared_bytes: u.shared,
            unique_bytes: u.unique,
            tasks: u.tasks,
            used_at_unix_ms: u.used_at.0,
        }
    }
}

impl TryFrom<v1::ImageUsage> for ImageUsage {
    type Error = Error;

    fn try_from(u: v1::ImageUsage) -> Result<Self> {
        let names = u.names.iter().map(|n| parse("names", n));
        Ok(Self {
            names: names.collect::<Result<_>>()?,
            digest: u.digest,
            shared: u.shared_bytes,
            unique: u.unique_bytes,
            tasks: u.tasks,
            used_at: Timestamp(u.used_at_unix_ms),
        })
    }
}

impl From<TaskUsage> for v1::TaskUsage {
    fn from(u: TaskUsage) -> Self {
        Self {
            task: u.task,
            task_id: u.task_id.to_string(),
            state: v1::TaskState::from(u.state).into(),
            writable_bytes: u.writable,
            limit_bytes: u.limit,
            log_bytes: u.log,
        }
    }
}

impl TryFrom<v1::TaskUsage> for TaskUsage {
    type Error = Error;

    fn try_from(u: v1::TaskUsage) -> Result<Self> {
        Ok(Self {
            task: u.task,
            task_id: Id::from_text(u.task_id),
            state: tasks::state(u.state)?,
            writable: u.writable_bytes,
            limit: u.limit_bytes,
            log: u.log_bytes,
        })
    }
}

impl From<VolumeUsage> for v1::VolumeUsage {
    fn from(u: VolumeUsage) -> Self {
        Self {
            name: u.name,
            task: u.task,
            size_bytes: u.size,
            tasks: u.tasks,
        }
    }
}

impl From<v1::VolumeUsage> for VolumeUsage {
    fn from(u: v1::VolumeUsage) -> Self {
        Self {
            name: u.name,
            task: u.task,
            size: u.size_bytes,
            tasks: u.tasks,
        }
    }
}
