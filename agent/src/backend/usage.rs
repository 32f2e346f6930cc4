//! What takes up the disks: each node is asked for its own.

use super::Cluster;
use futures_util::future::join_all;
use std::time::Duration;
use swarm_api::model::{DiskUsage, NodeHealth, NodeId};
use swarm_api::{Error, Result};

/// What a node answers within: it has to look at all of its files.
const ANSWER: Duration = Duration::from_secs(60);

impl Cluster {
    /// All nodes, in the order of their names; of those that cannot be asked, why.
    pub(super) async fn disk_usage(&self) -> Result<Vec<DiskUsage>> {
        self.fresh().await?;
        let mut nodes: Vec<(String, NodeId, NodeHealth)> = {
            let state = self.member.state();
            let of = |n: &swarm_api::model::Node| (n.name.clone(), n.id, n.health);
            state.nodes.values().map(of).collect()
        };
        nodes.sort_by(|a, b| a.0.cmp(&b.0));
        let answers = nodes.into_iter().map(|(name, id, health)| async move {
            let answer = match health {
                NodeHealth::Down => Err(Error::Unavailable("the node is down".into())),
                NodeHealth::Ready => tokio::time::timeout(ANSWER, self.usage_of(id))
                    .await
                    .unwrap_or_else(|_| {
                        Err(Error::Unavailable(format!(
                            "it did not answer within {} s",
                            ANSWER.as_secs()
                        )))
                    }),
            };
            let usage = answer.unwrap_or_else(|why| DiskUsage {
                error: Some(why.to_string()),
                ..DiskUsage::default()
            });
            DiskUsage {
                node_name: name,
                ..usage
            }
        });
        Ok(join_all(answers).await)
    }

    async fn usage_of(&self, node: NodeId) -> Result<DiskUsage> {
        let on = self.backend_of(node).await?;
        let mut answer = on.backend.disk_usage().await?;
        answer
            .pop()
            .ok_or_else(|| Error::Internal(format!("node {} says nothing of its disk", on.name())))
    }
}
