//! Images: unpacked by the node that was asked, and then known to the whole cluster, with who has them.

use crate::runtime::Runtime;
use crate::share::Fetcher;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use swarm_api::backend::{PullEvent, PullOptions, PullPolicy, PulledNode};
use swarm_api::model::{Image, ImageConfig, ImageReference, NodeHealth, NodeId, Read};
use swarm_api::{Backend, BoxStream, Error, Result};
use swarm_cluster::state::ImageRecord;
use swarm_cluster::{Change, State};
use swarm_member::Member;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Imports `archive` here, and makes it known. What the cluster refuses does not stay on this node.
pub(super) async fn import(
    member: &Member,
    host: &dyn Runtime,
    name: String,
    config: ImageConfig,
    archive: BoxStream<Result<Bytes>>,
) -> Result<Image> {
    let reference: ImageReference = name.parse()?;
    let before = host.image(&reference);
    let image = host.import_image(name, config, archive).await?;
    match make_known(member, &image, member.id(), "import").await {
        Ok(()) => Ok(image),
        // It may still be carried out; then the layers must be here.
        Err(why) if why.is_transient() => Err(why),
        Err(why) => {
            if let Err(left) = undo(host, &reference, before).await {
                tracing::warn!(%reference, %left, "an image that the cluster refused stays on this node");
            }
            Err(why)
        }
    }
}

/// Tells the cluster that `node` has the image. `verb` is what brought it there, and would once more.
pub(super) async fn make_known(
    member: &Member,
    image: &Image,
    node: NodeId,
    verb: &str,
) -> Result<()> {
    let change = Change::PutImage {
        image: image.clone(),
        node,
    };
    let known = member.propose(change).await.map(drop);
    known.map_err(|why: Error| {
        let reference = &image.reference;
        if !why.is_transient() {
            return why.context(format!("cannot make image {reference} known to the cluster"));
        }
        let name = member.state().nodes.get(&node).map(|n| n.name.clone());
        let place = match name {
            Some(name) if node != member.id() => format!("node {name}"),
            _ => "this node".into(),
        };
        why.context(format!(
            "image {reference} is on {place}, but the cluster may not know it yet; {verb} it again once it answers"
        ))
    })
}

/// Gets an image from its registry, on this node, and makes it known; unless the cluster knows it, and `options` are
/// content with that.
pub(super) async fn pull(
    member: &Member,
    host: &dyn Runtime,
    name: &str,
    options: PullOptions,
) -> Result<BoxStream<Result<PullEvent>>> {
    let reference: ImageReference = name.parse()?;
    let name = reference.to_string();
    if options.all_nodes {
        let options = PullOptions {
            all_nodes: false,
            ..options
        };
        let own = host.pull_image(name.clone(), options).await?;
        return Ok(everywhere(member.clone(), name, own));
    }
    if options.policy == PullPolicy::Missing {
        let mut there = available(&member.state(), &name);
        if there.is_none() {
            // Another node may know it already. Without a quorum, what this one knows is all there is.
            let _ = member.read(Read::Linearizable).await;
            there = available(&member.state(), &name);
        }
        if let Some(image) = there {
            return Ok(stream::iter([Ok(PullEvent::Done(image))]).boxed());
        }
    }
    let pinned = reference
        .digest()
        .and_then(|d| by_manifest(&member.state(), d));
    if let Some((image, nodes)) = pinned
        && !nodes.contains(&member.id())
    {
        // The same bytes under another name: who has them has them under this one as well.
        let image = Image { reference, ..image };
        for node in nodes {
            let change = Change::PutImage {
                image: image.clone(),
                node,
            };
            member.propose(change).await?;
        }
        return Ok(stream::iter([Ok(PullEvent::Done(image))]).boxed());
    }
    let events = host.pull_image(name, options).await?;
    let member = member.clone();
    let made_known = events.then(move |event| {
        let member = member.clone();
        async move {
            let event = event?;
            if let PullEvent::Done(image) = &event {
                make_known(&member, image, member.id(), "pull").await?;
            }
            Ok(event)
        }
    });
    Ok(made_known.boxed())
}

/// Has all other nodes that are ready get the image as well, as soon as `own`, this node's pull, says which manifest its
/// name stands for. Ends as `own` does, or with the names of those that could not get it.
fn everywhere(
    member: Member,
    name: String,
    own: BoxStream<Result<PullEvent>>,
) -> BoxStream<Result<PullEvent>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let work = pull_everywhere(&member, &name, own, &sender);
        let last = tokio::select! {
            last = work => last.map(PullEvent::Done),
            () = sender.closed() => return,
        };
        let _ = sender.send(last).await;
    });
    ReceiverStream::new(receiver).boxed()
}

async fn pull_everywhere(
    member: &Member,
    name: &str,
    mut own: BoxStream<Result<PullEvent>>,
    events: &mpsc::Sender<Result<PullEvent>>,
) -> Result<Image> {
    let mut others = FuturesUnordered::new();
    let mut begun = false;
    let mut image = None;
    let mut failed = Vec::new();
    loop {
        tokio::select! {
            event = own.next(), if image.is_none() => {
                let broken = || Error::Unavailable("this node broke off pulling it".into());
                let event = event.ok_or_else(broken)??;
                let digest = match &event {
                    PullEvent::Resolved(digest) => Some(digest.clone()),
                    PullEvent::Done(image) => image.manifest.clone(),
                    _ => None,
                };
                if let (Some(digest), false) = (digest, begun) {
                    begun = true;
                    others.extend(living(member).into_iter().map(|peer| pull_on(member, peer, name, digest.clone())));
                }
                match event {
                    PullEvent::Done(done) => {
                        make_known(member, &done, member.id(), "pull").await?;
                        image = Some(done);
                    }
                    event => {
                        let _ = events.send(Ok(event)).await;
                    }
                }
            }
            Some(node) = others.next() => {
                if let Some(why) = &node.failure {
                    failed.push(format!("{}: {why}", node.name));
                }
                let _ = events.send(Ok(PullEvent::Node(node))).await;
            }
            else => break,
        }
    }
    match image {
        Some(image) if failed.is_empty() => Ok(image),
        _ => Err(Error::Unavailable(format!(
            "image {name} is here, but not on all nodes: {}",
            failed.join("; ")
        ))),
    }
}

/// The other nodes that are ready.
fn living(member: &Member) -> Vec<(NodeId, String)> {
    let (state, own) = (member.state(), member.id());
    let nodes = state.nodes.values();
    nodes
        .filter(|n| n.id != own && n.health == NodeHealth::Ready)
        .map(|n| (n.id, n.name.clone()))
        .collect()
}

/// Has another node get the image, and makes that known.
async fn pull_on(
    member: &Member,
    (node, node_name): (NodeId, String),
    name: &str,
    digest: String,
) -> PulledNode {
    let pulling = async {
        let peer = swarm_api::grpc::Client::from_channel(member.connect(node).await?);
        let options = PullOptions {
            policy: PullPolicy::Always,
            all_nodes: false,
            digest: Some(digest),
        };
        let mut events = peer.pull_image(name.to_owned(), options).await?;
        while let Some(event) = events.next().await {
            if let PullEvent::Done(image) = event? {
                return make_known(member, &image, node, "pull").await;
            }
        }
        Err(Error::Unavailable("it broke off pulling it".into()))
    };
    let outcome: Result<()> = pulling.await;
    PulledNode {
        name: node_name,
        failure: outcome.err().map(|why| why.to_string()),
    }
}

/// Takes the images of an archive in, on this node, and makes them known.
pub(super) async fn load(
    member: &Member,
    host: &dyn Runtime,
    name: Option<String>,
    archive: BoxStream<Result<Bytes>>,
) -> Result<Vec<Image>> {
    let images = host.load_images(name, archive).await?;
    for image in &images {
        make_known(member, image, member.id(), "load").await?;
    }
    Ok(images)
}

/// Images as one archive. What is not on this node of them is brought here first.
pub(super) async fn save(
    member: &Member,
    host: &dyn Runtime,
    fetcher: &Fetcher,
    names: Vec<String>,
) -> Result<BoxStream<Result<Bytes>>> {
    // Another node may have made one known just now. Without a quorum, what this one knows is all there is.
    let _ = member.read(Read::Linearizable).await;
    for name in &names {
        let record = known(&member.state(), name)?;
        fetcher.bring(&record.image, |_| ()).await?;
    }
    host.save_images(names).await
}

/// What the cluster knows of the image of that name.
pub(super) fn known(state: &State, name: &str) -> Result<ImageRecord> {
    let reference: ImageReference = name.parse()?;
    let record = state.images.get(&reference.to_string());
    let record = record.map(|record| ImageRecord::clone(record));
    record.ok_or_else(|| Error::NotFound(format!("the cluster has no image {reference}")))
}

/// The image of that name, where a node that lives has it.
fn available(state: &State, name: &str) -> Option<Image> {
    let record = state.images.get(name)?;
    has_living(state, record).then(|| record.image.clone())
}

fn by_manifest(state: &State, digest: &str) -> Option<(Image, Vec<NodeId>)> {
    let mut records = state.images.values();
    let record =
        records.find(|r| r.image.manifest.as_deref() == Some(digest) && has_living(state, r))?;
    Some((record.image.clone(), record.nodes.iter().copied().collect()))
}

fn has_living(state: &State, record: &ImageRecord) -> bool {
    let lives = |node: &NodeId| {
        state
            .nodes
            .get(node)
            .is_some_and(|n| n.health == NodeHealth::Ready)
    };
    record.image.builtin || record.nodes.iter().any(lives)
}

async fn undo(host: &dyn Runtime, reference: &ImageReference, before: Option<Image>) -> Result<()> {
    match before {
        Some(before) if host.missing_layers(&before).is_empty() => host.put_image(before).await,
        _ => host.remove_image(reference).await,
    }
}

/// Makes the images of this node known that the cluster should know it to have: those that come with the binary, and
/// those that the cluster knows from others.
///
/// # Errors
/// What a proposal came to; the rest is then to be announced later.
pub async fn announce_images(member: &Member, host: &dyn Runtime) -> Result<()> {
    let node = member.id();
    let images = unannounced(&member.state(), node, host.images());
    for image in images {
        let reference = image.reference.clone();
        let change = Change::PutImage { image, node };
        member.propose(change).await.map_err(|e: Error| {
            e.context(format!(
                "cannot make image {reference} of this node known to the cluster"
            ))
        })?;
    }
    Ok(())
}

/// The images of `node` that the state does not list for it. An imported image that the cluster does not know stays
/// the host's own: it may have been removed from the cluster while this node was away. One of the same name and other
/// content is not put over the cluster's, unless it came with the binary: then the binary is another version.
fn unannounced(state: &State, node: NodeId, images: Vec<Image>) -> Vec<Image> {
    let missing = |image: &Image| match state.images.get(&image.reference.to_string()) {
        None => image.builtin,
        Some(known) if known.image.digest == image.digest => !known.nodes.contains(&node),
        Some(known) => image.builtin && known.image.builtin,
    };
    images.into_iter().filter(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use swarm_api::model::Timestamp;

    fn image(name: &str, digest: &str, builtin: bool) -> Image {
        Image {
            reference: name.parse().unwrap(),
            digest: digest.into(),
            layers: Vec::new(),
            size: 0,
            config: ImageConfig::default(),
            created_at: Timestamp(0),
            builtin,
            manifest: None,
        }
    }

    fn knowing(images: &[(Image, u64)]) -> State {
        let mut state = State::default();
        for (image, node) in images {
            let record = ImageRecord {
                image: image.clone(),
                nodes: BTreeSet::from([NodeId(*node)]),
            };
            state
                .images
                .insert(image.reference.to_string(), record.into());
        }
        state
    }

    fn announced(state: &State, images: &[Image]) -> Vec<String> {
        let found = unannounced(state, NodeId(1), images.to_vec());
        found.into_iter().map(|i| i.reference.to_string()).collect()
    }

    #[test]
    fn what_came_with_the_binary_and_what_the_cluster_knows_is_announced_once() {
        let whoami = image("whoami", "sha256:1", true);
        let busybox = image("busybox", "sha256:2", false);
        let own = image("own", "sha256:3", false);
        let all = [whoami.clone(), busybox.clone(), own];
        assert_eq!(announced(&State::default(), &all), ["whoami:latest"]);
        let elsewhere = knowing(&[(whoami.clone(), 2), (busybox.clone(), 2)]);
        assert_eq!(
            announced(&elsewhere, &all),
            ["whoami:latest", "busybox:latest"]
        );
        let here = knowing(&[(whoami, 1), (busybox, 1)]);
        assert!(announced(&here, &all).is_empty());
    }

    #[test]
    fn an_old_import_is_not_put_over_the_cluster_s() {
        let state = knowing(&[(image("busybox", "sha256:new", false), 2)]);
        assert!(announced(&state, &[image("busybox", "sha256:old", false)]).is_empty());
    }
}
