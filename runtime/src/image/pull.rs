//! From a registry into the store: several layers at once, each unpacked while it comes, none that is here already.

use super::Store;
use crate::registry::{Descriptor, ImageFile, Platform, Registry, Resolved, Target};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use swarm_api::backend::{LayerProgress, PullEvent};
use swarm_api::model::{Image, ImageReference, Timestamp};
use swarm_api::{BoxStream, Error, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Layers at once.
const LAYERS: usize = 3;
/// A layer's progress is told each time so many bytes have come.
pub(super) const STEP: u64 = 256 << 10;
/// Events that wait for whoever listens.
const EVENTS: usize = 64;

/// Gets images for one store. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Puller {
    store: Store,
    registry: Registry,
    /// The layers under way; who holds the lock fetches.
    fetches: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

type Events = mpsc::Sender<Result<PullEvent>>;

impl Puller {
    pub(crate) fn new(store: Store, registry: Registry) -> Self {
        Self {
            store,
            registry,
            fetches: Arc::default(),
        }
    }

    /// Gets an image. What was under way ends when the stream is dropped.
    ///
    /// # Errors
    /// Where the name says no registry.
    pub(crate) fn pull(
        &self,
        reference: &ImageReference,
        now: Timestamp,
    ) -> Result<BoxStream<Result<PullEvent>>> {
        let target = Target::of(reference, self.registry.default_registry())?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let (puller, reference) = (self.clone(), reference.clone());
        tokio::spawn(async move {
            let last = tokio::select! {
                image = puller.image(&reference, &target, now, &events) => image
                    .map(PullEvent::Done)
                    .map_err(|e| e.context(format!("cannot pull the image {reference}"))),
                () = events.closed() => return,
            };
            let _ = events.send(last).await;
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }

    async fn image(
        &self,
        reference: &ImageReference,
        target: &Target,
        now: Timestamp,
        events: &Events,
    ) -> Result<Image> {
        let platform = Platform::here();
        let resolved = self.registry.resolve(target, &platform).await?;
        if let Some(there) = self.store.image(reference)
            && there.manifest.as_ref() == Some(&resolved.digest)
            && self.store.missing_parts(&there).is_empty()
        {
            return Ok(there);
        }
        let (file, document) = self.registry.config(&resolved).await?;
        check(&resolved, &file, &platform)?;
        let mut seen = HashSet::new();
        let layers = resolved.manifest.layers.iter().zip(&file.diff_ids);
        let wanted: Vec<_> = layers
            .filter(|(_, diff_id)| seen.insert(diff_id.as_str()))
            .map(|(descriptor, diff_id)| (descriptor.clone(), diff_id.clone()))
            .collect();
        stream::iter(wanted)
            .map(|(descriptor, diff_id)| async move {
                self.layer(target, &descriptor, &diff_id, events).await
            })
            .buffer_unordered(LAYERS)
            .try_collect::<Vec<()>>()
            .await?;
        let mut size = 0;
        for layer in &file.diff_ids {
            size += self.store.layer_size(layer)?;
        }
        let image = Image {
            reference: reference.clone(),
            digest: resolved.manifest.config.digest.clone(),
            layers: file.diff_ids,
            size,
            config: file.config,
            created_at: file
                .created
                .and_then(|t| u64::try_from(t.as_millisecond()).ok())
                .map_or(now, Timestamp),
            builtin: false,
            manifest: Some(resolved.digest),
        };
        let (store, put, manifest) = (self.store.clone(), image.clone(), resolved.bytes);
        tokio::task::spawn_blocking(move || store.put_pulled(put, &document, &manifest))
            .await
            .map_err(|e| Error::Internal(format!("the thread that keeps an image ended: {e}")))??;
        Ok(image)
    }

    /// Gets one layer, unless it is here. One who comes later waits for the first to end.
    async fn layer(
        &self,
        target: &Target,
        descriptor: &Descriptor,
        diff_id: &str,
        events: &Events,
    ) -> Result<()> {
        let lock = {
            let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetches.entry(diff_id.to_owned()).or_default())
        };
        let outcome = {
            let _alone = lock.lock().await;
            let archive = if self.store.missing_layers(&[diff_id.to_owned()]).is_empty() {
                stream::empty().boxed()
            } else {
                let blob = self.registry.blob(target, descriptor);
                told(blob, descriptor.clone(), events.clone())
            };
            self.store.put_layer(diff_id, archive).await
        };
        drop(lock);
        self.fetches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, lock| Arc::strong_count(lock) > 1);
        outcome.map_err(|e| e.context(format!("the layer {}", descriptor.digest)))?;
        let _ = events
            .send(Ok(progress(descriptor, descriptor.size, true)))
            .await;
        Ok(())
    }
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
