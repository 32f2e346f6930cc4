//! Carries the Raft library's messages over the transport that was handed in.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, RPCError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::{EmptyNode, RaftNetwork, RaftNetworkFactory};

use super::log::LogStore;
use super::shared::Shared;
use super::types::{
    AppendRequest, AppendResponse, RaftError, RpcError, SnapshotRequest, SnapshotResponse, Types,
    VoteRequest, VoteResponse,
};
use super::wire::{self, Reply, Request};
use crate::{MessageKind, RaftTransport};

/// Makes connections; each is only the number of its target.
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn RaftTransport>,
    pub(crate) log: LogStore,
    pub(crate) shared: Arc<Shared>,
    pub(crate) retry: Duration,
}

pub(crate) struct Peer {
    target: u64,
    transport: Arc<dyn RaftTransport>,
    log: LogStore,
    shared: Arc<Shared>,
    retry: Duration,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        Peer {
            target,
            transport: Arc::clone(&self.transport),
            log: self.log.clone(),
            shared: Arc::clone(&self.shared),
            retry: self.retry,
        }
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        mut rpc: AppendRequest,
        _option: RPCOption,
    ) -> Result<AppendResponse, RpcError> {
        rpc.leader_commit = self.log.tellable(rpc.leader_commit);
        let (leader, prev, committed) = (rpc.vote, rpc.prev_log_id, rpc.leader_commit);
        let last = rpc.entries.last().map_or(prev, |entry| Some(entry.log_id));
        let witness = &self.shared.witness;
        match call(
            self.transport.as_ref(),
            self.target,
            MessageKind::Append,
            &Request::Append(rpc),
        )
        .await
        {
            Ok(Reply::Append(response)) => {
                match &response {
                    AppendResponse::Success => {
                        witness.told(self.target, leader, last, committed);
                    }
                    AppendResponse::PartialSuccess(last) => {
                        witness.told(self.target, leader, *last, committed);
                    }
                    // Not for the library to see, which holds it to be impossible.
                    AppendResponse::Conflict if witness.went_back(self.target, leader, prev) => {
                        let why = "its disk lost what it had said to be durable";
                        return Err(unreachable_peer(self.target, Err(why.into())));
                    }
                    AppendResponse::Conflict | AppendResponse::HigherVote(_) => {}
                }
                Ok(response)
            }
            other => Err(unreachable_peer(self.target, other)),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: SnapshotRequest,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, RpcError<InstallSnapshotError>> {
        match call(
            self.transport.as_ref(),
            self.target,
            MessageKind::Snapshot,
            &Request::Snapshot(rpc),
        )
        .await
        {
            Ok(Reply::Snapshot(Ok(response))) => Ok(response),
            Ok(Reply::Snapshot(Err(e))) => Err(RPCError::RemoteError(RemoteError::new(
                self.target,
                RaftError::APIError(e),
            ))),
            other => Err(unreachable_peer(self.target, other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        _option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        let handover = self.shared.stands_for_leader();
        let message = Request::Vote { request, handover };
        match call(
            self.transport.as_ref(),
            self.target,
            MessageKind::Vote,
            &message,
        )
        .await
        {
            Ok(Reply::Vote(response)) => Ok(response),
            other => Err(unreachable_peer(self.target, other)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.retry))
    }
}

/// Sends a message and waits for its answer.
pub(crate) async fn call(
    transport: &dyn RaftTransport,
    target: u64,
    kind: MessageKind,
    request: &Request,
) -> Result<Reply, String> {
    let body = wire::encode(request).map_err(|e| e.to_string())?;
    let answer = transport
        .send(target, kind, body)
        .await
        .map_err(|e| e.to_string())?;
    wire::decode(&answer).map_err(|e| e.to_string())
}

fn unreachable_peer<E: std::error::Error>(
    target: u64,
    answer: Result<Reply, String>,
) -> RPCError<u64, EmptyNode, E> {
    let why = match answer {
        Ok(Reply::Failed(why)) | Err(why) => why,
        Ok(_) => "the answer is to another question".into(),
    };
    let error = std::io::Error::other(format!("node {target}: {why}"));
    // It makes the library pause before it tries again.
    RPCError::Unreachable(Unreachable::new(&error))
}
