//! Images on this node: brought here when a task needs one (`share` does that), made known, and removed when the cluster
//! has forgotten them.

use super::backoff::Backoff;
use super::local::Local;
use crate::follow::Follow;
use crate::runtime::Runtime;
use crate::share::Fetcher;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::{Image, ImageReference, Task};
use swarm_api::{Error, Result};
use swarm_cluster::State;
use swarm_cluster::state::ImageRecord;
use swarm_member::Member;
use tokio_util::sync::CancellationToken;

/// How often all peers are asked before the task is refused; its restart policy decides what follows.
const ROUNDS: u32 = 5;

/// The images of this node.
pub(super) struct Images {
    pub(super) member: Member,
    pub(super) host: Arc<dyn Runtime>,
    fetcher: Arc<Fetcher>,
}

impl Images {
    pub(super) fn new(member: Member, host: Arc<dyn Runtime>, fetcher: Arc<Fetcher>) -> Self {
        Self {
            member,
            host,
            fetcher,
        }
    }

    /// The image of a task, its layers on this node. `waiting` is told why it takes long.
    ///
    /// # Errors
    /// When neither a node nor a registry that has the image could give it, several times over.
    pub(super) async fn ready(&self, task: &Task, waiting: impl Fn(String)) -> Result<Image> {
        let reference: ImageReference = task.spec.image.parse()?;
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        let mut rounds = 0;
        loop {
            let why = match self.attempt(&reference, &waiting).await {
                Ok(image) => return Ok(image),
                Err(why) => why,
            };
            rounds += 1;
            if rounds >= ROUNDS || !why.is_transient() {
                return Err(why.context(format!("cannot get image {reference}")));
            }
            waiting(format!("image {reference} cannot be had yet: {why}"));
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    async fn attempt(
        &self,
        reference: &ImageReference,
        waiting: &impl Fn(String),
    ) -> Result<Image> {
        let here = self.host.image(reference);
        let image = {
            let state = self.member.state();
            let known = state.images.get(&reference.to_string());
            choose(reference, here.as_ref(), known.map(|record| &**record))?.clone()
        };
        self.fetcher.bring(&image, waiting).await?;
        Ok(image)
    }

    /// Makes this node's images known, and removes those that the cluster has forgotten, until `stop`.
    pub(super) async fn keep(&self, local: &Local, stop: CancellationToken) {
        let node = self.member.id();
        let mut follow = Follow::new(self.member.clone(), move |state| {
            (super::part(state, node), state.marks.images)
        });
        let mut changes = local.changes();
        let mut known: BTreeSet<ImageReference> = BTreeSet::new();
        let mut forgotten: BTreeSet<ImageReference> = BTreeSet::new();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            follow.look();
            let mut retry = None;
            if self.is_in() {
                let now = known_images(&self.member.state());
                forgotten.extend(known.difference(&now).cloned());
                forgotten.retain(|reference| !now.contains(reference));
                known = now;
                self.remove(&mut forgotten, &local.tasks()).await;
                self.adopt().await;
                match crate::backend::announce_images(&self.member, self.host.as_ref()).await {
                    Ok(()) => backoff.reset(),
                    Err(why) => {
                        tracing::debug!(%why, "images are announced later");
                        retry = Some(backoff.delay());
                    }
                }
            }
            let rest = async {
                match retry {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = follow.changed() => if changed.is_err() { return },
                () = changes.next() => {}
                () = rest => {}
            }
        }
    }

    /// Keeps under their names the images that the cluster lists for this node and whose layers are here under another
    /// name, so that they stay when that other name goes.
    async fn adopt(&self) {
        let images: Vec<Image> = {
            let (state, own) = (self.member.state(), self.member.id());
            let listed = state.images.values().filter(|r| r.nodes.contains(&own));
            let unnamed = listed.filter(|r| {
                let here = self.host.image(&r.image.reference);
                here.is_none_or(|i| i.digest != r.image.digest && !i.builtin)
            });
            unnamed.map(|r| r.image.clone()).collect()
        };
        for image in images {
            if self.host.missing_layers(&image).is_empty()
                && let Err(why) = self.host.put_image(image).await
            {
                tracing::debug!(%why, "an image is not kept under a further name");
            }
        }
    }

    fn is_in(&self) -> bool {
        super::part(&self.member.state(), self.member.id()) == super::Part::In
    }

    /// Removes those images of `forgotten` that no task here uses any more.
    async fn remove(&self, forgotten: &mut BTreeSet<ImageReference>, tasks: &[Task]) {
        let used: BTreeSet<String> = tasks.iter().map(|t| full_name(&t.spec.image)).collect();
        for reference in forgotten.clone() {
            if used.contains(&reference.to_string()) {
                continue;
            }
            match self.host.remove_image(&reference).await {
                Ok(()) => {
                    tracing::info!(%reference, "removed an image that the cluster has forgotten");
                }
                Err(Error::Conflict(why)) => {
                    // A task of the host's own uses it.
                    tracing::debug!(%reference, why, "an image stays for now");
                    continue;
                }
                Err(why) => tracing::debug!(%reference, %why, "an image was not removed"),
            }
            forgotten.remove(&reference);
        }
    }
}

fn known_images(state: &State) -> BTreeSet<ImageReference> {
    let images = state.images.values();
    images.map(|r| r.image.reference.clone()).collect()
}

fn full_name(image: &str) -> String {
    image
        .parse::<ImageReference>()
        .map_or_else(|_| image.to_owned(), |reference| reference.to_string())
}

/// Which content an image's name stands for: what the cluster knows by it, or what is this node's own.
fn choose<'a>(
    reference: &ImageReference,
    here: Option<&'a Image>,
    known: Option<&'a ImageRecord>,
) -> Result<&'a Image> {
    match (here, known) {
        // What came with this binary is what runs, also while another version's is what the cluster knows.
        (Some(here), Some(known)) if here.builtin && known.image.builtin => Ok(here),
        (_, Some(known)) => Ok(&known.image),
        (Some(here), None) if here.builtin => Ok(here),
        (_, None) => Err(Error::NotFound(format!(
            "the cluster has no image {reference}; import it with `swarmctl image import {reference} ARCHIVE`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::{ImageConfig, NodeId, Timestamp};

    fn image(digest: &str, builtin: bool) -> Image {
        Image {
            reference: "web".parse().unwrap(),
            digest: digest.into(),
            layers: Vec::new(),
            size: 0,
            config: ImageConfig::default(),
            created_at: Timestamp(0),
            builtin,
            manifest: None,
        }
    }

    fn record(digest: &str, builtin: bool, nodes: &[u64]) -> ImageRecord {
        ImageRecord {
            image: image(digest, builtin),
            nodes: nodes.iter().map(|n| NodeId(*n)).collect(),
        }
    }

    fn chosen(here: Option<&Image>, known: Option<&ImageRecord>) -> Option<String> {
        let chosen = choose(&"web".parse().unwrap(), here, known);
        chosen.ok().map(|image| image.digest.clone())
    }

    #[test]
    fn a_name_stands_for_what_the_cluster_knows_by_it() {
        let (old, own) = (image("old", false), image("own", true));
        assert_eq!(
            chosen(Some(&old), Some(&record("new", false, &[2]))).as_deref(),
            Some("new")
        );
        assert_eq!(
            chosen(Some(&own), Some(&record("new", true, &[2]))).as_deref(),
            Some("own")
        );
        assert_eq!(chosen(Some(&own), None).as_deref(), Some("own"));
        // It was removed from the cluster, or is the host's own.
        assert_eq!(chosen(Some(&old), None), None);
        assert_eq!(chosen(None, None), None);
    }
}
