//! Images that are looked at, named and passed on: how they were made, into registries, further names, and new ones of what
//! a container has changed. Each is done by a node that has what it needs.

use super::nodes::blame;
use super::{Cluster, attach, images, names};
use crate::runtime::Runtime;
use crate::share::Fetcher;
use swarm_api::backend::{CommitOptions, PushEvent};
use swarm_api::model::{HistoryEntry, Image, ImageReference, NodeHealth, NodeId, TaskState};
use swarm_api::{BoxStream, Error, Result};
use swarm_cluster::state::ImageRecord;
use swarm_cluster::{Change, State};

impl Cluster {
    /// From this node if it has the image, or else from one that has it and answers.
    pub(super) async fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        self.fresh().await?;
        let record = images::known(&self.member.state(), name)?;
        let mut last = Error::Unavailable(format!(
            "no node that has the image {} can be asked",
            record.image.reference
        ));
        let nodes = order(&self.member.state(), &record, self.member.id());
        for node in nodes {
            let on = match self.backend_of(node).await {
                Ok(on) => on,
                Err(why) => {
                    last = why;
                    continue;
                }
            };
            let name = record.image.reference.to_string();
            match on.ask(on.backend.image_history(name)).await {
                Ok(history) => return Ok(history),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Names an image on all nodes that have it.
    pub(super) async fn tag_image(&self, name: &str, to: &str) -> Result<Image> {
        self.fresh().await?;
        let reference: ImageReference = to.parse()?;
        if reference.digest().is_some() {
            return Err(Error::Invalid(format!(
                "an image cannot be called {reference}: the digest is its registry's to give; leave it out"
            )));
        }
        let record = images::known(&self.member.state(), name)?;
        let image = Image {
            reference,
            builtin: false,
            ..record.image
        };
        for node in record.nodes {
            let image = image.clone();
            self.member
                .propose(Change::PutImage { image, node })
                .await?;
        }
        Ok(image)
    }

    /// On the node where the task's container is; then the image is known to all.
    pub(super) async fn commit(
        &self,
        task: &str,
        name: &str,
        options: CommitOptions,
    ) -> Result<Image> {
        self.fresh().await?;
        let task = names::task(&self.member.state(), task)?;
        let node = match task.node {
            Some(node) if task.status.state >= TaskState::Running => node,
            _ => return Err(attach::not_running(&task)),
        };
        let on = self.backend_of(node).await?;
        // It takes as long as there is to read.
        let made = on
            .backend
            .commit(task.id.to_string(), name.to_owned(), options);
        let image = made.await.map_err(|e| blame(on.name(), e))?;
        images::make_known(&self.member, &image, node, "make").await?;
        Ok(image)
    }

    /// From this node, whose credentials count; what it lacks of the image it gets first.
    pub(super) async fn push_image(
        &self,
        host: &dyn Runtime,
        fetcher: &Fetcher,
        name: &str,
        to: Option<String>,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        self.fresh().await?;
        let record = images::known(&self.member.state(), name)?;
        fetcher.bring(&record.image, |_| ()).await?;
        host.push_image(record.image.reference.to_string(), to)
            .await
    }
}

/// The nodes that have an image and live, this one first.
fn order(state: &State, record: &ImageRecord, own: NodeId) -> Vec<NodeId> {
    let lives = |node: &&NodeId| {
        let node = state.nodes.get(node);
        node.is_some_and(|n| n.health == NodeHealth::Ready)
    };
    let mut nodes: Vec<NodeId> = record.nodes.iter().filter(lives).copied().collect();
    nodes.sort_by_key(|node| *node != own);
    nodes
}
