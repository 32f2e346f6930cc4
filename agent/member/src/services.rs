//! What this node answers its peers. The guard has seen to it that the caller is a member.

use crate::authority::Peer;
use crate::guard::caller;
use crate::machine::Proposal;
use crate::observe::pieces;
use crate::wire::{elsewhere, to_status};
use crate::{Member, departure, permits};
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use swarm_api::Error;
use swarm_api::model::NodeRole;
use swarm_consensus::Error as ConsensusError;
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_server::Agent;
use tonic::{Request, Response, Status};

/// One agent, as its peers see it.
pub(crate) struct AgentService(pub(crate) Member);

fn manager(peer: Peer) -> Result<(), Status> {
    match peer.role {
        NodeRole::Manager => Ok(()),
        NodeRole::Worker => Err(Status::permission_denied(format!(
            "node {} is a worker: only managers take part in Raft",
            peer.id
        ))),
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    type ObserveStream = BoxStream<'static, Result<proto::ObserveItem, Status>>;

    async fn raft(
        &self,
        request: Request<proto::RaftMessage>,
    ) -> Result<Response<proto::RaftReply>, Status> {
        manager(caller(&request)?)?;
        let consensus = self.0.consensus().map_err(|e| to_status(&e))?;
        let body = request.into_inner().body;
        match consensus.handle_rpc(&body).await {
            Ok(body) => Ok(Response::new(proto::RaftReply { body })),
            Err(e) => Err(Status::unavailable(e.to_string())),
        }
    }

    async fn propose(
        &self,
        request: Request<proto::Command>,
    ) -> Result<Response<proto::Outcome>, Status> {
        let peer = caller(&request)?;
        let body = request.into_inner().body;
        let proposal = Proposal::decode(&body).map_err(|e| to_status(&e))?;
        permits::may_propose(peer, &proposal.command.change)
            .map_err(|why| Status::permission_denied(format!("node {}: {why}", peer.id)))?;
        let elsewhere = |leader| proto::Outcome {
            elsewhere: Some(elsewhere(leader)),
            ..proto::Outcome::default()
        };
        let Some(consensus) = self
            .0
            .inner
            .consensus
            .as_ref()
            .filter(|c| c.status().is_leader())
        else {
            return Ok(Response::new(elsewhere(self.0.inner.replica.leader())));
        };
        match consensus.propose(body).await {
            Ok(proposed) if proposed.outcome.is_empty() => {
                Err(Status::unavailable("the outcome is not known yet"))
            }
            Ok(proposed) => Ok(Response::new(proto::Outcome {
                index: proposed.index,
                body: proposed.outcome,
                elsewhere: None,
            })),
            Err(ConsensusError::NotLeader { leader }) => Ok(Response::new(elsewhere(leader))),
            Err(e @ ConsensusError::TooLarge { .. }) => {
                Err(Status::invalid_argument(e.to_string()))
            }
            Err(e) => Err(Status::unavailable(e.to_string())),
        }
    }

    async fn read_index(
        &self,
        _request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexReply>, Status> {
        let elsewhere = |leader| proto::ReadIndexReply {
            elsewhere: Some(elsewhere(leader)),
            ..proto::ReadIndexReply::default()
        };
        let Some(consensus) = &self.0.inner.consensus else {
            return Ok(Response::new(elsewhere(self.0.inner.replica.leader())));
        };
        match consensus.linearizable_read().await {
            Ok(index) => {
                let group = self.0.inner.group();
                Ok(Response::new(proto::ReadIndexReply {
                    index,
                    term: group.term,
                    voters: group.voters.into_iter().collect(),
                    elsewhere: None,
                }))
            }
            Err(ConsensusError::NotLeader { leader }) => Ok(Response::new(elsewhere(leader))),
            Err(e) => Err(Status::unavailable(e.to_string())),
        }
    }

    async fn observe(
        &self,
        request: Request<proto::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let peer = caller(&request)?;
        let inner = Arc::clone(&self.0.inner);
        let items = inner.replica.observe(request.into_inner().from);
        let stop = inner.stop.clone().cancelled_owned();
        let machine = Arc::clone(&inner.machine);
        let stream = items
            .take_until(stop)
            // One that is taken out meanwhile learns nothing more.
            .take_while(move |_| std::future::ready(!machine.is_revoked(peer.id)))
            .flat_map(move |item| stream::iter(pieces(&item, || inner.group())));
        Ok(Response::new(stream.boxed()))
    }

    async fn renew(
        &self,
        request: Request<proto::RenewRequest>,
    ) -> Result<Response<proto::RenewReply>, Status> {
        let peer = caller(&request)?;
        let inner = &self.0.inner;
        let Some(authority) = &inner.authority else {
            return Err(to_status(&Error::Conflict(
                "a worker cannot renew certificates; ask a manager".into(),
            )));
        };
        let csr = request.into_inner().csr;
        let signed = authority.sign(
            &csr,
            peer.role,
            inner.now(),
            inner.tuning.certificate_life,
            &inner.config.world,
        );
        let (id, certificate) = signed.map_err(|e| to_status(&e))?;
        if id != peer.id {
            return Err(Status::permission_denied(
                "a node renews its own certificate only, with the same key",
            ));
        }
        tracing::info!(node = %id, "renewed a certificate");
        Ok(Response::new(proto::RenewReply {
            certificate: certificate.0.into(),
        }))
    }

    async fn leave(
        &self,
        request: Request<proto::LeaveRequest>,
    ) -> Result<Response<proto::LeaveReply>, Status> {
        let peer = caller(&request)?;
        if !self.0.inner.leads() {
            return Ok(Response::new(proto::LeaveReply {
                elsewhere: Some(elsewhere(self.0.inner.replica.leader())),
            }));
        }
        departure::let_go(&self.0, peer.id)
            .await
            .map_err(|e| to_status(&e))?;
        Ok(Response::new(proto::LeaveReply { elsewhere: None }))
    }
}
