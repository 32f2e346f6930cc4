//! Connections to other members: mutual TLS to a node, wherever it is at present. One connection per node and lane, so
//! that an urgent message never waits behind a bulk transfer. A node that moved or restarted gets a new connection.

use crate::book::Book;
use crate::seldom::Seldom;
use crate::tls::{self, Tls};
use crate::world::{BoxStream, Network};
use http::Uri;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_api::model::NodeId;
use swarm_api::{Error, Result};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tower::util::BoxService;

const CONNECT: Duration = Duration::from_millis(1500);
/// A peer that does not answer within the sum of these, while something is asked of it, is given up.
const PING_EVERY: Duration = Duration::from_millis(1500);
const PING_ANSWER: Duration = Duration::from_secs(3);
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Makes connections to one node.
type Connector = BoxService<Uri, TokioIo<TlsStream<BoxStream>>, io::Error>;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Raft's heartbeats, entries and votes.
    Raft,
    /// Commands, reads, observation, snapshots.
    Control,
    /// Whatever other rooms ask of a node: its runtime's verbs.
    Bulk,
    /// Layers of images, from node to node.
    Layers,
}

struct Cached {
    address: SocketAddr,
    generation: u64,
    channel: Channel,
}

/// All connections of this node.
pub(crate) struct Links {
    tls: Tls,
    network: Arc<dyn Network>,
    book: Arc<Book>,
    channels: Mutex<HashMap<(NodeId, Lane), Cached>>,
    refused: Arc<Seldom>,
}

impl Links {
    pub(crate) fn new(tls: Tls, network: Arc<dyn Network>, book: Arc<Book>) -> Self {
        Self {
            tls,
            network,
            book,
            channels: Mutex::default(),
            refused: Arc::default(),
        }
    }

    /// A channel that connects when it is used. `Err` when the node's address is not known.
    pub(crate) fn channel(&self, node: NodeId, lane: Lane) -> Result<Channel> {
        let (address, generation) = self.find(node)?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = channels.get(&(node, lane))
            && (cached.address, cached.generation) == (address, generation)
        {
            return Ok(cached.channel.clone());
        }
        let channel = endpoint(lane).connect_with_connector_lazy(self.connector(node, address)?);
        let cached = Cached {
            address,
            generation,
            channel: channel.clone(),
        };
        channels.insert((node, lane), cached);
        Ok(channel)
    }

    /// A channel to a node that answers.
    pub(crate) async fn connect(&self, node: NodeId, lane: Lane) -> Result<Channel> {
        let (address, generation) = self.find(node)?;
        {
            let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(cached) = channels.get(&(node, lane))
                && (cached.address, cached.generation) == (address, generation)
            {
                return Ok(cached.channel.clone());
            }
        }
        let connector = self.connector(node, address)?;
        let channel = endpoint(lane)
            .connect_with_connector(connector)
            .await
            .map_err(|e| {
                Error::Unavailable(format!(
                    "cannot reach node {node} at {address}: {}",
                    root_cause(&e)
                ))
            })?;
        let cached = Cached {
            address,
            generation,
            channel: channel.clone(),
        };
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((node, lane), cached);
        Ok(channel)
    }

    /// Closes connections to nodes that are no members any more.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(node, _), _| keep(*node));
    }

    fn find(&self, node: NodeId) -> Result<(SocketAddr, u64)> {
        self.book.find(node).ok_or_else(|| {
            Error::Unavailable(format!(
                "cannot reach node {node}: its address is not known here"
            ))
        })
    }

    fn connector(&self, node: NodeId, address: SocketAddr) -> Result<Connector> {
        let name = tls::name_of(node)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls.client));
        let (network, refused) = (Arc::clone(&self.network), Arc::clone(&self.refused));
        Ok(Connector::new(service_fn(move |_: Uri| {
            let (tls, name) = (tls.clone(), name.clone());
            let (network, refused) = (Arc::clone(&network), Arc::clone(&refused));
            async move {
                let stream = network.connect(address).await?;
                let stream = tls.connect(name, stream).await.inspect_err(|e| {
                    if let Some(why) = tls::mistrusted(e) {
                        refused.tell(|more| tracing::warn!(%node, %address, more, "a server was refused: {why}"));
                    }
                })?;
                Ok(TokioIo::new(stream))
            }
        })))
    }
}

fn endpoint(lane: Lane) -> Endpoint {
    let endpoint = Endpoint::from_static("http://member.swarm")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER);
    match lane {
        Lane::Raft => endpoint,
        Lane::Control | Lane::Bulk | Lane::Layers => endpoint
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW),
    }
}

/// The innermost reason: the outer ones say "transport error" only.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    // The reason inside of an I/O error is not its source.
    match cause.downcast_ref::<io::Error>().and_then(tls::mistrusted) {
        Some(why) => why.to_string(),
        None => cause.to_string(),
    }
}

/// Whether a call failed before anything was sent.
pub(crate) fn never_sent(status: &tonic::Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
