//! The documents of images, by digest: configuration files and registries' manifests, byte for byte as they came.

use super::{Inner, NEW, Store, archive::digest_of, configuration, hex, sync_folder, write_synced};
use crate::registry::{Document, read_config, read_document};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use swarm_api::model::{HistoryEntry, Image, ImageConfig};

/// The largest document that is read.
pub(super) const LARGEST: u64 = 4 << 20;

impl Store {
    /// A document of an image: its configuration file, or its registry's manifest.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is not here, [`Error::Internal`] where it is damaged.
    pub fn document(&self, digest: &str) -> Result<Vec<u8>> {
        self.inner.document(digest)
    }

    /// Keeps a document, for the image that is about to come; says its digest.
    pub(super) fn put_document(&self, bytes: &[u8]) -> Result<String> {
        self.inner.put_document(bytes)
    }

    /// Adds an image as a registry gave it: its layers are here, its documents come with it.
    ///
    /// # Errors
    /// See [`Store::put_image`].
    pub(super) fn put_pulled(&self, image: Image, file: &[u8], manifest: &[u8]) -> Result<()> {
        self.inner.put_document(file)?;
        self.inner.put_document(manifest)?;
        self.put_image(image)
    }

    /// The steps in which an image was made, newest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] where a part of it is not here.
    pub fn history(&self, image: &Image) -> Result<Vec<HistoryEntry>> {
        let size = |layer: &String| Ok((layer.clone(), self.layer_size(layer)?));
        let sizes = image.layers.iter().map(size).collect::<Result<Vec<_>>>()?;
        Ok(configuration::history(
            &self.document(&image.digest)?,
            &sizes,
        ))
    }

    /// The digests among the image's parts that are not here.
    #[must_use]
    pub fn missing_parts(&self, image: &Image) -> Vec<String> {
        let mut missing = self.missing_layers(&image.layers);
        let documents = std::iter::once(&image.digest).chain(&image.manifest);
        let absent = |digest: &&String| !self.inner.has_document(digest);
        missing.extend(documents.filter(absent).cloned());
        missing
    }
}

impl Inner {
    fn document_path(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.documents_dir.join(hex(digest)?))
    }

    pub(super) fn has_document(&self, digest: &str) -> bool {
        self.document_path(digest).is_ok_and(|path| path.is_file())
    }

    pub(super) fn document(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.document_path(digest)?;
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound(format!(
                    "there is no document {digest} of an image on this host"
                )));
            }
            other => other.map_err(|e| Error::io(format!("read {}", path.display()), e))?,
        };
        let found = digest_of(Sha256::new_with_prefix(&bytes));
        if found != digest {
            return Err(Error::Internal(format!(
                "{} is damaged: its digest is {found}; remove its images and get them again",
                path.display()
            )));
        }
        Ok(bytes)
    }

    /// Keeps a document. Whole on the disk before it has its name.
    pub(super) fn put_document(&self, bytes: &[u8]) -> Result<String> {
        let digest = digest_of(Sha256::new_with_prefix(bytes));
        let path = self.document_path(&digest)?;
        let mut state = self.lock();
        if !path.is_file() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let new = self.documents_dir.join(format!("{NEW}{number}"));
            let written = write_synced(&new, bytes).and_then(|()| std::fs::rename(&new, &path));
            if let Err(e) = written {
                let _ = std::fs::remove_file(&new);
                return Err(Error::io(format!("write {}", path.display()), e));
            }
            sync_folder(&self.documents_dir)?;
        }
        state.fresh.insert(digest.clone());
        Ok(digest)
    }

    /// Keeps what comes from a peer as the document `wanted`.
    pub(super) fn take_document(&self, reader: impl Read, wanted: &str) -> Result<()> {
        let mut bytes = Vec::new();
        reader
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::Invalid(format!("a document of an image cannot be read: {e}")))?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::Invalid(format!(
                "the document {wanted} is larger than {LARGEST} bytes"
            )));
        }
        let found = digest_of(Sha256::new_with_prefix(&bytes));
        if found != wanted {
            return Err(Error::Invalid(format!(
                "this is not the document {wanted}: its digest is {found}"
            )));
        }
        self.put_document(&bytes).map(drop)
    }

    /// Whether what an image's record says is what its documents say.
    pub(super) fn check_documents(&self, image: &Image) -> Result<()> {
        let name = &image.reference;
        let of = |e: Error| match e {
            Error::NotFound(why) => Error::NotFound(format!("the image {name}: {why}")),
            other => other,
        };
        let file = read_config(&self.document(&image.digest).map_err(of)?)
            .map_err(|e| Error::Invalid(format!("the image {name}: {e}")))?;
        if file.diff_ids != image.layers || file.config != image.config {
            return Err(Error::Invalid(format!(
                "the image {name} is not what its configuration {} says",
                image.digest
            )));
        }
        if let Some(manifest) = &image.manifest {
            let read = read_document(&self.document(manifest).map_err(of)?);
            if !matches!(read, Ok(Document::Image(m)) if m.config.digest == image.digest) {
                return Err(Error::Invalid(format!(
                    "the image {name} is not what its manifest {manifest} says"
                )));
            }
        }
        Ok(())
    }
}

/// What a configuration file says of the process, in the order in which it is read.
pub(super) fn config_of(file: &[u8]) -> Result<ImageConfig> {
    let file = read_config(file).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(file.config)
}

/// Whether bytes are the start of a document and not of a layer's archive, which has its magic at 257 (ustar, pax, GNU)
/// or is compressed.
pub(super) fn is_document(start: &[u8]) -> bool {
    start.first() == Some(&b'{') && start.get(257..262) != Some(b"ustar")
}

/// Puts a file in place of another, or of none, in one step.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    let new = PathBuf::from(new);
    let written = write_synced(&new, bytes).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&new);
        Error::io(format!("write {}", path.display()), e)
    })
}
