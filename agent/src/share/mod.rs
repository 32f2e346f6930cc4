//! The cluster is the registry: parts of images (layers, documents) among agents. For each part one node keeps the account
//! of who has it and who gets it (`turns`, decided purely); each node that wants the part asks there, takes it from a
//! peer that has it, and only where none has is told to ask the registry, for all. The account is soft: the node that
//! keeps it is found by hashing among those that live, and where it dies the next one begins anew.
//!
//! It must not know of images' names, and nothing of how a registry is asked.

mod bucket;
mod desk;
mod fetch;
mod service;
mod throttle;
mod turns;

use crate::runtime::Runtime;
use async_trait::async_trait;
use bytes::Bytes;
use desk::{Desk, Place};
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::{NodeHealth, NodeId};
use swarm_api::{BoxStream, Error, Result};
use swarm_member::Member;
use swarm_proto::agent as proto;
use swarm_proto::agent::share_client::ShareClient;
use swarm_proto::agent::share_server::ShareServer;
use swarm_runtime::image::neighbours::{Neighbours, Source, Turn};
use throttle::Throttle;
use tokio::sync::mpsc;
use tonic::Streaming;
use turns::{Ask, Given, keepers};

pub use fetch::Fetcher;

/// How long a peer may take to begin, and then between two pieces of a part.
const ANSWER: Duration = Duration::from_secs(4);
const SILENCE: Duration = Duration::from_secs(15);
/// How long whoever keeps an account may take to answer. A dead one is found out sooner by its connection; one that is
/// only busy is waited for, as a second account could have a layer fetched twice.
const ACCOUNT: Duration = Duration::from_secs(12);
/// How often one that waits tells that it lives.
const STILL: Duration = Duration::from_secs(2);

/// What this node has to do with its peers' images, in a cluster or not. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Share {
    desk: Arc<Desk>,
    sends: Throttle,
    receives: Throttle,
}

impl Share {
    /// `rate` bounds, in bytes a second, what is sent to peers and what is received from them.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            desk: Arc::default(),
            sends: Throttle::new(rate),
            receives: Throttle::new(rate),
        }
    }

    /// What answers the peers of the node that runs `host`.
    pub(crate) fn server(
        &self,
        host: Arc<dyn Runtime>,
    ) -> ShareServer<impl swarm_proto::agent::share_server::Share> {
        let service = service::Service {
            desk: Arc::clone(&self.desk),
            sends: self.sends.clone(),
            host,
        };
        service.server()
    }

    /// The peers of `member`, as its runtime asks them.
    pub(crate) fn peers(&self, member: Member) -> Peers {
        Peers {
            share: self.clone(),
            member,
        }
    }

    /// What gets images for the node of `member`, which runs `host`.
    pub(crate) fn fetcher(&self, member: Member, host: Arc<dyn Runtime>) -> Arc<Fetcher> {
        Arc::new(Fetcher::new(host, self.peers(member)))
    }
}

/// The other nodes of the cluster, as neighbours of this one. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    share: Share,
    member: Member,
}

impl Peers {
    /// What is known here of who has a part.
    fn ask(&self, digest: &str, refused: &BTreeSet<NodeId>) -> Ask {
        let (state, own) = (self.member.state(), self.member.id());
        let (mut holders, mut unlikely) = (BTreeSet::new(), BTreeSet::new());
        for record in state.images.values() {
            let image = &record.image;
            let has = (image.layers.iter().chain([&image.digest]))
                .chain(&image.manifest)
                .any(|part| part == digest);
            if !has {
                continue;
            }
            for node in record.nodes.iter().filter(|n| **n != own) {
                match state.nodes.get(node).map(|n| n.health) {
                    Some(NodeHealth::Ready) => holders.insert(*node),
                    // What a registry has is not waited for.
                    Some(NodeHealth::Down) if image.manifest.is_none() => unlikely.insert(*node),
                    _ => false,
                };
            }
        }
        Ask {
            digest: digest.to_owned(),
            node: own,
            holders: holders.into_iter().collect(),
            unlikely: unlikely.into_iter().collect(),
            refused: refused.iter().copied().collect(),
        }
    }

    /// Takes a place in the line, at the first node that keeps the account and is not in `lost`; at last with this one.
    async fn line(&self, ask: Ask, lost: &mut BTreeSet<NodeId>) -> (Line, Option<Given>) {
        let own = self.member.id();
        let living: BTreeSet<NodeId> = {
            let state = self.member.state();
            let ready = state
                .nodes
                .values()
                .filter(|n| n.health == NodeHealth::Ready);
            ready.map(|n| n.id).chain([own]).collect()
        };
        for keeper in keepers(&ask.digest, living) {
            if keeper == own {
                break;
            }
            if lost.contains(&keeper) {
                continue;
            }
            match tokio::time::timeout(ACCOUNT, self.stand(keeper, &ask)).await {
                Ok(Ok((line, now))) => return (line, now),
                Ok(Err(why)) => tracing::debug!(%keeper, %why, "a node keeps no account of images"),
                Err(_) => tracing::debug!(%keeper, "a node does not answer about images"),
            }
            lost.insert(keeper);
        }
        let mut place = self.share.desk.open(ask);
        let now = place.now();
        (Line::Own(place), now)
    }

    /// Takes a place in the line at `keeper`.
    async fn stand(&self, keeper: NodeId, ask: &Ask) -> Result<(Line, Option<Given>)> {
        let channel = self.member.connect(keeper).await?;
        let (requests, receiver) = mpsc::channel(4);
        let ids = |nodes: &[NodeId]| nodes.iter().map(|n| n.0).collect();
        let first = proto::TurnRequest {
            ask: Some(proto::TurnAsk {
                digest: ask.digest.clone(),
                holders: ids(&ask.holders),
                unlikely: ids(&ask.unlikely),
                refused: ids(&ask.refused),
            }),
            came: None,
        };
        let later = stream::unfold(receiver, |mut receiver| async move {
            match tokio::time::timeout(STILL, receiver.recv()).await {
                Ok(request) => request.map(|request| (request, receiver)),
                Err(_) => Some((proto::TurnRequest::default(), receiver)),
            }
        });
        let sent = stream::iter([first]).chain(later);
        let replies = ShareClient::new(channel).turn(sent).await;
        let mut replies = replies.map_err(|s| refusal(&s))?.into_inner();
        let now = heard(&mut replies).await?;
        let line = Line::Of {
            keeper,
            requests,
            replies: Box::new(replies),
        };
        Ok((line, now))
    }

    /// A part from a peer.
    async fn part(&self, node: NodeId, digest: &str) -> Result<BoxStream<Result<Bytes>>> {
        let asking = async {
            let channel = self.member.connect_for_layers(node).await?;
            let request = proto::PartRequest {
                digest: digest.to_owned(),
            };
            let pieces = ShareClient::new(channel).part(request).await;
            pieces.map_err(|s| refusal(&s))
        };
        let silent = || Error::Unavailable("it does not answer".into());
        let pieces = tokio::time::timeout(ANSWER, asking).await;
        let pieces = pieces.map_err(|_| silent())??.into_inner();
        let receives = self.share.receives.clone();
        let pieces = stream::unfold(Some(pieces), move |pieces| {
            let receives = receives.clone();
            async move {
                let mut pieces = pieces?;
                let piece = tokio::time::timeout(SILENCE, pieces.message()).await;
                match piece {
                    Ok(Ok(Some(piece))) => {
                        receives.pass(piece.data.len()).await;
                        Some((Ok(piece.data), Some(pieces)))
                    }
                    Ok(Ok(None)) => None,
                    Ok(Err(status)) => Some((Err(refusal(&status)), None)),
                    Err(_) => Some((Err(silent()), None)),
                }
            }
        });
        Ok(pieces.boxed())
    }
}

fn refusal(status: &tonic::Status) -> Error {
    Error::Unavailable(status.message().to_owned())
}

/// The next message of whoever keeps the account; nothing where there is to be waited.
async fn heard(replies: &mut Streaming<proto::TurnReply>) -> Result<Option<Given>> {
    let gone = || Error::Unavailable("it has ended the line".into());
    let reply = replies.message().await.map_err(|s| refusal(&s))?;
    let reply = reply.ok_or_else(gone)?;
    Ok(match reply.source() {
        proto::TurnSource::Wait => None,
        proto::TurnSource::Here => Some(Given::Here),
        proto::TurnSource::Node => Some(Given::From(NodeId(reply.node))),
        proto::TurnSource::Registry => Some(Given::Registry),
    })
}

/// A place in a line.
enum Line {
    /// This node keeps the account.
    Own(Place),
    /// A peer does.
    Of {
        keeper: NodeId,
        requests: mpsc::Sender<proto::TurnRequest>,
        replies: Box<Streaming<proto::TurnReply>>,
    },
}

impl Line {
    /// The next source; nothing where the line is lost.
    async fn next(&mut self) -> Option<Given> {
        match self {
            Self::Own(place) => place.next().await,
            Self::Of { replies, .. } => loop {
                if let Some(given) = heard(replies).await.ok()? {
                    return Some(given);
                }
            },
        }
    }

    async fn tell(&mut self, came: bool) {
        match self {
            Self::Own(place) => place.tell(came),
            Self::Of {
                requests, replies, ..
            } => {
                let request = proto::TurnRequest {
                    ask: None,
                    came: Some(came),
                };
                // Where the line is lost, the next question finds out.
                let _ = requests.send(request).await;
                if came {
                    // It ends the line once it knows; until then the place is not to be given up.
                    let _ = tokio::time::timeout(ACCOUNT, heard(replies)).await;
                }
            }
        }
    }
}

#[async_trait]
impl Neighbours for Peers {
    fn order(&self, digest: &str) -> u64 {
        turns::order(digest, self.member.id())
    }

    async fn turn(&self, digest: &str) -> Box<dyn Turn> {
        let (refused, mut lost) = (BTreeSet::new(), BTreeSet::new());
        let (line, now) = self.line(self.ask(digest, &refused), &mut lost).await;
        Box::new(Wanted {
            peers: self.clone(),
            digest: digest.to_owned(),
            line,
            now,
            named: None,
            refused,
            lost,
        })
    }
}

/// One part that this node wants.
struct Wanted {
    peers: Peers,
    digest: String,
    line: Line,
    now: Option<Given>,
    /// What was named last.
    named: Option<Given>,
    refused: BTreeSet<NodeId>,
    /// Nodes that were to keep the account and are lost.
    lost: BTreeSet<NodeId>,
}

#[async_trait]
impl Turn for Wanted {
    fn is_due(&self) -> bool {
        self.now.is_some()
    }

    async fn source(&mut self) -> Source {
        loop {
            let given = match self.now.take() {
                Some(given) => Some(given),
                None => self.line.next().await,
            };
            let Some(given) = given else {
                // The one that kept the account has gone; whoever is next knows nothing of it yet.
                let ask = self.peers.ask(&self.digest, &self.refused);
                if let Line::Of { keeper, .. } = self.line {
                    self.lost.insert(keeper);
                }
                (self.line, self.now) = self.peers.line(ask, &mut self.lost).await;
                continue;
            };
            self.named = Some(given);
            match given {
                Given::Here => return Source::Here,
                Given::Registry => return Source::Registry,
                Given::From(node) => match self.peers.part(node, &self.digest).await {
                    Ok(pieces) => return Source::Neighbour(pieces),
                    Err(why) => {
                        tracing::debug!(digest = self.digest, %node, %why, "a peer did not give a part of an image");
                        self.tell(false).await;
                    }
                },
            }
        }
    }

    async fn tell(&mut self, came: bool) {
        if let (false, Some(Given::From(node))) = (came, self.named) {
            self.refused.insert(node);
        }
        self.line.tell(came).await;
    }
}
