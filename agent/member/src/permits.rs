//! Who may propose what. Pure.
//!
//! Managers may propose everything. A worker speaks for itself (its facts, its reports, its leaving), and passes on what
//! its users ask for: in this version whoever reaches a worker's local socket may use the whole cluster, as on a manager.
//! The exception is a token for managers, since that would give the worker the CA's key.

use crate::authority::Peer;
use swarm_api::model::NodeRole;
use swarm_cluster::Change;

/// `Err` says why not.
pub(crate) fn may_propose(peer: Peer, change: &Change) -> Result<(), &'static str> {
    if peer.role == NodeRole::Manager {
        return Ok(());
    }
    let own = |id, what| if id == peer.id { Ok(()) } else { Err(what) };
    match change {
        Change::Report { node, .. } => own(*node, "a worker reports of its own tasks only"),
        Change::NodeFacts { id, .. } => own(*id, "a worker says facts of itself only"),
        Change::DropImage { node, .. } => own(*node, "a worker speaks of its own images only"),
        Change::AddToken {
            role: NodeRole::Manager,
            ..
        } => Err("a worker cannot make a token for managers; make it on a manager"),
        Change::Init { .. }
        | Change::AddNode { .. }
        | Change::NodeDown(_)
        | Change::NodeUp(_)
        | Change::Plan(_) => Err("only managers decide that"),
        Change::UpdateNode(..)
        | Change::RemoveNode { .. }
        | Change::CreateService(_)
        | Change::UpdateService(..)
        | Change::RemoveService(_)
        | Change::StopTask(_)
        | Change::SetStopTimeout { .. }
        | Change::RemoveTask(_)
        | Change::CreateNetwork(_)
        | Change::RemoveNetwork(_)
        | Change::PutImage { .. }
        | Change::RemoveImage(_)
        | Change::AddToken { .. }
        | Change::RemoveToken(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::{Id, NodeId, Timestamp};

    #[test]
    fn a_worker_speaks_for_itself_and_its_users_only() {
        let worker = Peer {
            id: NodeId(1),
            role: NodeRole::Worker,
        };
        let manager = Peer {
            id: NodeId(2),
            role: NodeRole::Manager,
        };
        let report = |node| Change::Report {
            node,
            statuses: Vec::new(),
        };
        let token = |role| Change::AddToken {
            id: "t".into(),
            hash: [0; 32],
            role,
            expires_at: Timestamp(1),
        };
        for (change, allowed) in [
            (report(NodeId(1)), true),
            (report(NodeId(2)), false),
            (Change::Plan(Vec::new()), false),
            (Change::NodeDown(NodeId(2)), false),
            (Change::RemoveService(Id::from_u64(1)), true),
            (token(NodeRole::Worker), true),
            (token(NodeRole::Manager), false),
        ] {
            assert_eq!(may_propose(worker, &change).is_ok(), allowed, "{change:?}");
            assert!(may_propose(manager, &change).is_ok());
        }
    }
}
