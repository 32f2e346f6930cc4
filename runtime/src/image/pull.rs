//! From a registry into the store: several layers at once, each unpacked while it comes, none that is here already.

use super::Store;
use super::neighbours::{Neighbours, Source};
use crate::registry::{
    Descriptor, Document, ImageFile, Platform, Registry, Resolved, Target, read_config,
    read_document,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use swarm_api::backend::{LayerProgress, PullEvent};
use swarm_api::model::{Image, ImageReference, Timestamp};
use swarm_api::{BoxStream, Error, Result};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Layers that come at once, and those that are waited for besides.
const LAYERS: usize = 3;
const WAITING: usize = 64;
/// A layer's progress is told each time so many bytes have come.
pub(super) const STEP: u64 = 256 << 10;
/// Events that wait for whoever listens.
const EVENTS: usize = 64;

/// Gets images for one store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Puller {
    store: Store,
    registry: Registry,
    neighbours: Arc<Mutex<Option<Arc<dyn Neighbours>>>>,
    /// The layers under way; who holds the lock fetches.
    fetches: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

type Events = mpsc::Sender<Result<PullEvent>>;

/// What one pull is about.
struct Order {
    reference: ImageReference,
    target: Target,
    platform: Platform,
    now: Timestamp,
    events: Events,
    neighbours: Option<Arc<dyn Neighbours>>,
    /// What may come at once.
    permits: Semaphore,
}

impl Order {
    async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        let permit = self.permits.acquire().await;
        permit.map_err(|e| Error::Internal(e.to_string()))
    }
}

impl std::fmt::Debug for Puller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Puller").finish_non_exhaustive()
    }
}

impl Puller {
    pub(crate) fn new(store: Store, registry: Registry) -> Self {
        Self {
            store,
            registry,
            neighbours: Arc::default(),
            fetches: Arc::default(),
        }
    }

    /// Asks these before the registry from now on.
    pub(crate) fn share(&self, neighbours: Option<Arc<dyn Neighbours>>) {
        *self
            .neighbours
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = neighbours;
    }

    /// Gets an image; where `digest` is given, that manifest under this name. What was under way ends when the stream is
    /// dropped.
    ///
    /// # Errors
    /// Where the name says no registry.
    pub(crate) fn pull(
        &self,
        reference: &ImageReference,
        digest: Option<String>,
        now: Timestamp,
    ) -> Result<BoxStream<Result<PullEvent>>> {
        let mut target = Target::of(reference, self.registry.default_registry())?;
        if let Some(digest) = digest {
            super::hex(&digest)?;
            target.selector = digest;
        }
        let (events, receiver) = mpsc::channel(EVENTS);
        let neighbours = self.neighbours.lock();
        let order = Order {
            reference: reference.clone(),
            target,
            platform: Platform::here(),
            now,
            events: events.clone(),
            neighbours: neighbours.unwrap_or_else(PoisonError::into_inner).clone(),
            permits: Semaphore::new(LAYERS),
        };
        let puller = self.clone();
        tokio::spawn(async move {
            let last = tokio::select! {
                image = puller.image(&order) => image
                    .map(PullEvent::Done)
                    .map_err(|e| e.context(format!("cannot pull the image {}", order.reference))),
                () = events.closed() => return,
            };
            let _ = events.send(last).await;
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }

    async fn image(&self, order: &Order) -> Result<Image> {
        let resolved = self.manifest(order).await?;
        let told = PullEvent::Resolved(resolved.digest.clone());
        let _ = order.events.send(Ok(told)).await;
        if let Some(there) = self.store.image(&order.reference)
            && there.manifest.as_ref() == Some(&resolved.digest)
            && self.store.missing_parts(&there).is_empty()
        {
            return Ok(there);
        }
        let (file, document) = self.config(order, &resolved).await?;
        check(&resolved, &file, &order.platform)?;
        let mut seen = HashSet::new();
        let layers = resolved.manifest.layers.iter().zip(&file.diff_ids);
        let mut wanted: Vec<_> = layers
            .filter(|(_, diff_id)| seen.insert(diff_id.as_str()))
            .map(|(descriptor, diff_id)| (descriptor.clone(), diff_id.clone()))
            .collect();
        if let Some(neighbours) = &order.neighbours {
            wanted.sort_by_key(|(_, diff_id)| neighbours.order(diff_id));
        }
        stream::iter(wanted)
            .map(|(descriptor, diff_id)| async move {
                self.layer(order, &descriptor, &diff_id).await
            })
            .buffer_unordered(WAITING)
            .try_collect::<Vec<()>>()
            .await?;
        let mut size = 0;
        for layer in &file.diff_ids {
            size += self.store.layer_size(layer)?;
        }
        let image = Image {
            reference: order.reference.clone(),
            digest: resolved.manifest.config.digest.clone(),
            layers: file.diff_ids,
            size,
            config: file.config,
            created_at: file
                .created
                .and_then(|t| u64::try_from(t.as_millisecond()).ok())
                .map_or(order.now, Timestamp),
            builtin: false,
            manifest: Some(resolved.digest),
        };
        let (store, put, manifest) = (self.store.clone(), image.clone(), resolved.bytes);
        blocking(move || store.put_pulled(put, &document, &manifest)).await?;
        Ok(image)
    }

    /// The manifest that the name stands for; where the name says which, a neighbour may have it.
    async fn manifest(&self, order: &Order) -> Result<Resolved> {
        let wanted = &order.target.selector;
        let ask = self.registry.resolve(&order.target, &order.platform);
        if !wanted.starts_with("sha256:") {
            return ask.await;
        }
        let asked = ask.map_ok(|resolved| (resolved.bytes.clone(), resolved));
        match self.document(order, wanted, asked.boxed()).await? {
            Found::Asked(resolved) => Ok(resolved),
            Found::Given(bytes) => match read_document(&bytes)? {
                Document::Image(manifest) => Ok(Resolved {
                    target: order.target.clone(),
                    digest: wanted.clone(),
                    manifest,
                    bytes,
                }),
                // Nobody keeps one; but then the registry knows it.
                Document::Index(_) => {
                    let ask = self.registry.resolve(&order.target, &order.platform);
                    ask.await
                }
            },
        }
    }

    async fn config(&self, order: &Order, resolved: &Resolved) -> Result<(ImageFile, Bytes)> {
        let ask = self.registry.config(resolved);
        let asked = ask.map_ok(|(file, bytes)| (bytes.clone(), (file, bytes)));
        let digest = &resolved.manifest.config.digest;
        match self.document(order, digest, asked.boxed()).await? {
            Found::Asked(config) => Ok(config),
            Found::Given(bytes) => Ok((read_config(&bytes)?, bytes)),
        }
    }

    /// A document: of this host, of a neighbour, or what `ask` gets from the registry, which is kept for the neighbours.
    async fn document<T: Send>(
        &self,
        order: &Order,
        digest: &str,
        ask: BoxFuture<'_, Result<(Bytes, T)>>,
    ) -> Result<Found<T>> {
        if let Ok(bytes) = self.store.document(digest) {
            return Ok(Found::Given(bytes.into()));
        }
        let Some(neighbours) = &order.neighbours else {
            return Ok(Found::Asked(ask.await?.1));
        };
        let mut turn = neighbours.turn(digest).await;
        loop {
            let given = match turn.source().await {
                Source::Here => Ok(()),
                Source::Neighbour(bytes) => self.store.put_layer(digest, bytes).await,
                Source::Registry => {
                    let (bytes, asked) = ask.await?;
                    let store = self.store.clone();
                    let kept = blocking(move || store.put_document(&bytes)).await?;
                    // An index has led to another manifest.
                    turn.tell(kept == digest).await;
                    return Ok(Found::Asked(asked));
                }
            };
            let read = given.and_then(|()| Ok(self.store.document(digest)?));
            turn.tell(read.is_ok()).await;
            match read {
                Ok(bytes) => return Ok(Found::Given(bytes.into())),
                Err(why) => tracing::debug!(%why, digest, "a neighbour did not give a document"),
            }
        }
    }

    /// Gets one layer, unless it is here. One who comes later waits for the first to end.
    async fn layer(&self, order: &Order, descriptor: &Descriptor, diff_id: &str) -> Result<()> {
        let lock = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetches.entry(diff_id.to_owned()).or_default())
        };
        let outcome = {
            let _alone = lock.lock().await;
            if self.is_here(diff_id) {
                self.store.put_layer(diff_id, stream::empty().boxed()).await
            } else {
                self.fetch(order, descriptor, diff_id).await
            }
        };
        drop(lock);
        self.fetches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, lock| Arc::strong_count(lock) > 1);
        outcome.map_err(|e| e.context(format!("the layer {}", descriptor.digest)))?;
        let ready = progress(descriptor, descriptor.size, true);
        let _ = order.events.send(Ok(ready)).await;
        Ok(())
    }

    /// Gets a layer from a neighbour or from the registry. One that others see to meanwhile keeps none waiting.
    async fn fetch(&self, order: &Order, descriptor: &Descriptor, diff_id: &str) -> Result<()> {
        let blob = || {
            let blob = self.registry.blob(&order.target, descriptor);
            told(blob, descriptor.clone(), order.events.clone())
        };
        let mut held = Some(order.permit().await?);
        let Some(neighbours) = &order.neighbours else {
            return self.store.put_layer(diff_id, blob()).await;
        };
        let mut turn = neighbours.turn(diff_id).await;
        loop {
            if !turn.is_due() {
                held = None;
            }
            let source = turn.source().await;
            if held.is_none() {
                held = Some(order.permit().await?);
            }
            let (archive, last) = match source {
                Source::Here => (stream::empty().boxed(), false),
                Source::Neighbour(archive) => (archive, false),
                Source::Registry => (blob(), true),
            };
            let outcome = self.store.put_layer(diff_id, archive).await;
            turn.tell(outcome.is_ok()).await;
            match outcome {
                Err(why) if !last => {
                    tracing::debug!(%why, diff_id, "a neighbour did not give a layer");
                }
                other => return other,
            }
        }
    }

    fn is_here(&self, diff_id: &str) -> bool {
        self.store.missing_layers(&[diff_id.to_owned()]).is_empty()
    }
}

/// Where a document is from.
enum Found<T> {
    /// From here or from a neighbour.
    Given(Bytes),
    /// What the registry said.
    Asked(T),
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> crate::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|e| Error::Internal(format!("the thread that keeps an image ended: {e}")))??)
}

/// A blob whose progress is told. What nobody has taken in time is left out.
fn told(
    blob: BoxStream<Result<Bytes>>,
    descriptor: Descriptor,
    events: Events,
) -> BoxStream<Result<Bytes>> {
    let _ = events.try_send(Ok(progress(&descriptor, 0, false)));
    let (mut done, mut next) = (0, STEP);
    blob.inspect(move |piece| {
        if let Ok(bytes) = piece {
            done += bytes.len() as u64;
            if done >= next {
                next = done + STEP;
                let _ = events.try_send(Ok(progress(&descriptor, done, false)));
            }
        }
    })
    .boxed()
}

fn progress(descriptor: &Descriptor, done: u64, ready: bool) -> PullEvent {
    PullEvent::Layer(LayerProgress {
        digest: descriptor.digest.clone(),
        done,
        total: descriptor.size,
        ready,
    })
}

/// Whether manifest, configuration and host fit together.
fn check(resolved: &Resolved, file: &ImageFile, platform: &Platform) -> Result<()> {
    let (sent, told) = (resolved.manifest.layers.len(), file.diff_ids.len());
    if sent != told {
        return Err(Error::Invalid(format!(
            "its manifest has {sent} layers, its configuration {told}: it is no image of a root file system"
        )));
    }
    if !file.architecture.is_empty() && file.architecture != platform.architecture {
        return Err(Error::Unsupported(format!(
            "it is for {}, this host is {}",
            file.architecture, platform.architecture
        )));
    }
    Ok(())
}
