//! Images on this node: fetched from peers when a task needs one, made known, and removed when the cluster has
//! forgotten them. Which peer is asked first is decided in a pure function.

use super::backoff::Backoff;
use super::local::Local;
use crate::runtime::Runtime;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_api::grpc::Client;
use swarm_api::model::{Image, ImageReference, NodeHealth, NodeId, Task};
use swarm_api::{Backend, BoxStream, Error, Result};
use swarm_cluster::State;
use swarm_cluster::state::ImageRecord;
use swarm_member::Member;
use tokio_util::sync::CancellationToken;

/// How long a peer may take to begin with a layer, and then between two pieces of it.
const ANSWER: Duration = Duration::from_secs(4);
const SILENCE: Duration = Duration::from_secs(15);
/// How often all peers are asked before the task is refused; its restart policy decides what follows.
const ROUNDS: u32 = 5;
/// Layers fetched at once.
const LAYERS: usize = 3;

/// The images of this node.
pub(super) struct Images {
    pub(super) member: Member,
    pub(super) host: Arc<dyn Runtime>,
    /// The layers under way; who holds the lock fetches.
    fetches: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    pub(super) fn new(member: Member, host: Arc<dyn Runtime>) -> Self {
        Self {
            member,
            host,
            fetches: Mutex::default(),
        }
    }

    /// The image of a task, its layers on this node. `waiting` is told why it takes long.
    ///
    /// # Errors
    /// When no node that has the image could give it, several times over.
    pub(super) async fn ready(&self, task: &Task, waiting: impl Fn(String)) -> Result<Image> {
        let reference: ImageReference = task.spec.image.parse()?;
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        let mut rounds = 0;
        loop {
            let why = match self.attempt(&reference, task, &waiting).await {
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
        task: &Task,
        waiting: &impl Fn(String),
    ) -> Result<Image> {
        let here = self.host.image(reference);
        let (image, peers) = {
            let state = self.member.state();
            let known = state.images.get(&reference.to_string());
            match choose(reference, here.as_ref(), known)? {
                Source::Here(image) => (image.clone(), HashMap::new()),
                Source::Cluster(record) => {
                    // Each layer from another peer, as far as there are several.
                    let own = self.member.id();
                    let peers =
                        |digest: &str| peers(&state, record, own, &format!("{}{digest}", task.id));
                    let parts = record.image.parts().into_iter();
                    let peers = parts
                        .map(|digest| (digest.clone(), peers(&digest)))
                        .collect();
                    (record.image.clone(), peers)
                }
            }
        };
        let missing = self.host.missing_layers(&image);
        if !missing.is_empty() {
            waiting(format!("gets image {reference} from its peers"));
        }
        stream::iter(missing)
            .map(|digest| {
                let peers = peers.get(&digest).map_or(&[][..], Vec::as_slice);
                async move { self.fetch(&digest, peers).await }
            })
            .buffer_unordered(LAYERS)
            .try_collect::<Vec<()>>()
            .await?;
        if here.as_ref() != Some(&image) {
            // A layer may have been tidied away between its arrival and now: it is fetched again.
            let put = self.host.put_image(image.clone()).await;
            put.map_err(|why| Error::Unavailable(why.to_string()))?;
        }
        Ok(image)
    }

    /// Gets one layer from the first of `peers` that gives it. One who comes later waits for the first to end.
    async fn fetch(&self, digest: &str, peers: &[(NodeId, String)]) -> Result<()> {
        let lock = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetches.entry(digest.to_owned()).or_default())
        };
        let outcome = {
            let _alone = lock.lock().await;
            if self.has_layer(digest) {
                Ok(())
            } else {
                self.fetch_from_any(digest, peers).await
            }
        };
        drop(lock);
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|_, lock| Arc::strong_count(lock) > 1);
        outcome
    }

    fn has_layer(&self, digest: &str) -> bool {
        let state = self.member.state();
        let mut images = state.images.values().map(|r| &r.image);
        let Some(image) = images
            .find(|i| i.parts().iter().any(|part| part == digest))
            .cloned()
        else {
            return false;
        };
        drop(state);
        !self.host.missing_layers(&image).iter().any(|d| d == digest)
    }

    async fn fetch_from_any(&self, digest: &str, peers: &[(NodeId, String)]) -> Result<()> {
        let mut refusals = Vec::new();
        for (node, name) in peers {
            let outcome = match self.ask(*node, digest).await {
                Ok(layer) => self.host.put_layer(digest, layer).await,
                Err(why) => Err(why),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(why) => {
                    tracing::debug!(%digest, node = name, %why, "a peer did not give a layer");
                    refusals.push(format!("{name}: {why}"));
                }
            }
        }
        Err(Error::Unavailable(if refusals.is_empty() {
            format!("no other node has layer {digest}; import the image again")
        } else {
            format!("no node gave layer {digest}: {}", refusals.join("; "))
        }))
    }

    async fn ask(&self, node: NodeId, digest: &str) -> Result<BoxStream<Result<bytes::Bytes>>> {
        let asking = async {
            let peer = Client::from_channel(self.member.connect(node).await?);
            Backend::export_layer(&peer, digest.to_owned()).await
        };
        let silent = || Error::Unavailable("it does not answer".into());
        let layer = tokio::time::timeout(ANSWER, asking)
            .await
            .map_err(|_| silent())??;
        let pieces = futures_util::stream::unfold(Some(layer), move |layer| async move {
            let mut layer = layer?;
            match tokio::time::timeout(SILENCE, layer.next()).await {
                Ok(piece) => piece.map(|piece| (piece, Some(layer))),
                Err(_) => Some((Err(silent()), None)),
            }
        });
        Ok(pieces.boxed())
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

/// Which content an image's name stands for.
#[derive(Debug)]
enum Source<'a> {
    /// This node's own.
    Here(&'a Image),
    /// What the cluster knows by that name.
    Cluster(&'a ImageRecord),
}

fn choose<'a>(
    reference: &ImageReference,
    here: Option<&'a Image>,
    known: Option<&'a ImageRecord>,
) -> Result<Source<'a>> {
    match (here, known) {
        // What came with this binary is what runs, also while another version's is what the cluster knows.
        (Some(here), Some(known)) if here.builtin && known.image.builtin => Ok(Source::Here(here)),
        (_, Some(known)) => Ok(Source::Cluster(known)),
        (Some(here), None) if here.builtin => Ok(Source::Here(here)),
        (_, None) => Err(Error::NotFound(format!(
            "the cluster has no image {reference}; import it with `swarmctl image import {reference} ARCHIVE`"
        ))),
    }
}

/// The nodes to ask for an image of `record`, in this order: those that live first, each task beginning with another.
fn peers(state: &State, record: &ImageRecord, own: NodeId, task: &str) -> Vec<(NodeId, String)> {
    let (mut live, mut down) = (Vec::new(), Vec::new());
    for node in record.nodes.iter().filter(|n| **n != own) {
        match state.nodes.get(node) {
            Some(peer) if peer.health == NodeHealth::Ready => live.push((*node, peer.name.clone())),
            Some(peer) => down.push((*node, peer.name.clone())),
            None => {}
        }
    }
    if !live.is_empty() {
        let at = spread(task) % live.len();
        live.rotate_left(at);
    }
    live.append(&mut down);
    live
}

/// FNV-1a: the same on every host and in every version.
fn spread(text: &str) -> usize {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash >> 33).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::{ImageConfig, Node, Timestamp};

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
        match choose(&"web".parse().unwrap(), here, known) {
            Ok(Source::Here(image)) => Some(image.digest.clone()),
            Ok(Source::Cluster(record)) => Some(record.image.digest.clone()),
            Err(_) => None,
        }
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

    #[test]
    fn living_peers_are_asked_first_and_different_tasks_begin_with_different_ones() {
        let mut state = State::default();
        for n in 1..=5 {
            let health = if n == 3 {
                NodeHealth::Down
            } else {
                NodeHealth::Ready
            };
            let node = Node {
                id: NodeId(n),
                name: format!("host{n}"),
                health,
                ..Node::default()
            };
            state.nodes.insert(node.id, node);
        }
        // 9 has left the cluster.
        let record = record("a", false, &[1, 2, 3, 4, 5, 9]);
        let mut first = BTreeSet::new();
        for task in 0..64 {
            let asked = peers(&state, &record, NodeId(1), &format!("task{task}"));
            assert_eq!(asked.len(), 4);
            assert_eq!(asked.last(), Some(&(NodeId(3), "host3".into())));
            first.insert(asked[0].0);
        }
        assert_eq!(first, [2, 4, 5].map(NodeId).into());
    }
}
