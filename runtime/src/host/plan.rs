//! What the host's own services need next: tasks to make, start, remove. Pure: services, tasks and the time in, a plan
//! out. The cluster's services are not its concern.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use swarm_api::model::{DesiredState, Id, Service, Task, TaskState, Timestamp};

/// Ended tasks of a slot that are kept.
const HISTORY: usize = 4;
/// How long a service that is to remove itself stays after its end, for whoever is about to ask how it ended.
const LINGER: Duration = Duration::from_secs(2);

/// What to do now, and when to look again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Tasks to make.
    pub(super) create: Vec<NewTask>,
    /// Tasks to start.
    pub(super) start: Vec<Id>,
    /// Tasks to stop; their records stay.
    pub(super) stop: Vec<Id>,
    /// Tasks to stop, if they run, and to remove.
    pub(super) remove: Vec<Id>,
    /// Services that are done and go with their tasks.
    pub(super) finished: Vec<Id>,
    /// When something will be due.
    pub(super) next: Option<Timestamp>,
}

/// A task to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewTask {
    pub(super) service: Id,
    pub(super) slot: u32,
    pub(super) attempt: u32,
    pub(super) not_before: Timestamp,
}

/// What is there.
pub(super) struct View<'a> {
    pub(super) services: &'a BTreeMap<Id, Service>,
    /// The host's own tasks.
    pub(super) tasks: Vec<&'a Task>,
    /// Tasks that something is being done with.
    pub(super) busy: &'a HashSet<Id>,
    /// Tasks whose streams somebody holds.
    pub(super) attached: &'a HashSet<Id>,
}

impl Plan {
    fn at(&mut self, time: Timestamp) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }
}

pub(super) fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut slots: BTreeMap<(&Id, u32), Vec<&Task>> = BTreeMap::new();
    for task in &view.tasks {
        let service = view.services.get(&task.service_id);
        let dropped =
            |s: &Service| task.slot > s.spec.replicas && task.desired == DesiredState::Running;
        if task.desired == DesiredState::Removed || service.is_none_or(dropped) {
            if !view.busy.contains(&task.id) {
                plan.remove.push(task.id.clone());
            }
        } else {
            let stops = task.desired == DesiredState::Shutdown && !task.status.state.is_final();
            if stops && !view.busy.contains(&task.id) {
                plan.stop.push(task.id.clone());
            }
            slots
                .entry((&task.service_id, task.slot))
                .or_default()
                .push(task);
        }
    }
    for tasks in slots.values_mut() {
        tasks.sort_by_key(|t| (t.created_at, t.attempt));
        let ended: Vec<&&Task> = tasks.iter().filter(|t| t.status.state.is_final()).collect();
        let surplus = ended.len().saturating_sub(HISTORY);
        let free = |t: &&&&Task| !view.busy.contains(&t.id) && !view.attached.contains(&t.id);
        let forgotten = ended.iter().take(surplus).filter(free);
        plan.remove.extend(forgotten.map(|t| t.id.clone()));
    }
    for service in view.services.values() {
        service_plan(&mut plan, service, &slots, view, now);
    }
    plan
}

fn service_plan(
    plan: &mut Plan,
    service: &Service,
    slots: &BTreeMap<(&Id, u32), Vec<&Task>>,
    view: &View<'_>,
    now: Timestamp,
) {
    let mut done = true;
    for slot in 1..=service.spec.replicas {
        let latest = slots
            .get(&(&service.id, slot))
            .and_then(|tasks| tasks.last());
        let Some(task) = latest else {
            done = false;
            plan.create.push(NewTask {
                service: service.id.clone(),
                slot,
                attempt: 0,
                not_before: Timestamp(0),
            });
            continue;
        };
        if !task.status.state.is_final() {
            done = false;
            let waits = task.status.state == TaskState::Pending
                && task.desired == DesiredState::Running
                && !view.busy.contains(&task.id);
            if waits && task.not_before <= now {
                plan.start.push(task.id.clone());
            } else if waits {
                plan.at(task.not_before);
            }
        } else if task.desired == DesiredState::Running
            && let Some(new) = replacement(service, task)
        {
            done = false;
            plan.create.push(new);
        }
    }
    if !(service.spec.auto_remove && done) {
        return;
    }
    let mut own = view
        .tasks
        .iter()
        .filter(|t| t.service_id == service.id)
        .peekable();
    if own.peek().is_none() || own.clone().any(|t| !t.status.state.is_final()) {
        return;
    }
    let ended = own.clone().filter_map(|t| t.status.finished_at).max();
    let due = ended.unwrap_or_default().plus(LINGER);
    if own.any(|t| view.attached.contains(&t.id) || view.busy.contains(&t.id)) {
        // Looked at again when that ends.
    } else if due <= now {
        plan.finished.push(service.id.clone());
    } else {
        plan.at(due);
    }
}

/// The task that follows one that ended, if one does.
fn replacement(service: &Service, task: &Task) -> Option<NewTask> {
    let policy = &service.spec.restart;
    let ended = task.status.finished_at.unwrap_or(task.status.observed_at);
    let ran = task
        .status
        .started_at
        .map_or(Duration::ZERO, |s| ended.since(s));
    let attempt = policy.next_attempt(task.attempt, ran);
    let delay = policy.delay(attempt.saturating_sub(1), task.status.state.is_failure())?;
    Some(NewTask {
        service: service.id.clone(),
        slot: task.slot,
        attempt,
        not_before: ended.plus(delay),
    })
}
