//! The tasks of the state, with what is asked most often of them kept beside: which are a node's, which a service's, and
//! whether a node's have changed. So a node's work after an entry of the log grows with what concerns it, not with the
//! cluster.
//!
//! Only the tasks themselves are replicated and compared; all else follows from them. The trees are persistent ones: a copy
//! (a snapshot on its way to the disk) costs nothing, and what changes afterwards is a path of them. It must not know what
//! a change means.

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Index;
use std::sync::Arc;
use swarm_api::model::{Id, NodeId, Task};

/// Revisions that one entry of the log may use up.
const REVISIONS_OF_AN_ENTRY: u32 = 24;

/// All tasks, by id. Copies share everything until one changes it.
#[derive(Clone, Default)]
pub struct Tasks {
    all: RedBlackTreeMapSync<Id, Arc<Task>>,
    of_node: RedBlackTreeMapSync<NodeId, OnNode>,
    of_service: RedBlackTreeMapSync<Id, RedBlackTreeSetSync<Id>>,
    revision: u64,
}

#[derive(Debug, Clone, Default)]
struct OnNode {
    tasks: BTreeSet<Id>,
    revision: u64,
}

impl Tasks {
    /// The task with this id.
    #[must_use]
    pub fn get(&self, id: &Id) -> Option<&Task> {
        self.all.get(id).map(Arc::as_ref)
    }

    /// To change a task, but not its service; its node only with [`Tasks::assign`].
    pub(crate) fn get_mut(&mut self, id: &Id) -> Option<&mut Task> {
        let task = self.all.get_mut(id)?;
        if let Some(node) = task.node {
            touch(&mut self.of_node, &mut self.revision, node, |_| ());
        }
        Some(Arc::make_mut(task))
    }

    /// Whether there is a task with this id.
    #[must_use]
    pub fn contains_key(&self, id: &Id) -> bool {
        self.all.contains_key(id)
    }

    /// All tasks, by id.
    pub fn values(&self) -> impl Iterator<Item = &Task> {
        self.all.values().map(Arc::as_ref)
    }

    /// All tasks with their ids, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&Id, &Task)> {
        self.all.iter().map(|(id, task)| (id, task.as_ref()))
    }

    /// All ids.
    pub fn keys(&self) -> impl Iterator<Item = &Id> {
        self.all.keys()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.size()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The tasks that are on a node or were until they ended, by id.
    pub fn of_node(&self, node: NodeId) -> impl Iterator<Item = &Task> {
        let ids = self.of_node.get(&node).into_iter();
        ids.flat_map(|on| &on.tasks).filter_map(|id| self.get(id))
    }

    /// The tasks of a service, by id.
    pub fn of_service(&self, service: &Id) -> impl Iterator<Item = &Task> {
        let ids = self.of_service.get(service).into_iter();
        ids.flat_map(RedBlackTreeSetSync::iter)
            .filter_map(|id| self.get(id))
    }

    /// Another one after each change of the tasks of a node, and after a snapshot was taken over; 0 where it has none.
    #[must_use]
    pub fn revision_of(&self, node: NodeId) -> u64 {
        self.of_node.get(&node).map_or(0, |on| on.revision)
    }

    /// Puts a task there, in place of one with the same id.
    pub fn insert(&mut self, id: Id, task: Task) {
        self.remove(&id);
        if let Some(node) = task.node {
            self.enter(&id, node);
        }
        change(&mut self.of_service, &task.service_id, |of_service| {
            of_service.insert_mut(id.clone());
        });
        self.all.insert_mut(id, Arc::new(task));
    }

    /// Takes a task away.
    pub fn remove(&mut self, id: &Id) -> Option<Arc<Task>> {
        let task = self.all.get(id).cloned()?;
        self.all.remove_mut(id);
        if let Some(node) = task.node {
            self.leave(id, node);
        }
        if let Some(of_service) = self.of_service.get_mut(&task.service_id) {
            of_service.remove_mut(id);
            if of_service.is_empty() {
                self.of_service.remove_mut(&task.service_id);
            }
        }
        Some(task)
    }

    /// Puts a task on a node.
    pub(crate) fn assign(&mut self, id: &Id, node: NodeId) {
        let Some(before) = self.all.get(id).map(|task| task.node) else {
            return;
        };
        if let Some(before) = before {
            self.leave(id, before);
        }
        self.enter(id, node);
        if let Some(task) = self.all.get_mut(id) {
            Arc::make_mut(task).node = Some(node);
        }
    }

    fn enter(&mut self, id: &Id, node: NodeId) {
        touch(&mut self.of_node, &mut self.revision, node, |tasks| {
            tasks.insert(id.clone());
        });
    }

    fn leave(&mut self, id: &Id, node: NodeId) {
        touch(&mut self.of_node, &mut self.revision, node, |tasks| {
            tasks.remove(id);
        });
        if self
            .of_node
            .get(&node)
            .is_some_and(|on| on.tasks.is_empty())
        {
            self.of_node.remove_mut(&node);
        }
    }

    /// All is new to who followed the tasks before: they are those of a snapshot taken at this entry.
    pub(crate) fn renew(&mut self, index: u64) {
        self.revision = self.revision.max(index << REVISIONS_OF_AN_ENTRY);
        let nodes: Vec<NodeId> = self.of_node.keys().copied().collect();
        for node in nodes {
            touch(&mut self.of_node, &mut self.revision, node, |_| ());
        }
    }
}

/// Changes which tasks are the node's, or only says that one of them changed.
fn touch(
    of_node: &mut RedBlackTreeMapSync<NodeId, OnNode>,
    revision: &mut u64,
    node: NodeId,
    with: impl FnOnce(&mut BTreeSet<Id>),
) {
    *revision += 1;
    change(of_node, &node, |on| {
        on.revision = *revision;
        with(&mut on.tasks);
    });
}

/// Changes what the tree has for `key`; nothing yet is as `V::default()`.
fn change<K, V>(tree: &mut RedBlackTreeMapSync<K, V>, key: &K, with: impl FnOnce(&mut V))
where
    K: Ord + Clone,
    V: Clone + Default,
{
    if let Some(value) = tree.get_mut(key) {
        with(value);
    } else {
        let mut value = V::default();
        with(&mut value);
        tree.insert_mut(key.clone(), value);
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Index<&Id> for Tasks {
    type Output = Task;

    fn index(&self, id: &Id) -> &Task {
        &self.all[id]
    }
}

impl PartialEq for Tasks {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl FromIterator<Task> for Tasks {
    fn from_iter<I: IntoIterator<Item = Task>>(all: I) -> Self {
        let mut tasks = Self::default();
        for task in all {
            tasks.insert(task.id.clone(), task);
        }
        tasks
    }
}

impl Serialize for Tasks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Tasks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<Id, Task>::deserialize(deserializer)?;
        Ok(all.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::task_of;
    use proptest::prelude::*;

    fn found<'a>(tasks: impl Iterator<Item = &'a Task>) -> Vec<&'a Id> {
        tasks.map(|t| &t.id).collect()
    }

    proptest! {
        #[test]
        fn what_is_kept_beside_the_tasks_is_what_the_tasks_say(
            steps in prop::collection::vec((0u8..4, 0u64..12, 0u64..4, 0u64..3), 1..80),
        ) {
            let mut tasks = Tasks::default();
            for (what, number, node, service) in steps {
                let id = Id::from_u64(number);
                let before: Vec<u64> = (0..4).map(|n| tasks.revision_of(NodeId(n))).collect();
                let was = tasks.get(&id).and_then(|t| t.node);
                match what {
                    0 => {
                        let placed = (node > 0).then_some(NodeId(node));
                        tasks.insert(id.clone(), task_of(number, service, placed));
                    }
                    1 => drop(tasks.remove(&id)),
                    2 => tasks.assign(&id, NodeId(node)),
                    _ => {
                        if let Some(task) = tasks.get_mut(&id) {
                            task.attempt += 1;
                        }
                    }
                }
                let is = tasks.get(&id).and_then(|t| t.node);
                for n in 0..4 {
                    let node = NodeId(n);
                    let expected = found(tasks.values().filter(|t| t.node == Some(node)));
                    prop_assert_eq!(found(tasks.of_node(node)), expected);
                    if was != is && (was == Some(node) || is == Some(node)) {
                        prop_assert!(tasks.revision_of(node) != before[n as usize]);
                    }
                }
                for service in (0..3).map(|n| Id::from_u64(1000 + n)) {
                    let expected = found(tasks.values().filter(|t| t.service_id == service));
                    prop_assert_eq!(found(tasks.of_service(&service)), expected);
                }
            }
            let bytes = postcard::to_stdvec(&tasks).unwrap();
            let mut again: Tasks = postcard::from_bytes(&bytes).unwrap();
            prop_assert_eq!(&again, &tasks);
            again.renew(1);
            for n in 0..4 {
                let node = NodeId(n);
                prop_assert_eq!(found(again.of_node(node)), found(tasks.of_node(node)));
                if again.of_node(node).next().is_some() {
                    prop_assert!(again.revision_of(node) > tasks.revision_of(node));
                }
            }
        }
    }
}
