//! What this node answers its peers about parts of images: who is next, and the parts themselves.

use super::desk::{Desk, Place};
use super::throttle::Throttle;
use super::turns::{Ask, Given};
use crate::runtime::Runtime;
use futures_util::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::NodeId;
use swarm_member::caller_node;
use swarm_proto::agent as proto;
use swarm_proto::agent::share_server::{Share, ShareServer};
use tonic::{Request, Response, Status, Streaming};

/// One who has not said for so long that it lives gives its place up.
const SILENCE: Duration = Duration::from_secs(20);

/// Answers for one node.
pub(super) struct Service {
    pub(super) desk: Arc<Desk>,
    pub(super) sends: Throttle,
    pub(super) host: Arc<dyn Runtime>,
}

impl Service {
    pub(super) fn server(self) -> ShareServer<Self> {
        ShareServer::new(self)
    }
}

fn nodes(ids: Vec<u64>) -> Vec<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

/// One caller in the line.
struct Caller {
    requests: Streaming<proto::TurnRequest>,
    place: Place,
    begun: bool,
}

impl Caller {
    /// The next thing to say; nothing once the caller is served or gone.
    async fn next(&mut self) -> Option<Given> {
        loop {
            let request = tokio::select! {
                given = self.place.next() => return given,
                request = tokio::time::timeout(SILENCE, self.requests.message()) => request,
            };
            // Silence, a broken connection and the end are the same: the place is given up.
            if let Some(came) = request.ok()?.ok()??.came {
                self.place.tell(came);
                if came {
                    return None;
                }
            }
        }
    }
}

fn reply(given: Option<Given>) -> proto::TurnReply {
    let (source, node) = match given {
        None => (proto::TurnSource::Wait, 0),
        Some(Given::Here) => (proto::TurnSource::Here, 0),
        Some(Given::From(node)) => (proto::TurnSource::Node, node.0),
        Some(Given::Registry) => (proto::TurnSource::Registry, 0),
    };
    proto::TurnReply {
        source: source.into(),
        node,
    }
}

#[tonic::async_trait]
impl Share for Service {
    type TurnStream = BoxStream<'static, Result<proto::TurnReply, Status>>;
    type PartStream = BoxStream<'static, Result<proto::PartPiece, Status>>;

    async fn turn(
        &self,
        request: Request<Streaming<proto::TurnRequest>>,
    ) -> Result<Response<Self::TurnStream>, Status> {
        let node = caller_node(&request)?;
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(SILENCE, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("nothing was asked"))?;
        let ask = first?.and_then(|request| request.ask);
        let ask =
            ask.ok_or_else(|| Status::invalid_argument("the first message asks for nothing"))?;
        let place = self.desk.open(Ask {
            digest: ask.digest,
            node,
            holders: nodes(ask.holders),
            unlikely: nodes(ask.unlikely),
            refused: nodes(ask.refused),
        });
        let caller = Caller {
            requests,
            place,
            begun: false,
        };
        let replies = stream::unfold(caller, |mut caller| async move {
            let said = if caller.begun {
                Some(caller.next().await?)
            } else {
                caller.begun = true;
                caller.place.now()
            };
            Some((Ok(reply(said)), caller))
        });
        Ok(Response::new(replies.boxed()))
    }

    async fn part(
        &self,
        request: Request<proto::PartRequest>,
    ) -> Result<Response<Self::PartStream>, Status> {
        let digest = request.into_inner().digest;
        let pieces = self.host.give_layer(&digest).await;
        let pieces = pieces.map_err(|why| match why {
            swarm_api::Error::NotFound(why) => Status::not_found(why),
            other => Status::unavailable(other.to_string()),
        })?;
        let sends = self.sends.clone();
        let pieces = pieces.then(move |piece| {
            let sends = sends.clone();
            async move {
                let data = piece.map_err(|why| Status::unavailable(why.to_string()))?;
                sends.pass(data.len()).await;
                Ok(proto::PartPiece { data })
            }
        });
        Ok(Response::new(pieces.boxed()))
    }
}
