//! One entry of the log: which change is whose, new ids, and the events that are told of it.

use super::State;
use crate::command::{Change, Command, Outcome};
use swarm_api::Error;
use swarm_api::model::{Event, EventAction, Id, Kind, TaskStatus, Timestamp};

/// The longest text that a node may put into a task's status, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// The entry that is applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Its index.
    pub(super) index: u64,
    /// When it was proposed.
    pub(super) time: Timestamp,
}

impl State {
    /// Applies one entry of the log: whole, or not at all where it is refused.
    ///
    /// # Errors
    /// Why the change is refused, as every replica finds it.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        self.index = index;
        let entry = Entry {
            index,
            time: command.time,
        };
        if self.cluster.is_empty() && !matches!(command.change, Change::Init { .. }) {
            return Err(Error::Conflict(
                "this cluster is not initialised yet: its first entry is missing".into(),
            ));
        }
        if concerns_planning(&command.change) {
            self.marks.plan = index;
        }
        match &command.change {
            Change::Init {
                cluster,
                node,
                pool,
                sealed,
            } => self.init(entry, cluster, node, *pool, sealed),
            Change::AddNode { node, token } => self.add_node(entry, node, token.as_deref()),
            Change::NodeFacts {
                id,
                address,
                capacity,
                version,
            } => self.node_facts(entry, *id, *address, *capacity, version.as_ref()),
            Change::NodeDown(id) => self.node_down(entry, *id),
            Change::NodeUp(id) => self.node_up(entry, *id),
            Change::UpdateNode(id, change) => self.update_node(entry, *id, change),
            Change::RemoveNode { id, force } => self.remove_node(entry, *id, *force),
            Change::CreateService(spec) => self.create_service(entry, spec),
            Change::UpdateService(id, change) => self.update_service(entry, id, change),
            Change::RemoveService(id) => self.remove_service(entry, id),
            Change::StopTask(id) => self.stop_task(entry, id),
            Change::RemoveTask(id) => self.remove_task(entry, id),
            Change::SetStopTimeout { tasks, timeout_ms } => {
                self.set_stop_timeout(tasks, *timeout_ms)
            }
            Change::Plan(items) => {
                for item in items {
                    self.plan_item(entry, item);
                }
                Ok(None)
            }
            #[cfg(sabotage)]
            Change::Report { .. }
                if crate::sabotage::now_and_then(crate::sabotage::Bug::Divergence) =>
            {
                Ok(None)
            }
            Change::Report { node, statuses } => self.report(entry, *node, statuses),
            Change::CreateNetwork(spec) => self.create_network(entry, spec),
            Change::RemoveNetwork(id) => self.remove_network(entry, id),
            Change::PutImage { image, node } => self.put_image(entry, image, *node),
            Change::RemoveImage(reference) => self.remove_image(entry, reference),
            Change::DropImage {
                reference,
                digest,
                node,
            } => self.drop_image(entry, reference, digest, *node),
            Change::AddToken {
                id,
                hash,
                role,
                expires_at,
            } => self.add_token(entry, id, *hash, *role, *expires_at),
            Change::RemoveToken(id) => self.remove_token(id),
        }
    }

    /// An id for a new object. The sum grows strictly from object to object, so no id comes twice.
    pub(super) fn new_id(&mut self, entry: Entry) -> Id {
        self.counter += 1;
        Id::from_u64((entry.index << 20).wrapping_add(self.counter))
    }

    /// Tells of something; the oldest events go.
    pub(super) fn tell(
        &mut self,
        entry: Entry,
        kind: Kind,
        id: &Id,
        name: &str,
        action: EventAction,
        attributes: Vec<(&str, String)>,
    ) {
        while self.events.len() >= Self::EVENTS {
            self.events.pop_front();
        }
        let said = attributes.into_iter().filter(|(_, text)| !text.is_empty());
        let event = Event {
            index: entry.index,
            time: entry.time,
            kind,
            id: id.clone(),
            name: name.into(),
            action,
            attributes: said.map(|(key, text)| (key.to_owned(), text)).collect(),
        };
        self.events.push_back(event.into());
    }
}

/// Whether a change may leave something to plan for. What a report brings is looked at task by task.
fn concerns_planning(change: &Change) -> bool {
    !matches!(
        change,
        Change::Report { .. } | Change::AddToken { .. } | Change::RemoveToken(_)
    )
}

/// `status` with its texts cut to what a replicated record may hold.
pub(crate) fn short(status: &TaskStatus) -> TaskStatus {
    let mut status = status.clone();
    status.message = cut(&status.message);
    if let Some(health) = &mut status.health {
        health.output = cut(&health.output);
    }
    status
}

/// `text`, cut to what a replicated record may hold.
pub(crate) fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST_MESSAGE)].to_owned()
}
