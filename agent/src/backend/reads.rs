//! What is known: read from the replica once it is as fresh as was asked for.

use super::{Cluster, names};
use std::collections::BTreeSet;
use swarm_api::Result;
use swarm_api::model::{
    Answer, Freshness, Info, Kind, Lookup, Node, NodeHealth, NodeId, Object, Query, RaftStatus,
    Read, Scope,
};
use swarm_member::MemberStatus;

impl Cluster {
    /// Waits until the replica has everything that was acknowledged before, as far as there is a quorum to say so.
    pub(super) async fn fresh(&self) -> Result<Freshness> {
        self.member.read(Read::Linearizable).await
    }

    pub(super) async fn info(&self) -> Result<Info> {
        let status = self.member.status();
        let mut warnings = warnings(&status);
        {
            let state = self.member.state();
            let down = state
                .nodes
                .values()
                .filter(|n| n.health == NodeHealth::Down);
            warnings.extend(down.map(|n| format!("node {} is down", n.name)));
        }
        if let Ok(local) = self.local.info().await {
            warnings.extend(local.warnings);
        }
        Ok(Info {
            scope: Scope::Cluster,
            version: env!("CARGO_PKG_VERSION").into(),
            node: Some(self.member.id()),
            node_name: self.member.name(),
            cluster: Some(self.member.cluster()),
            leader: status.leader,
            term: status.term,
            applied: status.applied,
            voters: status.voters,
            warnings,
        })
    }

    pub(super) async fn list(&self, query: Query) -> Result<Answer<Vec<Object>>> {
        let freshness = self.member.read(query.read).await?;
        let mut value = {
            let state = self.member.state();
            state.list(&query)?
        };
        let parts = Parts::of(&self.member.status());
        value.iter_mut().for_each(|object| parts.fill(object));
        Ok(Answer { value, freshness })
    }

    pub(super) async fn get(&self, kind: Kind, name: &str, read: Read) -> Result<Answer<Object>> {
        let freshness = self.member.read(read).await?;
        let mut value = {
            let state = self.member.state();
            state.get(kind, name)?
        };
        Parts::of(&self.member.status()).fill(&mut value);
        Ok(Answer { value, freshness })
    }

    pub(super) async fn lookup(&self, name: &str, read: Read) -> Result<Answer<Lookup>> {
        let freshness = self.member.read(read).await?;
        let state = self.member.state();
        let value = names::lookup(&state, name)?;
        Ok(Answer { value, freshness })
    }
}

fn warnings(status: &MemberStatus) -> Vec<String> {
    let mut found: Vec<String> = status.failure.iter().cloned().collect();
    if !status.has_quorum {
        let since = match status.staleness {
            Some(age) => format!(" for {} s", age.as_secs()),
            None => String::new(),
        };
        found.push(format!(
            "this node has heard of no quorum{since}: what it shows may be stale, and nothing can be changed through it"
        ));
    }
    found
}

/// Who leads and who votes, for answers: not replicated, because it is the log's own matter.
struct Parts {
    leader: Option<NodeId>,
    voters: BTreeSet<NodeId>,
}

impl Parts {
    fn of(status: &MemberStatus) -> Self {
        Self {
            leader: status.leader,
            voters: status.voters.iter().copied().collect(),
        }
    }

    fn fill(&self, object: &mut Object) {
        if let Object::Node(node) = object {
            node.raft = self.part(node);
        }
    }

    fn part(&self, node: &Node) -> RaftStatus {
        if self.leader == Some(node.id) {
            RaftStatus::Leader
        } else if self.voters.contains(&node.id) {
            RaftStatus::Voter
        } else {
            RaftStatus::Observer
        }
    }
}
