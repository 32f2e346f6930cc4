//! What is known: read from the replica once it is as fresh as was asked for.

use super::{Cluster, names};
use std::collections::BTreeSet;
use swarm_api::model::{
    Answer, Freshness, Info, Kind, Lookup, Node, NodeHealth, NodeId, Object, Query, RaftStatus,
    Read, Scope,
};
use swarm_api::{Error, Result};
use swarm_cluster::State;
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
            let lost = (state.nodes.values()).filter(|n| status.lost.contains(&n.id));
            warnings.extend(lost.map(|n| {
                format!(
                    "node {} lost what its disk had said to be durable: it gets a new copy from the others; replace its \
                     disk if this happens again",
                    n.name
                )
            }));
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
        let (mut value, freshness) = self.look(query.read, |state| state.list(&query)).await?;
        let parts = Parts::of(&self.member.status());
        value.iter_mut().for_each(|object| parts.fill(object));
        Ok(Answer { value, freshness })
    }

    pub(super) async fn get(&self, kind: Kind, name: &str, read: Read) -> Result<Answer<Object>> {
        let (mut value, freshness) = self.look(read, |state| state.get(kind, name)).await?;
        Parts::of(&self.member.status()).fill(&mut value);
        Ok(Answer { value, freshness })
    }

    pub(super) async fn lookup(&self, name: &str, read: Read) -> Result<Answer<Lookup>> {
        let (value, freshness) = self.look(read, |state| names::lookup(state, name)).await?;
        Ok(Answer { value, freshness })
    }

    /// What `find` finds in a state as fresh as `read` asks for, and the index that this state is at: who watches from
    /// there on misses nothing, and is told nothing that was seen here.
    async fn look<T>(
        &self,
        read: Read,
        find: impl FnOnce(&State) -> Result<T>,
    ) -> Result<(T, Freshness)> {
        let mut freshness = self.member.read(read).await?;
        let found = {
            let state = self.member.state();
            // The state may have come further meanwhile.
            freshness.index = freshness.index.max(state.index);
            find(&state)
        };
        let found = match read {
            Read::Linearizable => sure(&freshness, found),
            Read::Stale => found,
        };
        Ok((found?, freshness))
    }
}

/// What was found in a state that is as fresh as `freshness` says. That something is not there is known of a fresh one
/// only: it may have been made since, elsewhere.
pub(super) fn sure<T>(freshness: &Freshness, found: Result<T>) -> Result<T> {
    match found {
        Err(Error::NotFound(why)) if freshness.stale => Err(Error::Unavailable(format!(
            "{why} as far as this node knows, but it hears of no quorum of the managers; ask again, or ask another node"
        ))),
        found => found,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_something_is_not_there_is_said_of_a_fresh_state_only() {
        let missing = || Err::<(), _>(Error::NotFound("there is no service \"web\"".into()));
        let freshness = |stale| Freshness {
            stale,
            ..Freshness::default()
        };
        assert_eq!(sure(&freshness(false), missing()), missing());
        let why = sure(&freshness(true), missing()).unwrap_err();
        assert!(
            matches!(&why, Error::Unavailable(m) if m.contains("web") && m.contains("quorum")),
            "{why:?}"
        );
        assert_eq!(sure(&freshness(true), Ok(1)), Ok(1));
        let other = Err::<(), _>(Error::Conflict("x".into()));
        assert_eq!(sure(&freshness(true), other.clone()), other);
    }
}
