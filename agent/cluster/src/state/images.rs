//! Images become known and are forgotten.

use super::apply::Entry;
use super::{ImageRecord, State};
use crate::command::Outcome;
use std::collections::BTreeSet;
use swarm_api::model::{
    EventAction, Id, Image, ImageReference, Kind, NodeHealth, NodeId, Object, Task,
};
use swarm_api::{Error, Result};

impl State {
    pub(super) fn put_image(&mut self, entry: Entry, image: &Image, node: NodeId) -> Outcome {
        let name = self.node_mut(node)?.name.clone();
        self.marks.images = entry.index;
        let reference = image.reference.to_string();
        let known = self.images.get_mut(&reference);
        let action = match known {
            Some(record) if record.image.digest == image.digest => {
                record.nodes.insert(node);
                return Ok(Some(Object::Image(record.image.clone())));
            }
            Some(_) => EventAction::Updated,
            None => EventAction::Created,
        };
        let record = ImageRecord {
            image: image.clone(),
            nodes: BTreeSet::from([node]),
        };
        self.images.insert(reference, record.into());
        self.tell_image(entry, image, action, name);
        Ok(Some(Object::Image(image.clone())))
    }

    pub(super) fn remove_image(&mut self, entry: Entry, reference: &str) -> Outcome {
        let image = self.known_image(reference)?.image.clone();
        let reference = image.reference.to_string();
        let uses = |text: &str| full_name(text) == reference;
        if image.builtin {
            return Err(Error::Conflict(format!(
                "image {reference} comes with swarmd and cannot be removed"
            )));
        }
        let services = self.services.values().filter(|r| !r.removing);
        let mut services = services.map(|r| &r.service.spec);
        if let Some(service) = services.find(|s| uses(&s.task.image)) {
            return Err(Error::Conflict(format!(
                "image {reference} is used by service {}; remove that first",
                service.name
            )));
        }
        let user = |t: &&Task| !t.status.state.is_final() && uses(&t.spec.image);
        if let Some(task) = self.tasks.values().find(user) {
            return Err(Error::Conflict(format!(
                "image {reference} is used by task {}; it can be removed once that has ended",
                task.name
            )));
        }
        self.marks.images = entry.index;
        self.images.remove(&reference);
        self.tell_image(entry, &image, EventAction::Removed, String::new());
        Ok(Some(Object::Image(image)))
    }

    /// The last node's copy goes only where a registry has the image: it is forgotten with that.
    pub(super) fn drop_image(
        &mut self,
        entry: Entry,
        reference: &str,
        digest: &str,
        node: NodeId,
    ) -> Outcome {
        let Some(record) = self.images.get(reference) else {
            return Ok(None);
        };
        if record.image.digest != digest || !record.nodes.contains(&node) {
            return Ok(None);
        }
        if let Some(user) = self.uses_image(&record.image) {
            return Err(Error::Conflict(format!(
                "image {reference} is used by {user}"
            )));
        }
        let lives = |other: &&NodeId| {
            let is_ready = |n: &swarm_api::model::Node| n.health == NodeHealth::Ready;
            **other != node && self.nodes.get(other).is_some_and(is_ready)
        };
        let elsewhere = record.nodes.iter().any(|n| lives(&n));
        if !elsewhere && record.image.manifest.is_none() {
            return Err(Error::Conflict(format!(
                "no other node that lives has the image {reference}, and no registry"
            )));
        }
        let image = record.image.clone();
        self.marks.images = entry.index;
        let left = self.images.get_mut(reference).map(|record| {
            record.nodes.remove(&node);
            record.nodes.len()
        });
        if left == Some(0) {
            self.images.remove(reference);
            self.tell_image(entry, &image, EventAction::Removed, String::new());
        }
        Ok(None)
    }

    /// Who uses an image, or the same one under another name: a service, or a task that has not ended.
    #[must_use]
    pub fn uses_image(&self, image: &Image) -> Option<String> {
        let is = |text: &str| {
            let record = self.images.get(&full_name(text));
            record.is_some_and(|r| r.image.digest == image.digest)
                || full_name(text) == image.reference.to_string()
        };
        let services = self.services.values().filter(|r| !r.removing);
        let mut services = services.map(|r| &r.service.spec);
        if let Some(service) = services.find(|s| is(&s.task.image)) {
            return Some(format!("service {}", service.name));
        }
        let mut tasks = self.tasks.values().filter(|t| !t.status.state.is_final());
        let task = tasks.find(|t| is(&t.spec.image));
        task.map(|t| format!("task {}", t.name))
    }

    /// The image by that name, or that it must be imported.
    pub(super) fn known_image(&self, name: &str) -> Result<&ImageRecord> {
        let record = self.images.get(&full_name(name));
        record.map(|record| &**record).ok_or_else(|| {
            Error::NotFound(format!(
                "the cluster has no image {name}; import it with `swarmctl image import {name} ARCHIVE`"
            ))
        })
    }

    fn tell_image(&mut self, entry: Entry, image: &Image, action: EventAction, node: String) {
        let name = image.reference.to_string();
        let attributes = vec![("digest", image.digest.clone()), ("node", node)];
        let id = Id::from_text(image.digest.clone());
        self.tell(entry, Kind::Image, &id, &name, action, attributes);
    }
}

/// `name` with its tag.
pub(crate) fn full_name(name: &str) -> String {
    name.parse::<ImageReference>()
        .map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}
