//! The backend of one node: this host's own without a detour, another's over the wire; and whose fault it is when
//! one does not answer.

use super::Cluster;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::NodeId;
use swarm_api::{Backend, BoxStream, Error, Result, grpc};

use futures_util::StreamExt;

/// What a node answers a short question, or opens a stream, within.
const ANSWER: Duration = Duration::from_secs(10);

/// One node, to be asked of its own tasks.
#[derive(Clone)]
pub(super) struct NodeBackend {
    name: String,
    pub(super) backend: Arc<dyn Backend>,
}

impl Cluster {
    /// The backend of `node`. Connections are kept by the member; making a client of one costs nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] naming a node that cannot be reached, [`Error::NotFound`] for one that is gone.
    pub(super) async fn backend_of(&self, node: NodeId) -> Result<NodeBackend> {
        let name = {
            let state = self.member.state();
            state.nodes.get(&node).map(|n| n.name.clone())
        };
        let name = name.ok_or_else(|| {
            Error::NotFound(format!("node {node} is not in this cluster any more"))
        })?;
        if node == self.member.id() {
            let backend = Arc::clone(&self.local);
            return Ok(NodeBackend { name, backend });
        }
        let channel = match tokio::time::timeout(ANSWER, self.member.connect(node)).await {
            Ok(channel) => channel.map_err(|e| blame(&name, e))?,
            Err(_) => return Err(silent(&name)),
        };
        let backend = Arc::new(grpc::Client::from_channel(channel));
        Ok(NodeBackend { name, backend })
    }
}

impl NodeBackend {
    /// The node's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the node answers to `question`, which must be a short one.
    pub(super) async fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(ANSWER, question).await {
            Ok(answer) => answer.map_err(|e| blame(&self.name, e)),
            Err(_) => Err(silent(&self.name)),
        }
    }

    /// What the node answers when it is done with something that may take long.
    pub(super) async fn finish<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        work.await.map_err(|e| blame(&self.name, e))
    }

    /// A stream that the node opens.
    pub(super) async fn open<T: Send + 'static>(
        &self,
        stream: impl Future<Output = Result<BoxStream<Result<T>>>>,
    ) -> Result<BoxStream<Result<T>>> {
        let stream = self.ask(stream).await?;
        let name = self.name.clone();
        Ok(stream
            .map(move |item| item.map_err(|e| blame(&name, e)))
            .boxed())
    }
}

fn silent(name: &str) -> Error {
    Error::Unavailable(format!(
        "node {name} cannot be reached: it did not answer within {} s",
        ANSWER.as_secs()
    ))
}

/// An error of a node that could not be asked says which; what a node says of its tasks needs no more words.
pub(super) fn blame(name: &str, error: Error) -> Error {
    match error {
        Error::Unavailable(why) if !why.contains(name) => {
            Error::Unavailable(format!("node {name} cannot be reached: {why}"))
        }
        other => other,
    }
}
