//! How this node's consensus reaches others: Raft's messages, and following the log of a node that serves it.

use crate::book::Book;
use crate::fanout;
use crate::guard::TAKEN_OUT;
use crate::links::{Lane, Links, root_cause};
use crate::wire::MAX_MESSAGE;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_api::model::{NodeId, NodeRole};
use swarm_consensus::{
    Dial, DialError, MessageKind, ObserveItem, ObserveStream, RaftTransport, TransportError,
};
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_client::AgentClient;
use tokio::sync::watch;
use tonic::{Code, Status};

/// Items are cut into pieces of at most this many bytes.
const PIECE: usize = 512 * 1024;
/// The longest item that is taken from a peer.
const MAX_ITEM: usize = 512 << 20;

/// What was heard of the Raft group from others; for nodes that are not in it.
#[derive(Default)]
pub(crate) struct Heard {
    group: Mutex<Group>,
    /// Whether a member said that this node is none any more. Nothing takes that back: who joins again is another node.
    taken_out: watch::Sender<bool>,
}

#[derive(Default, Clone)]
pub(crate) struct Group {
    pub(crate) term: u64,
    pub(crate) voters: BTreeSet<u64>,
    /// Why others refuse this node, if they do.
    pub(crate) refusal: Option<String>,
}

impl Heard {
    pub(crate) fn get(&self) -> Group {
        self.lock().clone()
    }

    pub(crate) fn group(&self, term: u64, voters: &[u64]) {
        let mut group = self.lock();
        if !voters.is_empty() && term >= group.term {
            group.term = term;
            group.voters = voters.iter().copied().collect();
        }
        group.refusal = None;
    }

    pub(crate) fn watch_taken_out(&self) -> watch::Receiver<bool> {
        self.taken_out.subscribe()
    }

    fn refused(&self, why: String, taken_out: bool) {
        if taken_out {
            self.taken_out
                .send_if_modified(|before| !std::mem::replace(before, true));
        }
        let mut group = self.lock();
        if group.refusal.as_ref() != Some(&why) {
            tracing::warn!("another member refuses this node: {why}");
            group.refusal = Some(why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Raft's messages over the links.
pub(crate) struct Transport(pub(crate) Arc<Links>, pub(crate) Arc<Book>);

#[async_trait]
impl RaftTransport for Transport {
    async fn send(
        &self,
        target: u64,
        kind: MessageKind,
        body: Bytes,
    ) -> Result<Bytes, TransportError> {
        let node = NodeId(target);
        let (lane, deadline, kind) = match kind {
            MessageKind::Append => (Lane::Raft, Duration::from_secs(5), 0),
            MessageKind::Vote => (Lane::Raft, Duration::from_secs(2), 1),
            MessageKind::Snapshot => (Lane::Control, Duration::from_secs(30), 2),
        };
        let failed = |why: String| TransportError(format!("node {node}: {why}"));
        let channel = self
            .0
            .channel(node, lane)
            .map_err(|e| failed(e.to_string()))?;
        let mut client = AgentClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let sent = client.raft(proto::RaftMessage { kind, body });
        match tokio::time::timeout(deadline, sent).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().body),
            Ok(Err(status)) => Err(failed(root_cause(&status))),
            Err(_) => Err(failed(format!("no answer within {deadline:?}"))),
        }
    }

    fn others(&self) -> Vec<u64> {
        self.1.others().into_keys().map(|node| node.0).collect()
    }
}

/// Chooses whom to follow.
pub(crate) struct Dialer {
    pub(crate) own: NodeId,
    pub(crate) links: Arc<Links>,
    pub(crate) book: Arc<Book>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) roles: Box<dyn Fn(NodeId) -> Option<NodeRole> + Send + Sync>,
}

impl Dialer {
    /// Whom to try, in this order.
    fn candidates(&self) -> Vec<NodeId> {
        let nodes: Vec<NodeId> = self.book.others().into_keys().collect();
        let dead = self.book.seem_dead();
        let (dead, alive) = nodes.iter().partition(|node| dead.contains(*node));
        let voters = self.heard.get().voters;
        let roots = if voters.is_empty() {
            let manages = |node: &&NodeId| (self.roles)(**node) == Some(NodeRole::Manager);
            nodes
                .iter()
                .chain([&self.own])
                .filter(manages)
                .copied()
                .collect()
        } else {
            voters.into_iter().map(NodeId).collect()
        };
        fanout::candidates(self.own, &roots, &alive, &dead)
    }
}

#[async_trait]
impl Dial for Dialer {
    async fn dial(&self, attempt: u64, from: u64) -> Result<ObserveStream, DialError> {
        let candidates = self.candidates();
        let count = u64::try_from(candidates.len()).unwrap_or(1).max(1);
        let at = usize::try_from(attempt % count).unwrap_or(0);
        let Some(node) = candidates.get(at).copied() else {
            return Err(DialError("no other member is known".into()));
        };
        let failed = |why: String| DialError(format!("node {node}: {why}"));
        let channel = self
            .links
            .channel(node, Lane::Control)
            .map_err(|e| failed(e.to_string()))?;
        let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        match client.observe(proto::ObserveRequest { from }).await {
            Ok(stream) => Ok(put_together(stream.into_inner(), Arc::clone(&self.heard))),
            Err(status) => {
                if status.code() == Code::PermissionDenied {
                    let taken_out = status.metadata().contains_key(TAKEN_OUT);
                    self.heard.refused(status.message().to_owned(), taken_out);
                }
                Err(failed(root_cause(&status)))
            }
        }
    }
}

/// Items from their pieces. The stream ends at the first thing that is wrong.
fn put_together(
    stream: impl Stream<Item = Result<proto::ObserveItem, Status>> + Send + Unpin + 'static,
    heard: Arc<Heard>,
) -> ObserveStream {
    stream::unfold(stream, move |mut stream| {
        let heard = Arc::clone(&heard);
        async move {
            let mut whole = BytesMut::new();
            loop {
                let piece = match stream.next().await? {
                    Ok(piece) => piece,
                    Err(status) => {
                        tracing::debug!("observation broke off: {}", root_cause(&status));
                        return None;
                    }
                };
                whole.extend_from_slice(&piece.body);
                if whole.len() > MAX_ITEM {
                    tracing::warn!("an observed item is longer than {MAX_ITEM} bytes");
                    return None;
                }
                if piece.more {
                    continue;
                }
                return match postcard::from_bytes::<ObserveItem>(&whole) {
                    Ok(item) => {
                        if matches!(item, ObserveItem::Heartbeat { .. }) {
                            heard.group(piece.term, &piece.voters);
                        }
                        Some((item, stream))
                    }
                    Err(e) => {
                        tracing::warn!("an observed item cannot be understood: {e}");
                        None
                    }
                };
            }
        }
    })
    .boxed()
}

/// An item in pieces for the wire. `group` is what this node knows of the Raft group.
pub(crate) fn pieces(
    item: &ObserveItem,
    group: impl FnOnce() -> Group,
) -> Vec<Result<proto::ObserveItem, Status>> {
    let bytes = match postcard::to_stdvec(item) {
        Ok(bytes) => Bytes::from(bytes),
        Err(e) => return vec![Err(Status::internal(format!("cannot encode an item: {e}")))],
    };
    let group = if matches!(item, ObserveItem::Heartbeat { .. }) {
        group()
    } else {
        Group::default()
    };
    let count = bytes.len().div_ceil(PIECE).max(1);
    (0..count)
        .map(|n| {
            let last = n + 1 == count;
            Ok(proto::ObserveItem {
                body: bytes.slice(n * PIECE..bytes.len().min((n + 1) * PIECE)),
                more: !last,
                term: group.term,
                voters: group.voters.iter().copied().collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_item_arrives_whole_and_a_heartbeat_tells_of_the_group() {
        let items = [
            ObserveItem::Snapshot {
                index: 7,
                bytes: Bytes::from(vec![3; 2 * PIECE + 5]),
            },
            ObserveItem::Entry {
                index: 8,
                command: None,
            },
            ObserveItem::Heartbeat {
                applied: 8,
                stale_for: None,
                leader: Some(1),
            },
        ];
        let group = || Group {
            term: 4,
            voters: BTreeSet::from([1, 2]),
            refusal: None,
        };
        let sent: Vec<_> = items.iter().flat_map(|item| pieces(item, group)).collect();
        assert_eq!(sent.len(), 5);
        let heard = Arc::new(Heard::default());
        let received = put_together(stream::iter(sent), Arc::clone(&heard));
        assert_eq!(received.collect::<Vec<_>>().await, items);
        assert_eq!(
            (heard.get().term, heard.get().voters),
            (4, BTreeSet::from([1, 2]))
        );
    }
}
