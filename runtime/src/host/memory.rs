//! Notes that processes of a running task were killed for want of memory, though its first one goes on. What becomes of the
//! task when that one ends is `run`'s.

use super::Inner;
use crate::engine::OomWatch;
use std::sync::{Arc, Weak};
use swarm_api::model::{Id, Task, TaskState, format_bytes};

impl Inner {
    /// Watches a running task until it ends, in the background, where the kernel tells.
    pub(super) fn watch_memory(self: &Arc<Self>, id: &Id) {
        let (inner, stop) = (Arc::downgrade(self), self.stop.clone());
        let id = id.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = watch(inner, &id) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn note_oom_kills(&self, id: &Id, kills: u64) {
        self.observe(id, |task| {
            if task.status.state == TaskState::Running {
                task.status.oom_kills = u32::try_from(kills).unwrap_or(u32::MAX);
                task.status.message = told(task);
            }
        });
    }
}

fn told(task: &Task) -> String {
    let count = match task.status.oom_kills {
        1 => "1 process was".to_owned(),
        n => format!("{n} processes were"),
    };
    let limit = task.spec.resources.memory;
    let limit = limit.map(|bytes| format!(" at the task's limit of {}", format_bytes(bytes)));
    format!(
        "out of memory: {count} killed by the kernel{}",
        limit.unwrap_or_default()
    )
}

async fn watch(inner: Weak<Inner>, id: &Id) {
    let Some(host) = inner.upgrade() else {
        return;
    };
    let watch = match host.engine.oom_watch(id.as_str()).await {
        Ok(watch) => watch,
        Err(why) => {
            tracing::debug!(%why, %id, "that processes are killed for memory will not be told");
            return;
        }
    };
    let mut changes = host.changes.subscribe();
    drop(host);
    let mut known = 0;
    while let Some(kills) = more(&watch, known, &mut changes, &inner, id).await {
        let Some(host) = inner.upgrade() else {
            return;
        };
        host.note_oom_kills(id, kills);
        known = kills;
    }
}

/// How many were killed, once there are more than `known`; none when the task does not run any more.
async fn more(
    watch: &OomWatch,
    known: u64,
    changes: &mut tokio::sync::watch::Receiver<u64>,
    inner: &Weak<Inner>,
    id: &Id,
) -> Option<u64> {
    let more = watch.more_than(known);
    tokio::pin!(more);
    loop {
        tokio::select! {
            kills = &mut more => return kills.ok(),
            changed = changes.changed() => changed.ok()?,
        }
        let runs = |task: &Task| task.status.state == TaskState::Running;
        let host = inner.upgrade()?;
        if !host.lock().task(id).is_some_and(runs) {
            return None;
        }
    }
}
