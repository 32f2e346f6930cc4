//! Other hosts that may have what an image consists of, as a pull asks them before the registry. Who they are, and how
//! they come to terms about who asks the registry, is somebody else's.

use async_trait::async_trait;
use bytes::Bytes;
use swarm_api::{BoxStream, Result};

/// Where a part of an image is to be taken from.
pub enum Source {
    /// It is here already.
    Here,
    /// A neighbour gives it: a document, or a layer's archive without compression.
    Neighbour(BoxStream<Result<Bytes>>),
    /// The registry: this host is the one that gets it there for all.
    Registry,
}

/// One host's place in the line for one part. Giving it up lets others go on.
#[async_trait]
pub trait Turn: Send {
    /// Whether a source is named without waiting.
    fn is_due(&self) -> bool;

    /// The next source to try. Ends: the registry is named where no neighbour gives the part.
    async fn source(&mut self) -> Source;

    /// Tells whether the part came from the source that was named last.
    async fn tell(&mut self, came: bool);
}

/// The neighbours of a host.
#[async_trait]
pub trait Neighbours: Send + Sync {
    /// Where this host should begin among an image's parts, the lowest first: each host elsewhere, so that what one has
    /// fetched others can take.
    fn order(&self, digest: &str) -> u64;

    /// A turn for the part with that digest: of a document, or of a layer's content.
    async fn turn(&self, digest: &str) -> Box<dyn Turn>;
}
