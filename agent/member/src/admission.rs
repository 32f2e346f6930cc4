//! The entrance: a host with a good token becomes a member. Managers sign; a worker passes the request on to one.
//! A token's expiry is judged by the clock of the manager that admits, and again, by the same time, when it is agreed on.

use crate::Member;
use crate::book;
use crate::identity::Secrets;
use crate::links::Lane;
use crate::seldom::Seldom;
use crate::token::{self, Token};
use crate::wire::{from_status, to_status};
use std::collections::BTreeSet;
use swarm_api::model::{
    Availability, Node, NodeHealth, NodeId, NodeRole, RaftStatus, Read, validate_name,
};
use swarm_api::{Error, Result};
use swarm_cluster::Change;
use swarm_cluster::state::TokenRecord;
use swarm_proto::agent as proto;
use swarm_proto::agent::entrance_client::EntranceClient;
use swarm_proto::agent::entrance_server::Entrance;
use tonic::{Request, Response, Status};

/// How often another name is tried when others join at the same time under the same.
const NAMES: usize = 8;

/// The way in.
pub(crate) struct EntranceService {
    pub(crate) member: Member,
    pub(crate) refused: Seldom,
}

#[tonic::async_trait]
impl Entrance for EntranceService {
    async fn join(
        &self,
        request: Request<proto::JoinRequest>,
    ) -> std::result::Result<Response<proto::JoinReply>, Status> {
        let request = request.into_inner();
        let done = if self.member.role() == NodeRole::Manager {
            admit(&self.member, request).await
        } else {
            pass_on(&self.member, request).await
        };
        match done {
            Ok(reply) => Ok(Response::new(reply)),
            Err(e) => {
                self.refused
                    .tell(|more| tracing::warn!(more, "a host was not let in: {e}"));
                Err(to_status(&e))
            }
        }
    }
}

async fn pass_on(member: &Member, request: proto::JoinRequest) -> Result<proto::JoinReply> {
    let managers: Vec<NodeId> = {
        let state = member.state();
        let managers = state.nodes.values().filter(|n| n.role == NodeRole::Manager);
        managers.map(|n| n.id).collect()
    };
    let mut last =
        Error::Unavailable("this worker knows of no manager; join at another address".into());
    for manager in managers {
        if !member.inner.book.seems_alive(manager) {
            continue;
        }
        let channel = match member.inner.links.connect(manager, Lane::Control).await {
            Ok(channel) => channel,
            Err(e) => {
                last = e;
                continue;
            }
        };
        return match EntranceClient::new(channel).join(request).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(from_status(&status)),
        };
    }
    Err(last)
}

async fn admit(member: &Member, request: proto::JoinRequest) -> Result<proto::JoinReply> {
    let inner = &member.inner;
    let authority = inner
        .authority
        .as_ref()
        .ok_or_else(|| Error::Internal("this manager has no key of the cluster's CA".into()))?;
    let (token_id, record) = check_token(member, &request.secret).await?;
    let said: Node = postcard::from_bytes(&request.node)
        .map_err(|e| Error::Invalid(format!("the node's description cannot be understood: {e}")))?;
    validate_name("node", &said.name)?;
    let now = inner.now();
    let (id, certificate) = authority.sign(
        &request.csr,
        record.role,
        now,
        inner.tuning.certificate_life,
        &inner.config.world,
    )?;

    let mut node = Node {
        id,
        role: record.role,
        availability: Availability::Active,
        health: NodeHealth::Ready,
        raft: RaftStatus::Observer,
        joined_at: now,
        ..said
    };
    let wished = node.name.clone();
    let mut tried = BTreeSet::new();
    let index = loop {
        node.name = {
            let state = member.state();
            let taken = state
                .nodes
                .values()
                .filter(|n| n.id != id)
                .map(|n| n.name.clone());
            unique_name(&wished, &taken.chain(tried.iter().cloned()).collect())
        };
        let change = Change::AddNode {
            node: node.clone(),
            token: Some(token_id.clone()),
        };
        match member.propose_at(change).await {
            Ok((index, _)) => break index,
            Err(Error::AlreadyExists(_)) if tried.len() < NAMES => {
                tried.insert(node.name.clone());
            }
            Err(e) => return Err(e),
        }
    };
    tracing::info!(node = %id, name = node.name, role = ?record.role, address = ?node.address, "a node joined");

    let identity = inner.identity.load();
    let secrets = Secrets {
        ca_key: identity
            .secrets
            .ca_key
            .clone()
            .filter(|_| record.role == NodeRole::Manager),
        ..identity.secrets.clone()
    };
    let mut peers = inner.book.others();
    peers.remove(&id);
    peers.insert(identity.node, member.advertise());
    Ok(proto::JoinReply {
        certificate: certificate.0.into(),
        ca: identity.ca.0.clone().into(),
        cluster: identity.cluster.clone(),
        role: u32::from(record.role == NodeRole::Worker),
        secrets: postcard::to_stdvec(&secrets)
            .map_err(|e| Error::Internal(format!("cannot encode what a member must know: {e}")))?
            .into(),
        peers: peers
            .into_iter()
            .map(|(id, address)| book::format_peer(id, address))
            .collect(),
        index,
    })
}

async fn check_token(member: &Member, proof: &str) -> Result<(String, TokenRecord)> {
    let (id, hash) = Token::read_proof(proof)?;
    let find = || member.state().tokens.get(&id).cloned();
    let record = match find() {
        Some(record) => record,
        None => {
            // It may have been made a moment ago, elsewhere.
            member.read(Read::Linearizable).await?;
            find().ok_or_else(|| {
                Error::Denied(format!(
                    "the cluster does not know the token {id}: it has expired or was removed; make another with \
                     `swarmctl token create`"
                ))
            })?
        }
    };
    if !token::same(&record.hash, &hash) {
        return Err(Error::Denied(format!(
            "the token {id} has another secret; use the token as it was printed"
        )));
    }
    if record.expires_at <= member.inner.now() {
        return Err(Error::Denied(format!(
            "the token {id} has expired; make another with `swarmctl token create`"
        )));
    }
    Ok((id, record))
}

/// The name, with a number if it is taken.
fn unique_name(wished: &str, taken: &BTreeSet<String>) -> String {
    if !taken.contains(wished) {
        return wished.to_owned();
    }
    (2u32..)
        .map(|n| {
            let end = format!("-{n}");
            let room = 63 - end.len();
            let start = &wished[..wished.len().min(room)];
            format!("{}{end}", start.trim_end_matches('-'))
        })
        .find(|name| !taken.contains(name))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_the_next_number_and_stays_a_name() {
        let taken = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        assert_eq!(unique_name("a", &taken(&[])), "a");
        assert_eq!(unique_name("a", &taken(&["a", "a-2"])), "a-3");
        let long = "x".repeat(63);
        let next = unique_name(&long, &taken(&[&long]));
        assert!(next.ends_with("-2"));
        validate_name("node", &next).unwrap();
    }
}
