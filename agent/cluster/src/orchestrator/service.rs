//! The plan for one service.

use super::{HISTORY, Plan, READABLE_MS};
use crate::command::PlanItem;
use crate::restart;
use crate::scheduler::{Placer, Request, View};
use crate::state::{ServiceRecord, State, is_gone};
use std::collections::BTreeMap;
use swarm_api::model::{DesiredState, NodeId, Task, TaskState, Timestamp};

pub(super) struct Planner<'a, 'p> {
    pub(super) state: &'a State,
    pub(super) now: Timestamp,
    pub(super) record: &'a ServiceRecord,
    pub(super) plan: &'p mut Plan,
}

/// The slots that have tasks, by number.
type Slots<'t, 'a> = BTreeMap<u32, Slot<'t, 'a>>;

struct Slot<'t, 'a> {
    /// Oldest first.
    tasks: &'t [&'a Task],
    newest: Option<&'a Task>,
}

impl<'a> Planner<'a, '_> {
    /// `view` is made when something is first to be placed: most plans place nothing.
    pub(super) fn plan(&mut self, view: &mut Option<View<'a>>, mut tasks: Vec<&'a Task>) {
        let service = &self.record.service;
        if self.record.removing {
            for task in tasks.iter().filter(|t| t.desired < DesiredState::Removed) {
                self.plan.desire(task, DesiredState::Removed);
            }
            if tasks
                .iter()
                .all(|t| t.status.state.is_final() || t.node.is_none())
            {
                self.drop_service();
            }
            return;
        }
        tasks.sort_unstable_by_key(|t| (t.slot, t.created_at, &t.id));
        let slots = tasks.chunk_by(|a, b| a.slot == b.slot);
        let mut slots: Slots<'_, 'a> = slots.map(|tasks| self.slot(tasks)).collect();
        let excess = slots.split_off(&(service.spec.replicas.saturating_add(1)));
        self.excess(&excess);
        let added = self.fill(view, &tasks, &slots);
        self.retire(&slots, &added);
        if service.spec.auto_remove && added.is_empty() {
            self.remove_if_done(&tasks);
        }
    }

    /// The newest is one of its tasks, so it is looked for there and not among all of the cluster.
    fn slot<'t>(&self, tasks: &'t [&'a Task]) -> (u32, Slot<'t, 'a>) {
        let number = tasks.first().map_or(0, |t| t.slot);
        let id = self.record.newest.get(&number);
        let newest = id.and_then(|id| tasks.iter().find(|t| t.id == *id));
        let slot = Slot {
            tasks,
            newest: newest.copied(),
        };
        (number, slot)
    }

    /// Tasks of slots that there are no more. The highest slots go first, so those that stay are numbered from 1. A
    /// service that is scaled to 0 is only stopped: what its tasks came to, and their logs, stay.
    fn excess(&mut self, slots: &Slots<'_, 'a>) {
        let stopped = self.record.service.spec.replicas == 0;
        for task in slots.values().flat_map(|slot| slot.tasks) {
            if !stopped || task.desired == DesiredState::Removed {
                self.plan.remove(task);
            } else if task.desired == DesiredState::Running && !task.status.state.is_final() {
                self.plan.desire(task, DesiredState::Shutdown);
            }
        }
        if stopped {
            for slot in slots.values() {
                self.forget_old(slot);
            }
        }
    }

    /// New tasks, and nodes for those that wait. Says which slots got a new task.
    fn fill(
        &mut self,
        view: &mut Option<View<'a>>,
        tasks: &[&'a Task],
        slots: &Slots<'_, 'a>,
    ) -> Vec<u32> {
        let spec = &self.record.service.spec;
        let request = Request {
            service: &self.record.service.id,
            spec: &spec.task,
            ports: &spec.ports,
        };
        let mut placer: Option<Placer<'_, 'a>> = None;
        let mut view = Some(view);
        let mut place = |rejections: &[NodeId]| {
            let placer = match (&mut placer, view.take()) {
                (Some(placer), _) => placer,
                (none, Some(view)) => {
                    let view = view.get_or_insert_with(|| View::of(self.state));
                    none.insert(Placer::new(view, request, tasks.iter().copied()))
                }
                (None, None) => return Err(String::new()),
            };
            placer.place(rejections)
        };
        // Those that have waited longer come first.
        for slot in slots.values() {
            let Some(task) = slot.newest else {
                continue;
            };
            if task.status.state != TaskState::Pending || task.desired != DesiredState::Running {
                continue;
            }
            match place(&rejections(slot.tasks)) {
                Ok(node) => self.plan.items.push(PlanItem::Assign {
                    task: task.id.clone(),
                    node,
                }),
                Err(why) if why != task.status.message => {
                    self.plan.items.push(PlanItem::Explain {
                        task: task.id.clone(),
                        why,
                    });
                }
                Err(_) => {}
            }
        }
        let mut added = Vec::new();
        for slot in 1..=spec.replicas {
            let there = slots.get(&slot);
            let newest = there.and_then(|slot| slot.newest);
            let drained = newest.is_some_and(|t| self.state.is_drained(t));
            let Some(refill) = restart::refill(self.record, slot, newest, drained) else {
                continue;
            };
            let history = there.map_or(&[][..], |slot| slot.tasks);
            self.plan.items.push(PlanItem::AddTask {
                service: self.record.service.id.clone(),
                slot,
                attempt: refill.attempt,
                not_before: refill.not_before(newest, self.now),
                node: place(&rejections(history)).ok(),
            });
            added.push(slot);
        }
        added
    }

    /// What was replaced is stopped, after its replacement is made so that a plan that is carried out in part leaves
    /// no slot that looks stopped on purpose; and what has ended long ago is forgotten.
    fn retire(&mut self, slots: &Slots<'_, 'a>, added: &[u32]) {
        for (number, slot) in slots {
            let replaced = added.binary_search(number).is_ok();
            let newest = slot.newest.filter(|_| !replaced);
            for task in slot.tasks {
                let is_newest = newest.is_some_and(|n| n.id == task.id);
                let is_live = !task.status.state.is_final();
                if is_live && !is_newest && task.desired == DesiredState::Running {
                    self.plan.desire(task, DesiredState::Shutdown);
                }
            }
            self.forget_old(slot);
        }
    }

    /// Forgets what is to go and is gone, and of the others that have ended all but the last few.
    fn forget_old(&mut self, slot: &Slot<'_, 'a>) {
        let gone: Vec<&&Task> = slot.tasks.iter().filter(|t| is_gone(t)).collect();
        let kept = gone.iter().filter(|t| t.desired < DesiredState::Removed);
        let mut too_many = kept.count().saturating_sub(HISTORY);
        for task in gone {
            let old = too_many > 0 && slot.newest.is_none_or(|n| n.id != task.id);
            if task.desired == DesiredState::Removed || old {
                too_many -= usize::from(task.desired < DesiredState::Removed);
                self.plan.items.push(PlanItem::Forget(task.id.clone()));
            }
        }
    }

    /// A service that removes itself goes when all its tasks have ended for good; a little later, so that who waits
    /// for them can read how they ended.
    fn remove_if_done(&mut self, tasks: &[&'a Task]) {
        if !tasks.iter().all(|t| t.status.state.is_final()) {
            return;
        }
        let ends = tasks.iter().filter_map(|t| t.status.finished_at);
        let Some(last) = ends.max() else {
            return self.drop_service();
        };
        let due = Timestamp(last.0.saturating_add(READABLE_MS));
        // A node's clock may be ahead.
        if due <= self.now || last.0 > self.now.0.saturating_add(READABLE_MS) {
            self.drop_service();
        } else {
            self.plan.wake(due);
        }
    }

    fn drop_service(&mut self) {
        let id = self.record.service.id.clone();
        self.plan.items.push(PlanItem::DropService(id));
    }
}

/// The nodes that rejected tasks among `tasks`.
fn rejections(tasks: &[&Task]) -> Vec<NodeId> {
    let rejected = tasks
        .iter()
        .filter(|t| t.status.state == TaskState::Rejected);
    rejected.filter_map(|t| t.node).collect()
}
