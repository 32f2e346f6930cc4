//! Images that go by themselves from this node: those that nothing uses or wants any more, for long or while the disk is
//! full. Which they are is decided in the host's runtime; the cluster says first what must stay, and is told last.

use super::Part;
use crate::runtime::Runtime;
use std::collections::HashSet;
use std::sync::Arc;
use swarm_api::model::{Image, ImageReference, NodeHealth, NodeId, Timestamp};
use swarm_api::{Error, Result};
use swarm_cluster::{Change, State};
use swarm_member::Member;
use tokio_util::sync::CancellationToken;

/// Looks after the images of this node, until `stop`.
pub(super) async fn run(member: Member, host: Arc<dyn Runtime>, stop: CancellationToken) {
    let Some(interval) = host.collect_interval() else {
        return;
    };
    let mut astray = HashSet::new();
    while stop
        .run_until_cancelled(tokio::time::sleep(interval))
        .await
        .is_some()
    {
        if super::part(&member.state(), member.id()) != Part::In {
            continue;
        }
        if let Err(why) = collect(&member, host.as_ref()).await {
            tracing::debug!(%why, "images are looked after later");
        }
        if let Err(why) = correct(&member, host.as_ref(), &mut astray).await {
            tracing::debug!(%why, "which images are here is corrected later");
        }
    }
}

async fn collect(member: &Member, host: &dyn Runtime) -> Result<()> {
    let view = View::of(&member.state(), member.id());
    for (reference, used_at) in host.overdue_images(&view).await? {
        // Approved first: whether somebody wants it by now, and whether another node has it, only the log can say.
        let known = host.image(&reference);
        let Some(image) = known else { continue };
        let change = Change::DropImage {
            reference: reference.to_string(),
            digest: image.digest,
            node: member.id(),
        };
        match member.propose(change).await {
            Ok(_) => {}
            Err(Error::Conflict(why)) => {
                tracing::debug!(%reference, why, "an image stays");
                continue;
            }
            Err(why) => return Err(why),
        }
        if host.evict_image(&reference, used_at).await? {
            tracing::info!(%reference, "removed an image that nobody has used for long, or for want of room");
        }
        // What is not removed now is announced again.
    }
    Ok(())
}

/// Takes this node off the lists of images that it does not have, where that was so the last time as well: it ended between
/// an approval and a removal, or was told of an image that never came.
async fn correct(
    member: &Member,
    host: &dyn Runtime,
    astray: &mut HashSet<(String, String)>,
) -> Result<()> {
    let missing: HashSet<(String, String)> = {
        let (state, own) = (member.state(), member.id());
        let listed = state.images.values().filter(|r| r.nodes.contains(&own));
        listed
            .filter(|r| !r.image.builtin && !host.missing_layers(&r.image).is_empty())
            .map(|r| (r.image.reference.to_string(), r.image.digest.clone()))
            .collect()
    };
    let again: Vec<_> = missing.intersection(astray).cloned().collect();
    *astray = missing;
    for (reference, digest) in again {
        let change = Change::DropImage {
            reference,
            digest,
            node: member.id(),
        };
        match member.propose(change).await {
            Ok(_) | Err(Error::Conflict(_)) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// What the cluster says of images, at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    wanted: HashSet<String>,
    elsewhere: HashSet<String>,
}

impl View {
    fn of(state: &State, own: NodeId) -> Self {
        let mut view = Self::default();
        let lives = |node: &NodeId| {
            *node != own
                && state
                    .nodes
                    .get(node)
                    .is_some_and(|n| n.health == NodeHealth::Ready)
        };
        for record in state.images.values() {
            let image = &record.image;
            if state.uses_image(image).is_some() {
                view.wanted.insert(image.digest.clone());
            }
            if record.nodes.iter().any(lives) {
                view.elsewhere.insert(image.digest.clone());
            }
        }
        view
    }

    /// Whether the cluster wants an image that nothing here uses.
    #[must_use]
    pub fn wants(&self, image: &Image) -> bool {
        self.wanted.contains(&image.digest)
    }

    /// Whether another node that lives has it.
    #[must_use]
    pub fn is_elsewhere(&self, image: &Image) -> bool {
        self.elsewhere.contains(&image.digest)
    }
}

/// An image's name, and when it was used last.
pub type Overdue = (ImageReference, Timestamp);
