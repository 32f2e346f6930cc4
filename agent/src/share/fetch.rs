//! Has an image on this node, whoever wants it here: a task, `image save`, `image push`. What is missing of it comes from
//! peers, several parts at once, and from its registry where none of them gives it.
//!
//! It must not know what the image is wanted for.

use super::Peers;
use crate::runtime::Runtime;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use swarm_api::backend::{PullOptions, PullPolicy};
use swarm_api::model::Image;
use swarm_api::{Backend, Error, Result};
use swarm_runtime::image::neighbours::{Neighbours, Source};
use tokio::sync::{AcquireError, Semaphore};

/// Parts that come at once, and those that are waited for besides.
const PARTS: usize = 3;
const WAITING: usize = 64;

/// Gets images for one node.
pub struct Fetcher {
    host: Arc<dyn Runtime>,
    peers: Peers,
    /// The parts under way; who holds the lock fetches.
    fetches: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What became of one part.
enum Part {
    /// It is here.
    Came,
    /// No peer gives it: the registry is to be asked.
    Nowhere,
}

impl Fetcher {
    pub(super) fn new(host: Arc<dyn Runtime>, peers: Peers) -> Self {
        Self {
            host,
            peers,
            fetches: Mutex::default(),
        }
    }

    /// Has `image` on this node, under its name. `waiting` is told what takes long.
    ///
    /// # Errors
    /// Where neither a peer nor its registry gives a part of it.
    pub(crate) async fn bring(&self, image: &Image, waiting: impl Fn(String)) -> Result<()> {
        let reference = &image.reference;
        let mut missing = self.host.missing_layers(image);
        if !missing.is_empty() {
            waiting(format!("gets image {reference} from its peers"));
        }
        missing.sort_by_key(|digest| self.peers.order(digest));
        let permits = &Semaphore::new(PARTS);
        let came: Vec<Part> = stream::iter(missing)
            .map(|digest| async move { self.part(image, &digest, permits).await })
            .buffer_unordered(WAITING)
            .try_collect()
            .await?;
        if came.iter().any(|part| matches!(part, Part::Nowhere)) {
            waiting(format!("gets image {reference} from its registry"));
            self.pull(image).await?;
        }
        let named = self.host.image(reference);
        if named.is_none_or(|n| n.digest != image.digest || n.manifest != image.manifest) {
            // A layer may have been tidied away between its arrival and now: it is fetched again.
            let put = self.host.put_image(image.clone()).await;
            put.map_err(|why| Error::Unavailable(why.to_string()))?;
        }
        Ok(())
    }

    /// Gets from its registry, by its digest, what no node has of an image any more.
    async fn pull(&self, image: &Image) -> Result<()> {
        let name = image.reference.to_string();
        let Some(digest) = image.manifest.clone() else {
            return Err(Error::Unavailable(format!(
                "no other node gives image {name}; import it again"
            )));
        };
        let options = PullOptions {
            policy: PullPolicy::Always,
            digest: Some(digest),
            ..PullOptions::default()
        };
        let pulling = async {
            let mut events = Backend::pull_image(self.host.as_ref(), name, options).await?;
            while let Some(event) = events.next().await {
                event?;
            }
            Ok(())
        };
        let outcome: Result<()> = pulling.await;
        outcome.map_err(|why| {
            Error::Unavailable(format!("no other node gives it, and its registry: {why}"))
        })
    }

    /// Gets one part from a peer. One who comes later waits for the first to end.
    async fn part(&self, image: &Image, digest: &str, permits: &Semaphore) -> Result<Part> {
        let lock = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetches.entry(digest.to_owned()).or_default())
        };
        let outcome = {
            let _alone = lock.lock().await;
            if self.is_missing(image, digest) {
                self.part_of_a_peer(image, digest, permits).await
            } else {
                Ok(Part::Came)
            }
        };
        drop(lock);
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|_, lock| Arc::strong_count(lock) > 1);
        outcome
    }

    fn is_missing(&self, image: &Image, digest: &str) -> bool {
        self.host.missing_layers(image).iter().any(|d| d == digest)
    }

    async fn part_of_a_peer(
        &self,
        image: &Image,
        digest: &str,
        permits: &Semaphore,
    ) -> Result<Part> {
        let closed = |e: AcquireError| Error::Internal(e.to_string());
        let mut held = Some(permits.acquire().await.map_err(closed)?);
        let mut turn = self.peers.turn(digest).await;
        loop {
            if !turn.is_due() {
                held = None;
            }
            let source = turn.source().await;
            if held.is_none() {
                held = Some(permits.acquire().await.map_err(closed)?);
            }
            let outcome = match source {
                Source::Registry => return Ok(Part::Nowhere),
                Source::Here if self.is_missing(image, digest) => {
                    Err(Error::NotFound("it is not here".into()))
                }
                Source::Here => Ok(()),
                Source::Neighbour(pieces) => self.host.put_layer(digest, pieces).await,
            };
            turn.tell(outcome.is_ok()).await;
            match outcome {
                Ok(()) => return Ok(Part::Came),
                // The disk is full, or the like: another peer would not help.
                Err(why @ Error::Exhausted(_)) => return Err(why),
                Err(why) => tracing::debug!(digest, %why, "a peer did not give a layer"),
            }
        }
    }
}
