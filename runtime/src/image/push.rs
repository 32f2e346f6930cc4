//! From the store into a registry: several layers at once, compressed while they are sent, none that the registry has
//! already. Layers are kept unpacked, so that a layer which the registry does not have in the compression that it came in
//! gets a new one, and the image a new manifest; its configuration, and what is in its layers, stay what they are.

use super::pull::STEP;
use super::{Inner, Store, documents, record, stream};
use crate::registry::{
    Descriptor, Document, Mounted, Registry, Target, Upload, is_lost, read_document,
};
use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use swarm_api::backend::{LayerProgress, PushEvent, Pushed};
use swarm_api::model::{Image, ImageReference};
use swarm_api::{BoxStream, Error, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Layers at once.
const LAYERS: usize = 3;
/// Events that wait for whoever listens.
const EVENTS: usize = 64;
/// How often a layer is begun anew where the registry lost what came of it.
const ATTEMPTS: usize = 3;
/// Beside a layer: as what it was pushed.
const PUSHED: &str = "pushed";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Puts images of one store into registries. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pusher {
    store: Store,
    registry: Registry,
}

type Events = mpsc::Sender<Result<PushEvent>>;

/// A layer as a registry has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sent {
    media_type: String,
    digest: String,
    size: u64,
}

/// A compressed form of a layer that is known, and a repository that had it.
struct Known {
    descriptor: Descriptor,
    of: Option<Target>,
}

impl Pusher {
    pub(crate) fn new(store: Store, registry: Registry) -> Self {
        Self { store, registry }
    }

    /// Puts an image into the registry that `to` names. What was under way ends when the stream is dropped.
    ///
    /// # Errors
    /// Where the name says no registry, or a digest and no tag.
    pub(crate) fn push(
        &self,
        image: Image,
        to: &ImageReference,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        if to.tag().is_empty() {
            return Err(Error::Invalid(format!(
                "cannot push to {to}: the digest follows from what is pushed; name a tag"
            )));
        }
        // The tag is what the registry is to know it by.
        let name = format!("{}:{}", to.name(), to.tag()).parse()?;
        let target = Target::of(&name, self.registry.default_registry())?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let pusher = self.clone();
        tokio::spawn(async move {
            let last = tokio::select! {
                pushed = pusher.image(&image, &target, &events) => pushed
                    .map(|digest| PushEvent::Done(Pushed { reference: name, digest }))
                    .map_err(|e| e.context(format!("cannot push the image {} to {target}", image.reference))),
                () = events.closed() => return,
            };
            let _ = events.send(last).await;
        });
        Ok(ReceiverStream::new(receiver).boxed())
    }

    /// The digest of the manifest.
    async fn image(&self, image: &Image, target: &Target, events: &Events) -> Result<String> {
        let known = self.known(image);
        let wanted: Vec<_> = image.layers.iter().cloned().zip(known).collect();
        let layers: Vec<Descriptor> = futures_util::stream::iter(wanted)
            .map(|(layer, known)| async move { self.layer(&layer, known, target, events).await })
            .buffered(LAYERS)
            .try_collect()
            .await?;
        let config = Bytes::from(self.store.document(&image.digest)?);
        let size = config.len();
        self.registry
            .put_blob(target, &image.digest, config)
            .await?;
        // The very same manifest where all its layers are there as it names them.
        if let Some(digest) = &image.manifest
            && let Ok(bytes) = self.store.document(digest)
            && let Ok(Document::Image(manifest)) = read_document(&bytes)
            && manifest
                .layers
                .iter()
                .map(|l| &l.digest)
                .eq(layers.iter().map(|l| &l.digest))
        {
            let kind = media_type(&bytes);
            self.registry
                .put_manifest(target, &kind, bytes.into())
                .await?;
            return Ok(digest.clone());
        }
        let layers: Vec<_> = layers
            .iter()
            .map(|l| json!({"mediaType": l.media_type, "digest": l.digest, "size": l.size}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": image.digest, "size": size},
            "layers": layers,
        });
        let manifest = Bytes::from(manifest.to_string());
        let digest = super::archive::digest_of(Sha256::new_with_prefix(&manifest));
        self.registry
            .put_manifest(target, MANIFEST, manifest)
            .await?;
        Ok(digest)
    }

    /// Layer by layer, in which compressed forms it is known.
    fn known(&self, image: &Image) -> Vec<Vec<Known>> {
        let mut known: Vec<Vec<Known>> = image.layers.iter().map(|_| Vec::new()).collect();
        let mut images = self.store.images();
        // What the image itself came as goes first.
        images.sort_by_key(|i| i.digest != image.digest);
        for other in &images {
            let manifest = other.manifest.as_ref();
            let bytes = manifest.and_then(|m| self.store.document(m).ok());
            let Some(Ok(Document::Image(manifest))) = bytes.map(|b| read_document(&b)) else {
                continue;
            };
            let of = Target::of(&other.reference, self.registry.default_registry()).ok();
            for (diff_id, descriptor) in other.layers.iter().zip(&manifest.layers) {
                for at in (0..image.layers.len()).filter(|at| image.layers[*at] == *diff_id) {
                    known[at].push(Known {
                        descriptor: descriptor.clone(),
                        of: of.clone(),
                    });
                }
            }
        }
        for (layer, known) in image.layers.iter().zip(&mut known) {
            if let Some(sent) = self.store.inner.sent(layer) {
                known.push(Known {
                    descriptor: Descriptor::new(&sent.media_type, &sent.digest, sent.size),
                    of: None,
                });
            }
        }
        known
    }

    async fn layer(
        &self,
        layer: &str,
        known: Vec<Known>,
        target: &Target,
        events: &Events,
    ) -> Result<Descriptor> {
        let total = self.store.layer_size(layer)?;
        let ready = |descriptor: &Descriptor| {
            let kind = oci(&descriptor.media_type);
            Descriptor::new(kind, &descriptor.digest, descriptor.size)
        };
        let mut upload = None;
        let mut found = None;
        for known in &known {
            let digest = &known.descriptor.digest;
            if self.registry.has_blob(target, digest).await?.is_some() {
                found = Some(ready(&known.descriptor));
                break;
            }
            let other = known.of.as_ref().filter(|of| {
                of.authority() == target.authority() && of.repository != target.repository
            });
            if let Some(other) = other {
                let from = Some((digest.as_str(), other.repository.as_str()));
                match self.registry.begin_blob(target, from).await {
                    Ok(Mounted::Done) => {
                        found = Some(ready(&known.descriptor));
                        break;
                    }
                    Ok(Mounted::Send(begun)) => upload = Some(begun),
                    // That repository may be closed to us; this one need not be.
                    Err(why) => {
                        tracing::debug!(%why, layer, "a layer cannot be had from another repository");
                    }
                }
            }
        }
        let descriptor = match found {
            Some(descriptor) => descriptor,
            None => self.send(layer, total, upload, target, events).await?,
        };
        let event = PushEvent::Layer(progress(layer, total, total, true));
        let _ = events.send(Ok(event)).await;
        Ok(descriptor)
    }

    async fn send(
        &self,
        layer: &str,
        total: u64,
        mut begun: Option<Upload>,
        target: &Target,
        events: &Events,
    ) -> Result<Descriptor> {
        let of = |e: Error| e.context(format!("the layer {layer}"));
        let mut attempts = 0;
        loop {
            let upload = match begun.take() {
                Some(upload) => upload,
                None => match self.registry.begin_blob(target, None).await.map_err(of)? {
                    Mounted::Send(upload) => upload,
                    Mounted::Done => {
                        return Err(Error::Invalid(format!(
                            "{} takes a layer before it is sent",
                            target.authority()
                        )));
                    }
                },
            };
            attempts += 1;
            match self.send_by(layer, total, upload, events).await {
                Ok(sent) => {
                    self.store.inner.note_sent(layer, &sent);
                    return Ok(Descriptor::new(&sent.media_type, &sent.digest, sent.size));
                }
                Err(why) if is_lost(&why) && attempts < ATTEMPTS => {
                    tracing::debug!(%why, layer, "a layer is sent anew");
                }
                Err(why) => return Err(of(why)),
            }
        }
    }

    async fn send_by(
        &self,
        layer: &str,
        total: u64,
        mut upload: Upload,
        events: &Events,
    ) -> Result<Sent> {
        let read = Arc::new(AtomicU64::new(0));
        let mut archive = self.store.compressed(layer, Arc::clone(&read))?;
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut told = 0;
        let chunk = upload.chunk();
        let mut waiting = BytesMut::new();
        let _ = events.try_send(Ok(PushEvent::Layer(progress(layer, 0, total, false))));
        while let Some(piece) = archive.next().await {
            let piece = piece?;
            hash.update(&piece);
            size += piece.len() as u64;
            waiting.extend_from_slice(&piece);
            if waiting.len() >= chunk {
                upload.send(waiting.split_to(chunk).freeze()).await?;
            }
            let done = read.load(Ordering::Relaxed);
            if done >= told + STEP {
                told = done;
                let event = progress(layer, done.min(total), total, false);
                let _ = events.try_send(Ok(PushEvent::Layer(event)));
            }
        }
        let digest = super::archive::digest_of(hash);
        upload.finish(&digest, waiting.freeze()).await?;
        Ok(Sent {
            media_type: LAYER_GZIP.into(),
            digest,
            size,
        })
    }
}

impl Store {
    /// A layer's archive with gzip; `read` counts its bytes before that.
    fn compressed(
        &self,
        layer: &str,
        read: Arc<AtomicU64>,
    ) -> crate::Result<BoxStream<Result<Bytes>>> {
        let folder = self.inner.find(layer)?;
        let layer = layer.to_owned();
        Ok(stream::write_in_thread(move |sink| {
            let failed = |e| crate::Error::io("compress a layer", e);
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            let mut open = true;
            let mut failure = None;
            record::rebuild(&folder, &layer, |bytes| {
                read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if let Err(e) = encoder.write_all(bytes) {
                    failure = Some(failed(e));
                    return false;
                }
                let out = encoder.get_mut();
                if out.len() >= stream::CHUNK {
                    open = sink(out);
                    out.clear();
                }
                open
            })?;
            if let Some(failure) = failure {
                return Err(failure);
            }
            if open {
                sink(&encoder.finish().map_err(failed)?);
            }
            Ok(())
        }))
    }
}

impl Inner {
    /// As what a layer was pushed last.
    fn sent(&self, layer: &str) -> Option<Sent> {
        let text = std::fs::read(self.find(layer).ok()?.join(PUSHED)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn note_sent(&self, layer: &str, sent: &Sent) {
        let write = || {
            let folder = self.find(layer)?;
            let bytes = serde_json::to_vec(sent)
                .map_err(|e| crate::Error::Internal(format!("cannot note a push: {e}")))?;
            documents::replace(&folder.join(PUSHED), &bytes)
        };
        // It saves work the next time, and no more.
        if let Err(why) = write() {
            tracing::debug!(%why, layer, "what a layer was pushed as is not noted");
        }
    }
}

/// The image-spec's name for a kind of layer.
fn oci(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        | "" => LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        other => other,
    }
}

/// What a manifest says that it is.
fn media_type(manifest: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
    value["mediaType"].as_str().unwrap_or(MANIFEST).to_owned()
}

fn progress(layer: &str, done: u64, total: u64, ready: bool) -> LayerProgress {
    LayerProgress {
        digest: layer.to_owned(),
        done,
        total,
        ready,
    }
}
