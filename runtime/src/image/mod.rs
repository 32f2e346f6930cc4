//! Images and their layers on disk: layers by the digest of their content, each unpacked once; images by name.
//! Must not know of containers: who uses what is told to it.
//!
//! Below the data directory, `images/HASH.json` is one image, `documents/HEX` a configuration file or a manifest, and
//! `layers/HEX` one layer: `fs` its files as overlayfs takes them, `record.gz` and `replaced` what more is needed to make
//! its archive again, `size` the archive's bytes. What is being made is `.new-N` and is renamed when it is whole and on
//! the disk; the rest is swept at start.

mod archive;
mod builtin;
pub(crate) mod commit;
mod configuration;
mod copy;
pub(crate) mod diff;
mod documents;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub(crate) mod instructions;
mod load;
pub mod neighbours;
pub(crate) mod pull;
pub(crate) mod push;
mod record;
pub(crate) mod resolve;
mod rootfs;
mod save;
pub(crate) mod stream;
mod syncs;
#[cfg(test)]
mod tests;
mod unpack;
pub(crate) mod view;

use crate::{Error, Result};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use swarm_api::BoxStream;
use swarm_api::model::{Image, ImageConfig, ImageReference, Timestamp};

use configuration::Step;
pub use rootfs::read_file;

const TREE: &str = "fs";
const RECORD: &str = "record.gz";
const REPLACED: &str = "replaced";
const SIZE: &str = "size";
const NEW: &str = ".new-";
/// What a frame of zstd begins with (RFC 8878), and the largest window it may want, as a power of two: 32 MiB, which
/// all but its `--ultra` levels do with.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_WINDOW: u32 = 25;

/// The images of one host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    images_dir: PathBuf,
    documents_dir: PathBuf,
    layers_dir: PathBuf,
    next: AtomicU64,
    syncs: syncs::Syncs,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<ImageReference, Image>,
    /// Layers and documents that came in this life and that no image has named yet: their image is about to come.
    fresh: HashSet<String>,
    /// Bytes of layers on the disk, as far as somebody has asked.
    on_disk: HashMap<String, u64>,
}

/// A layer that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    digest: String,
    size: u64,
}

impl Store {
    /// Opens the store below `data_dir`, makes it where there is none, and sweeps what a crash left.
    ///
    /// # Errors
    /// Where a directory or file cannot be made or read.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let inner = Inner {
            images_dir: data_dir.join("images"),
            documents_dir: data_dir.join("documents"),
            layers_dir: data_dir.join("layers"),
            next: AtomicU64::new(0),
            syncs: syncs::Syncs::default(),
            state: Mutex::default(),
        };
        for dir in [&inner.images_dir, &inner.documents_dir, &inner.layers_dir] {
            std::fs::create_dir_all(dir)
                .map_err(|e| Error::io(format!("make the directory {}", dir.display()), e))?;
            for entry in entries(dir)? {
                if entry.file_name().is_some_and(is_new) {
                    remove(&entry)?;
                }
            }
        }
        let mut images = BTreeMap::new();
        for path in entries(&inner.images_dir)? {
            match read_image(&path) {
                Ok(image) => {
                    images.insert(image.reference.clone(), image);
                }
                Err(why) => tracing::warn!(%why, "an image's record is left out"),
            }
        }
        inner.lock().images = images;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// All images, in the order of their names.
    #[must_use]
    pub fn images(&self) -> Vec<Image> {
        self.inner.lock().images.values().cloned().collect()
    }

    /// One image.
    #[must_use]
    pub fn image(&self, reference: &ImageReference) -> Option<Image> {
        self.inner.lock().images.get(reference).cloned()
    }

    /// Makes an image of a root file system, a tar archive, plain or gzip. One of that name is replaced.
    ///
    /// # Errors
    /// [`swarm_api::Error::Invalid`] where it is no such archive, [`swarm_api::Error::Exhausted`] where the disk is
    /// full; nothing of it is left then.
    pub async fn import(
        &self,
        reference: ImageReference,
        config: ImageConfig,
        archive: BoxStream<swarm_api::Result<Bytes>>,
        now: Timestamp,
    ) -> swarm_api::Result<Image> {
        let inner = Arc::clone(&self.inner);
        stream::read_in_thread(archive, move |reader| {
            let layer = inner.unpack(reader, None)?;
            let step = Step {
                at: Some(now),
                by: "swarmctl image import",
                ..Step::default()
            };
            inner.put_single(reference, config, &layer, &step, now, false)
        })
        .await
    }

    /// Makes an image of `files` (path, mode, contents) that comes with the binary, unless it is there as it is.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn add_builtin(
        &self,
        reference: &ImageReference,
        config: &ImageConfig,
        files: &[(String, u32, &[u8])],
        now: Timestamp,
    ) -> Result<()> {
        let archive = builtin::archive(files)?;
        let digest = archive::digest_of(Sha256::new_with_prefix(&archive));
        // The same bytes on every host: nothing says when it was made.
        let step = Step {
            by: "swarmd",
            ..Step::default()
        };
        let file = configuration::make(config, std::slice::from_ref(&digest), &step);
        if let Some(there) = self.image(reference)
            && (!there.builtin || there.digest == archive::digest_of(Sha256::new_with_prefix(file)))
            && self.missing_parts(&there).is_empty()
        {
            return Ok(());
        }
        let layer = self.inner.unpack(archive.as_slice(), Some(&digest))?;
        let (reference, config) = (reference.clone(), config.clone());
        self.inner
            .put_single(reference, config, &layer, &step, now, true)?;
        Ok(())
    }

    /// The digests among `layers` that are not here.
    #[must_use]
    pub fn missing_layers(&self, layers: &[String]) -> Vec<String> {
        let missing = |digest: &&String| self.inner.find(digest).is_err();
        layers.iter().filter(missing).cloned().collect()
    }

    /// Takes one part of an image in, unless it is here: unpacks a layer's archive, or keeps a document.
    ///
    /// # Errors
    /// [`swarm_api::Error::Invalid`] where it has another digest; see [`Store::import`].
    pub async fn put_layer(
        &self,
        digest: &str,
        archive: BoxStream<swarm_api::Result<Bytes>>,
    ) -> swarm_api::Result<()> {
        {
            let mut state = self.inner.lock();
            if self.inner.find(digest).is_ok() || self.inner.has_document(digest) {
                state.fresh.insert(digest.to_owned());
                return Ok(());
            }
        }
        let inner = Arc::clone(&self.inner);
        let digest = digest.to_owned();
        stream::read_in_thread(archive, move |mut reader| {
            let mut start = Vec::with_capacity(512);
            (&mut reader)
                .take(512)
                .read_to_end(&mut start)
                .map_err(|e| Error::Invalid(format!("the archive cannot be read: {e}")))?;
            let document = documents::is_document(&start);
            let whole = std::io::Cursor::new(start).chain(reader);
            if document {
                inner.take_document(whole, &digest)
            } else {
                inner.unpack(whole, Some(&digest)).map(drop)
            }
        })
        .await
    }

    /// Adds an image whose parts are here, in place of one of that name.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it has no layers, or is not what its documents say; [`Error::NotFound`] where a part is
    /// missing.
    pub fn put_image(&self, image: Image) -> Result<()> {
        self.inner.put_image(image)
    }

    /// Removes an image's name unless it was used, or came, after `used_at`. Whether it did.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub(crate) fn remove_unused(
        &self,
        reference: &ImageReference,
        used_at: Timestamp,
    ) -> Result<bool> {
        let mut state = self.inner.lock();
        if !state.images.contains_key(reference) {
            return Ok(true);
        }
        if self.used_at(reference) > used_at {
            return Ok(false);
        }
        self.inner.remove_image(&mut state, reference)?;
        Ok(true)
    }

    /// Removes an image's name. Its layers stay until [`Store::collect`].
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none.
    pub fn remove_image(&self, reference: &ImageReference) -> Result<()> {
        let mut state = self.inner.lock();
        if !state.images.contains_key(reference) {
            return Err(Error::NotFound(format!(
                "there is no image {reference} on this host"
            )));
        }
        self.inner.remove_image(&mut state, reference)
    }

    /// The folders of `layers` (lowest first), topmost first, as overlayfs wants them.
    ///
    /// # Errors
    /// [`Error::NotFound`] where one is missing.
    pub fn layer_dirs(&self, layers: &[String]) -> Result<Vec<PathBuf>> {
        // Held, so that a layer that is found here is not on its way out.
        let _state = self.inner.lock();
        let tree = |digest: &String| Ok(self.inner.find(digest)?.join(TREE));
        layers.iter().rev().map(tree).collect()
    }

    /// The bytes of one layer's archive, uncompressed.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not here.
    pub fn layer_size(&self, digest: &str) -> Result<u64> {
        self.inner.size(digest)
    }

    /// All layers that are here with their bytes on the disk.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(crate) fn layer_sizes(&self) -> Result<HashMap<String, u64>> {
        let mut sizes = HashMap::new();
        for path in entries(&self.inner.layers_dir)? {
            let Some(name) = path.file_name().filter(|n| !is_new(n)) else {
                continue;
            };
            let digest = format!("sha256:{}", name.to_string_lossy());
            let known = self.inner.lock().on_disk.get(&digest).copied();
            let size = match known {
                Some(size) => size,
                // It never changes.
                None => crate::host::on_disk(&path)?,
            };
            self.inner.lock().on_disk.insert(digest.clone(), size);
            sizes.insert(digest, size);
        }
        Ok(sizes)
    }

    /// When an image came, or was last said to be used.
    pub(crate) fn used_at(&self, reference: &ImageReference) -> Timestamp {
        let path = self.inner.image_path(reference);
        let time = std::fs::metadata(path).and_then(|m| m.modified());
        let since = time
            .ok()
            .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        Timestamp(
            since
                .and_then(|s| u64::try_from(s.as_millis()).ok())
                .unwrap_or(0),
        )
    }

    /// Notes that an image is used now.
    pub(crate) fn use_image(&self, reference: &ImageReference) {
        let _state = self.inner.lock();
        let path = self.inner.image_path(reference);
        let now = std::time::SystemTime::now();
        let noted = File::options()
            .append(true)
            .open(&path)
            .and_then(|f| f.set_modified(now));
        if let Err(why) = noted {
            tracing::debug!(%why, %reference, "the use of an image is not noted");
        }
    }

    /// Takes in all images of an archive of `docker save` or of an OCI image layout, plain or compressed. `name` is for
    /// an archive with one image, and goes before what that says.
    ///
    /// # Errors
    /// [`swarm_api::Error::Invalid`] where it is no such archive; see [`Store::import`].
    pub async fn load(
        &self,
        name: Option<ImageReference>,
        archive: BoxStream<swarm_api::Result<Bytes>>,
        now: Timestamp,
    ) -> swarm_api::Result<Vec<Image>> {
        let inner = Arc::clone(&self.inner);
        stream::read_in_thread(archive, move |reader| {
            load::load(&inner, reader, name.as_ref(), now)
        })
        .await
    }

    /// Images as one archive, an OCI image layout that Docker reads as well.
    ///
    /// # Errors
    /// [`Error::NotFound`] where one, or a layer of one, is not here.
    pub fn save(&self, names: &[ImageReference]) -> Result<BoxStream<swarm_api::Result<Bytes>>> {
        let mut images = Vec::new();
        for name in names {
            let image = self
                .image(name)
                .ok_or_else(|| Error::NotFound(format!("there is no image {name} on this host")))?;
            for layer in &image.layers {
                self.inner.find(layer)?;
            }
            images.push(image);
        }
        let store = self.clone();
        Ok(stream::write_in_thread(move |sink| {
            save::save(&store, &images, sink)
        }))
    }

    /// One part of an image, byte for byte as it came: a layer as an uncompressed tar archive, or a document.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not here. The stream ends with [`swarm_api::Error::Internal`] where its files
    /// have changed.
    pub fn export_layer(&self, digest: &str) -> Result<BoxStream<swarm_api::Result<Bytes>>> {
        self.part(digest, |folder, digest, sink| {
            record::rebuild(folder, digest, |bytes| sink(Bytes::copy_from_slice(bytes)))
        })
    }

    /// As [`Store::export_layer`], for one who checks the digest: what comes out is another layer where files have changed.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not here.
    pub fn give_layer(&self, digest: &str) -> Result<BoxStream<swarm_api::Result<Bytes>>> {
        self.part(digest, |folder, digest, sink| {
            record::read_back(folder, digest, sink)
        })
    }

    fn part(
        &self,
        digest: &str,
        read: impl FnOnce(&Path, &str, &mut dyn FnMut(Bytes) -> bool) -> Result<()> + Send + 'static,
    ) -> Result<BoxStream<swarm_api::Result<Bytes>>> {
        if self.inner.has_document(digest) {
            let bytes = Bytes::from(self.inner.document(digest)?);
            return Ok(Box::pin(futures_util::stream::iter([Ok(bytes)])));
        }
        let folder = self.inner.find(digest)?;
        let digest = digest.to_owned();
        Ok(stream::pieces_in_thread(move |sink| {
            read(&folder, &digest, sink)
        }))
    }

    /// Removes the layers and documents that neither an image has nor `in_use` names. That is asked while no layer can
    /// come into use through [`Store::layer_dirs`].
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn collect(&self, in_use: impl FnOnce() -> HashSet<String>) -> Result<()> {
        let mut doomed = Vec::new();
        {
            let state = self.inner.lock();
            let mut kept = in_use();
            kept.extend(state.images.values().flat_map(Image::parts));
            kept.extend(state.fresh.iter().cloned());
            for path in entries(&self.inner.documents_dir)? {
                let name = path.file_name().unwrap_or_default();
                if !is_new(name) && !kept.contains(&format!("sha256:{}", name.to_string_lossy())) {
                    remove(&path)?;
                }
            }
            for path in entries(&self.inner.layers_dir)? {
                let Some(name) = path.file_name() else {
                    continue;
                };
                if is_new(name) || kept.contains(&format!("sha256:{}", name.to_string_lossy())) {
                    continue;
                }
                let aside = self.inner.new_path();
                std::fs::rename(&path, &aside)
                    .map_err(|e| Error::io(format!("move {} aside", path.display()), e))?;
                doomed.push(aside);
            }
        }
        doomed.iter().try_for_each(|path| remove(path))
    }
}

impl Inner {
    fn remove_image(&self, state: &mut State, reference: &ImageReference) -> Result<()> {
        let path = self.image_path(reference);
        std::fs::remove_file(&path)
            .map_err(|e| Error::io(format!("remove {}", path.display()), e))?;
        sync_folder(&self.images_dir)?;
        state.images.remove(reference);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_path(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.layers_dir.join(format!("{NEW}{number}"))
    }

    fn image_path(&self, reference: &ImageReference) -> PathBuf {
        let hash = Sha256::digest(reference.to_string());
        let name = data_encoding::HEXLOWER.encode(hash.as_slice());
        self.images_dir.join(format!("{name}.json"))
    }

    fn find(&self, digest: &str) -> Result<PathBuf> {
        let path = self.layers_dir.join(hex(digest)?);
        if path.is_dir() {
            Ok(path)
        } else {
            Err(Error::NotFound(format!(
                "there is no layer {digest} on this host"
            )))
        }
    }

    fn size(&self, digest: &str) -> Result<u64> {
        let path = self.find(digest)?.join(SIZE);
        let reading = |e: std::io::Error| Error::io(format!("read {}", path.display()), e);
        let text = std::fs::read_to_string(&path).map_err(reading)?;
        text.trim()
            .parse()
            .map_err(|_| Error::Internal(format!("{} is damaged: {text:?}", path.display())))
    }

    /// Unpacks an archive to a layer. Where `wanted` is given, only one of that digest is accepted.
    fn unpack(&self, reader: impl BufRead, wanted: Option<&str>) -> Result<Layer> {
        let new = self.new_path();
        let outcome = self.unpack_to(&new, reader, wanted);
        if new.exists()
            && let Err(why) = remove(&new)
        {
            tracing::warn!(%why, "cannot remove what was unpacked");
        }
        outcome
    }

    fn unpack_to(&self, new: &Path, reader: impl BufRead, wanted: Option<&str>) -> Result<Layer> {
        let tree = new.join(TREE);
        let at = |what: &str, path: &Path| format!("{what} {}", path.display());
        std::fs::create_dir_all(&tree).map_err(|e| Error::io(at("make", &tree), e))?;
        let record = new.join(RECORD);
        let file = File::create(&record).map_err(|e| Error::io(at("make", &record), e))?;
        let mut archive = archive::Archive::new(decompress(reader)?, file);
        unpack::unpack(&mut archive, &tree, &new.join(REPLACED))?;
        let summary = archive.finish()?;
        if let Some(wanted) = wanted
            && wanted != summary.digest
        {
            return Err(Error::Invalid(format!(
                "this is not the layer {wanted}: its digest is {}",
                summary.digest
            )));
        }
        let size = new.join(SIZE);
        std::fs::write(&size, summary.size.to_string())
            .map_err(|e| Error::io(at("write", &size), e))?;
        // Whole on the disk before it has its name; that is there for good before an image has it (`put_image`).
        self.syncs
            .sync(&summary.record)
            .map_err(|e| Error::io(at("sync", new), e))?;
        let to = self.layers_dir.join(hex(&summary.digest)?);
        let mut state = self.lock();
        if !to.is_dir() {
            std::fs::rename(new, &to).map_err(|e| Error::io(at("move a layer to", &to), e))?;
        }
        state.fresh.insert(summary.digest.clone());
        Ok(Layer {
            digest: summary.digest,
            size: summary.size,
        })
    }

    fn put_single(
        &self,
        reference: ImageReference,
        config: ImageConfig,
        layer: &Layer,
        step: &Step<'_>,
        now: Timestamp,
        builtin: bool,
    ) -> Result<Image> {
        let layers = vec![layer.digest.clone()];
        let file = configuration::make(&config, &layers, step);
        let image = Image {
            reference,
            digest: self.put_document(&file)?,
            layers,
            size: layer.size,
            config: documents::config_of(&file)?,
            created_at: now,
            builtin,
            manifest: None,
        };
        self.put_image(image.clone())?;
        Ok(image)
    }

    fn put_image(&self, image: Image) -> Result<()> {
        if image.layers.is_empty() {
            return Err(Error::Invalid(format!(
                "the image {} has no layers",
                image.reference
            )));
        }
        let mut state = self.lock();
        self.check_documents(&image)?;
        for layer in &image.layers {
            self.find(layer)
                .map_err(|e| Error::NotFound(format!("the image {}: {e}", image.reference)))?;
        }
        sync_folder(&self.layers_dir)?;
        let path = self.image_path(&image.reference);
        let json = serde_json::to_vec_pretty(&image).map_err(|e| {
            Error::Internal(format!("cannot write the image {}: {e}", image.digest))
        })?;
        let new = self.images_dir.join(format!(
            "{NEW}{}",
            self.next.fetch_add(1, Ordering::Relaxed)
        ));
        let written = write_synced(&new, &json).and_then(|()| std::fs::rename(&new, &path));
        if let Err(e) = written {
            let _ = std::fs::remove_file(&new);
            return Err(Error::io(format!("write {}", path.display()), e));
        }
        sync_folder(&self.images_dir)?;
        for part in image.parts() {
            state.fresh.remove(&part);
        }
        state.images.insert(image.reference.clone(), image);
        Ok(())
    }
}

/// `reader`, without the compression of gzip or zstd if it has that.
fn decompress<'a>(mut reader: impl BufRead + 'a) -> Result<Box<dyn BufRead + 'a>> {
    let bad = |e: std::io::Error| Error::Invalid(format!("the archive cannot be read: {e}"));
    let mut start = Vec::with_capacity(4);
    (&mut reader).take(4).read_to_end(&mut start).map_err(bad)?;
    let kind = start.clone();
    let whole = std::io::Cursor::new(start).chain(reader);
    if kind.starts_with(&[0x1f, 0x8b]) {
        let plain = MultiGzDecoder::new(whole);
        Ok(Box::new(BufReader::with_capacity(stream::CHUNK, plain)))
    } else if kind == ZSTD {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(whole).map_err(bad)?;
        decoder.window_log_max(ZSTD_WINDOW).map_err(bad)?;
        Ok(Box::new(BufReader::with_capacity(stream::CHUNK, decoder)))
    } else {
        Ok(Box::new(whole))
    }
}

/// The name of a digest's folder.
fn hex(digest: &str) -> Result<&str> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| {
            hex.len() == 64
                && hex
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
        .ok_or_else(|| {
            Error::Invalid(format!(
                "\"{digest}\" is not a digest: expected sha256: and 64 digits 0-9 a-f"
            ))
        })
}

fn is_new(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with(NEW)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let reading = |e| Error::io(format!("read {}", dir.display()), e);
    std::fs::read_dir(dir)
        .map_err(reading)?
        .map(|entry| entry.map(|e| e.path()).map_err(reading))
        .collect()
}

fn remove(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    outcome.map_err(|e| Error::io(format!("remove {}", path.display()), e))
}

fn read_image(path: &Path) -> Result<Image> {
    let reading = |e: std::io::Error| Error::io(format!("read {}", path.display()), e);
    let json = std::fs::read(path).map_err(reading)?;
    serde_json::from_slice(&json).map_err(|e| reading(e.into()))
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| Error::io(format!("sync {}", path.display()), e))
}
