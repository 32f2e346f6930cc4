//! Images into the store from one tar archive: what `docker save` and `skopeo` write, of today or of old, or an OCI
//! image layout. What it holds is put aside on the disk first, because it says at its end only what is what.

use super::archive::digest_of;
use super::{Inner, decompress, documents::LARGEST, stream::CHUNK};
use crate::registry::{
    Descriptor, Document, ImageFile, Platform, choose, read_config, read_document,
};
use crate::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use swarm_api::model::{Image, ImageReference, Timestamp};

const MAX_ENTRIES: usize = 1 << 16;

/// What was put aside, by its path in the archive.
struct Aside {
    files: HashMap<String, PathBuf>,
    links: HashMap<String, String>,
}

/// One image of the archive.
struct Found {
    reference: ImageReference,
    file: ImageFile,
    /// Its configuration file as it came.
    document: Vec<u8>,
    layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Takes all images of `reader` in. `name` is for an archive with one image.
pub(super) fn load(
    inner: &Inner,
    reader: impl BufRead,
    name: Option<&ImageReference>,
    now: Timestamp,
) -> Result<Vec<Image>> {
    let folder = inner.new_path();
    std::fs::create_dir_all(&folder)
        .map_err(|e| Error::io(format!("make {}", folder.display()), e))?;
    let outcome = Aside::read(reader, &folder)
        .and_then(|aside| aside.images(name))
        .and_then(|found| take(inner, found, now));
    if let Err(why) = super::remove(&folder) {
        tracing::warn!(%why, "cannot remove what was put aside");
    }
    outcome
}

fn take(inner: &Inner, found: Vec<Found>, now: Timestamp) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for Found {
        reference,
        file,
        document,
        layers,
    } in found
    {
        if layers.len() != file.diff_ids.len() {
            return Err(Error::Invalid(format!(
                "the image {reference} has {} layers, and its configuration names {}",
                layers.len(),
                file.diff_ids.len()
            )));
        }
        let mut size = 0;
        for (path, diff_id) in layers.iter().zip(&file.diff_ids) {
            if inner.find(diff_id).is_err() {
                let archive = File::open(path)
                    .map_err(|e| Error::io(format!("open {}", path.display()), e))?;
                inner.unpack(BufReader::with_capacity(CHUNK, archive), Some(diff_id))?;
            }
            size += inner.size(diff_id)?;
        }
        let image = Image {
            reference,
            digest: inner.put_document(&document)?,
            layers: file.diff_ids,
            size,
            config: file.config,
            created_at: file
                .created
                .and_then(|t| u64::try_from(t.as_millisecond()).ok())
                .map_or(now, Timestamp),
            builtin: false,
            manifest: None,
        };
        inner.put_image(image.clone())?;
        images.push(image);
    }
    Ok(images)
}

impl Aside {
    fn read(reader: impl BufRead, folder: &Path) -> Result<Self> {
        let bad = |e: std::io::Error| Error::Invalid(format!("this is no archive of images: {e}"));
        let mut archive = tar::Archive::new(decompress(reader)?);
        let mut aside = Self {
            files: HashMap::new(),
            links: HashMap::new(),
        };
        for (number, entry) in archive.entries().map_err(bad)?.enumerate() {
            let mut entry = entry.map_err(bad)?;
            if number >= MAX_ENTRIES {
                return Err(Error::Invalid(format!(
                    "the archive has more than {MAX_ENTRIES} entries"
                )));
            }
            let Some(path) = clean("", &String::from_utf8_lossy(&entry.path_bytes())) else {
                continue;
            };
            match entry.header().entry_type() {
                tar::EntryType::Regular => {
                    // Its own path is for comparisons alone.
                    let to = folder.join(number.to_string());
                    let mut file = File::create_new(&to)
                        .map_err(|e| Error::io(format!("make {}", to.display()), e))?;
                    std::io::copy(&mut entry, &mut file).map_err(|e| match e.raw_os_error() {
                        Some(_) => Error::io(format!("write {}", to.display()), e),
                        None => bad(e),
                    })?;
                    aside.files.insert(path, to);
                }
                // As older versions of Docker save a layer that two images share.
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let base = match entry.header().entry_type() {
                        tar::EntryType::Symlink => path.rsplit_once('/').map_or("", |(dir, _)| dir),
                        _ => "",
                    };
                    if let Some(target) = clean(base, &String::from_utf8_lossy(&target)) {
                        aside.links.insert(path, target);
                    }
                }
                _ => {}
            }
        }
        Ok(aside)
    }

    fn images(&self, name: Option<&ImageReference>) -> Result<Vec<Found>> {
        let found = if self.find("manifest.json").is_some() {
            self.docker(name)?
        } else if self.find("index.json").is_some() {
            self.layout(name)?
        } else {
            return Err(Error::Invalid(
                "this is no archive of images: it has neither manifest.json (docker save) nor index.json (OCI image \
                 layout); to make an image of a root file system, use `swarmctl image import`"
                    .into(),
            ));
        };
        if found.is_empty() {
            return Err(Error::Invalid("the archive has no image in it".into()));
        }
        Ok(found)
    }

    fn docker(&self, name: Option<&ImageReference>) -> Result<Vec<Found>> {
        let images: Vec<DockerImage> = serde_json::from_slice(&self.document("manifest.json")?)
            .map_err(|e| Error::Invalid(format!("its manifest.json cannot be read: {e}")))?;
        one_name(name, images.len())?;
        let mut found = Vec::new();
        for image in images {
            let document = self.document(&image.config)?;
            let file = config(&document, &image.config)?;
            let layers = image
                .layers
                .iter()
                .map(|layer| self.need(layer))
                .collect::<Result<Vec<_>>>()?;
            let tags = image.repo_tags.unwrap_or_default();
            let names = match name {
                Some(name) => vec![name.clone()],
                None if tags.is_empty() => return Err(nameless()),
                None => tags.iter().map(|t| parse(t)).collect::<Result<_>>()?,
            };
            found.extend(names.into_iter().map(|reference| Found {
                reference,
                file: file.clone(),
                document: document.clone(),
                layers: layers.clone(),
            }));
        }
        Ok(found)
    }

    fn layout(&self, name: Option<&ImageReference>) -> Result<Vec<Found>> {
        let Document::Index(entries) = document(&self.document("index.json")?, "index.json")?
        else {
            return Err(Error::Invalid("its index.json is no index".into()));
        };
        one_name(name, entries.len())?;
        let mut found = Vec::new();
        for entry in &entries {
            let reference = match (name, entry.name()) {
                (Some(name), _) => name.clone(),
                // Often it is but a tag.
                (None, Some(text)) if text.contains([':', '/']) => parse(text)?,
                (None, _) => return Err(nameless()),
            };
            let mut manifest = document(&self.blob(entry)?, &entry.digest)?;
            if let Document::Index(entries) = &manifest {
                let chosen = choose(entries, &Platform::here()).map_err(of_api)?;
                manifest = document(&self.blob(chosen)?, &chosen.digest)?;
            }
            let Document::Image(manifest) = manifest else {
                return Err(Error::Invalid(format!(
                    "the index of {reference} leads to another index"
                )));
            };
            let document = self.blob(&manifest.config)?;
            let file = config(&document, &manifest.config.digest)?;
            let layers = manifest.layers.iter().map(|l| self.need(&path_of(l)));
            found.push(Found {
                reference,
                file,
                document,
                layers: layers.collect::<Result<_>>()?,
            });
        }
        Ok(found)
    }

    fn find(&self, path: &str) -> Option<&PathBuf> {
        let mut path = clean("", path)?;
        // A link to a link is nothing that anybody writes.
        if let Some(target) = self.links.get(&path) {
            path.clone_from(target);
        }
        self.files.get(&path)
    }

    fn need(&self, path: &str) -> Result<PathBuf> {
        self.find(path)
            .cloned()
            .ok_or_else(|| Error::Invalid(format!("the archive lacks {path}")))
    }

    fn document(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.need(path)?;
        let reading = |e| Error::io(format!("read {}", file.display()), e);
        let mut bytes = Vec::new();
        let opened = File::open(&file).map_err(reading)?;
        opened
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(reading)?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::Invalid(format!(
                "the archive's {path} is larger than {LARGEST} bytes"
            )));
        }
        Ok(bytes)
    }

    /// A document by its digest, which is checked.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let bytes = self.document(&path_of(descriptor))?;
        let digest = digest_of(Sha256::new_with_prefix(&bytes));
        if digest != descriptor.digest {
            return Err(Error::Invalid(format!(
                "the archive's blob {} has the digest {digest}",
                descriptor.digest
            )));
        }
        Ok(bytes)
    }
}

fn path_of(descriptor: &Descriptor) -> String {
    format!("blobs/{}", descriptor.digest.replace(':', "/"))
}

fn document(bytes: &[u8], what: &str) -> Result<Document> {
    read_document(bytes).map_err(|e| of_api(e.context(format!("the archive's {what}"))))
}

fn config(bytes: &[u8], what: &str) -> Result<ImageFile> {
    read_config(bytes).map_err(|e| of_api(e.context(format!("the archive's {what}"))))
}

fn parse(text: &str) -> Result<ImageReference> {
    text.parse().map_err(of_api)
}

fn of_api(error: swarm_api::Error) -> Error {
    match error {
        swarm_api::Error::Unsupported(m) => Error::Unsupported(m),
        other => Error::Invalid(other.to_string()),
    }
}

fn nameless() -> Error {
    Error::Invalid("the archive does not say what its image is called; say it with --name".into())
}

fn one_name(name: Option<&ImageReference>, images: usize) -> Result<()> {
    match name {
        Some(name) if images > 1 => Err(Error::Invalid(format!(
            "the archive has {images} images, which cannot all be called {name}"
        ))),
        _ => Ok(()),
    }
}

/// `base/path` without `.` and `..`. None where it leads out, or is the root.
fn clean(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}
