//! Which work on which task is under way: one at a time per task, never the same twice. Work that comes later in a
//! task's life cuts short what comes earlier. It must not know what the work is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use swarm_api::model::Id;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Work on a task, in the order of a task's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    Run,
    Stop,
    Remove,
}

/// All tasks' work. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    busy: Arc<Mutex<HashMap<Id, (Work, CancellationToken)>>>,
    freed: Arc<Notify>,
}

/// The right to work on one task, until it is dropped.
#[derive(Debug)]
pub(super) struct Lane {
    lanes: Lanes,
    id: Id,
    /// Cancelled when the work has been overtaken and should end early.
    pub(super) overtaken: CancellationToken,
}

impl Lanes {
    /// The lane for `work` on the task. `None` while there is other work on it; that is told to end early where
    /// `work` comes later in a task's life. Whoever is refused asks again when [`Lanes::freed`] says so.
    pub(super) fn enter(&self, id: &Id, work: Work) -> Option<Lane> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((current, overtaken)) = busy.get(id) {
            if work > *current {
                overtaken.cancel();
            }
            return None;
        }
        let overtaken = CancellationToken::new();
        busy.insert(id.clone(), (work, overtaken.clone()));
        Some(Lane {
            lanes: self.clone(),
            id: id.clone(),
            overtaken,
        })
    }

    /// Waits until some work has ended since the last time.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// All work should end early.
    pub(super) fn cancel_all(&self) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, overtaken) in busy.values() {
            overtaken.cancel();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut busy = self
            .lanes
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.id);
        drop(busy);
        self.lanes.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_one_work_at_a_time_and_others_go_on_beside_it() {
        let lanes = Lanes::default();
        let (a, b) = (Id::from_u64(1), Id::from_u64(2));
        let first = lanes.enter(&a, Work::Run).unwrap();
        assert!(lanes.enter(&a, Work::Run).is_none());
        assert!(lanes.enter(&b, Work::Run).is_some());
        assert!(!first.overtaken.is_cancelled());
        drop(first);
        assert!(lanes.enter(&a, Work::Stop).is_some());
    }

    #[test]
    fn later_work_overtakes_earlier_work_and_never_the_other_way_round() {
        let lanes = Lanes::default();
        let id = Id::from_u64(1);
        let stop = lanes.enter(&id, Work::Stop).unwrap();
        assert!(lanes.enter(&id, Work::Run).is_none());
        assert!(!stop.overtaken.is_cancelled());
        assert!(lanes.enter(&id, Work::Remove).is_none());
        assert!(stop.overtaken.is_cancelled());
    }

    #[tokio::test]
    async fn an_end_is_noticed_also_by_one_who_waits_later() {
        let lanes = Lanes::default();
        drop(lanes.enter(&Id::from_u64(1), Work::Run));
        lanes.freed().await;
    }
}
