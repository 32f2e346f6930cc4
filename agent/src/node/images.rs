//! Images on this node: fetched from peers, or at last from their registry, when a task needs one; made known; and
//! removed when the cluster has forgotten them.

use super::backoff::Backoff;
use super::local::Local;
use crate::runtime::Runtime;
use crate::share::Peers;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_api::backend::{PullOptions, PullPolicy};
use swarm_api::model::{Image, ImageReference, Task};
use swarm_api::{Backend, Error, Result};
use swarm_cluster::state::ImageRecord;
use swarm_member::Member;
use swarm_runtime::image::neighbours::{Neighbours, Source};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How often all peers are asked before the task is refused; its restart policy decides what follows.
const ROUNDS: u32 = 5;
/// Layers that come at once, and those that are waited for besides.
const LAYERS: usize = 3;
const WAITING: usize = 64;

/// The images of this node.
pub(super) struct Images {
    pub(super) member: Member,
    pub(super) host: Arc<dyn Runtime>,
    peers: Peers,
    /// The layers under way; who holds the lock fetches.
    fetches: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What became of one part.
enum Part {
    /// It is here.
    Came,
    /// No peer gives it: the registry is to be asked.
    Nowhere,
}

impl Images {
    pub(super) fn new(member: Member, host: Arc<dyn Runtime>, peers: Peers) -> Self {
        Self {
            member,
            host,
            peers,
            fetches: Mutex::default(),
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
            choose(reference, here.as_ref(), known)?.clone()
        };
        let mut missing = self.host.missing_layers(&image);
        if !missing.is_empty() {
            waiting(format!("gets image {reference} from its peers"));
        }
        missing.sort_by_key(|digest| self.peers.order(digest));
        let permits = &Semaphore::new(LAYERS);
        let wanted = &image;
        let came: Vec<Part> = stream::iter(missing)
            .map(|digest| async move { self.fetch(wanted, &digest, permits).await })
            .buffer_unordered(WAITING)
            .try_collect()
            .await?;
        if came.iter().any(|part| matches!(part, Part::Nowhere)) {
            waiting(format!("gets image {reference} from its registry"));
            self.pull(&image).await?;
        }
        if here.as_ref() != Some(&image) {
            // A layer may have been tidied away between its arrival and now: it is fetched again.
            let put = self.host.put_image(image.clone()).await;
            put.map_err(|why| Error::Unavailable(why.to_string()))?;
        }
        Ok(image)
    }

    /// Gets from its registry, by its digest, what no node has of an image any more.
    async fn pull(&self, image: &Image) -> Result<()> {
        let name = image.reference.to_string();
        let Some(digest) = image.manifest.clone() else {
            return Err(Error::Unavailable(format!(
                "no other node gives image {name}; import it again"
            )));
        };
        let options = PullOptions {
            policy: PullPolicy::Always,
            digest: Some(digest),
            ..PullOptions::default()
        };
        let pulling = async {
            let mut events = Backend::pull_image(self.host.as_ref(), name, options).await?;
            while let Some(event) = events.next().await {
                event?;
            }
            Ok(())
        };
        let outcome: Result<()> = pulling.await;
        outcome.map_err(|why| {
            Error::Unavailable(format!("no other node gives it, and its registry: {why}"))
        })
    }

    /// Gets one part from a peer. One who comes later waits for the first to end.
    async fn fetch(&self, image: &Image, digest: &str, permits: &Semaphore) -> Result<Part> {
        let lock = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetches.entry(digest.to_owned()).or_default())
        };
        let outcome = {
            let _alone = lock.lock().await;
            if self.is_missing(image, digest) {
                self.fetch_from_peer(image, digest, permits).await
            } else {
                Ok(Part::Came)
            }
        };
        drop(lock);
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|_, lock| Arc::strong_count(lock) > 1);
        outcome
    }

    fn is_missing(&self, image: &Image, digest: &str) -> bool {
        self.host.missing_layers(image).iter().any(|d| d == digest)
    }

    async fn fetch_from_peer(
        &self,
        image: &Image,
        digest: &str,
        permits: &Semaphore,
    ) -> Result<Part> {
        let full = |e: tokio::sync::AcquireError| Error::Internal(e.to_string());
        let mut held = Some(permits.acquire().await.map_err(full)?);
        let mut turn = self.peers.turn(digest).await;
        loop {
            if !turn.is_due() {
                held = None;
            }
            let source = turn.source().await;
            if held.is_none() {
                held = Some(permits.acquire().await.map_err(full)?);
            }
            let outcome = match source {
                Source::Registry => return Ok(Part::Nowhere),
                Source::Here if self.is_missing(image, digest) => {
                    Err(Error::NotFound("it is not here".into()))
                }
                Source::Here => Ok(()),
                Source::Neighbour(pieces) => self.host.put_layer(digest, pieces).await,
            };
            turn.tell(outcome.is_ok()).await;
            match outcome {
                Ok(()) => return Ok(Part::Came),
                // The disk is full, or the like: another peer would not help.
                Err(why @ Error::Exhausted(_)) => return Err(why),
                Err(why) => tracing::debug!(digest, %why, "a peer did not give a layer"),
            }
        }
    }

    /// Makes this node's images known, and removes those that the cluster has forgotten, until `stop`.
    pub(super) async fn keep(&self, local: &Local, stop: CancellationToken) {
        let mut applied = self.member.watch_applied();
        let mut changes = local.changes();
        let mut known: BTreeSet<ImageReference> = BTreeSet::new();
        let mut forgotten: BTreeSet<ImageReference> = BTreeSet::new();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            applied.borrow_and_update();
            let mut retry = None;
            if self.is_in() {
                let now = known_images(&self.member.state().images);
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
                changed = applied.changed() => if changed.is_err() { return },
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

fn known_images(images: &BTreeMap<String, ImageRecord>) -> BTreeSet<ImageReference> {
    images.values().map(|r| r.image.reference.clone()).collect()
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
