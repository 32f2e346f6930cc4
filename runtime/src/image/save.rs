//! Images out of the store as one tar archive that is both an OCI image layout and what `docker save` writes: every
//! program of others reads the one or the other.

use super::{Store, archive::digest_of, record};
use crate::{Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use swarm_api::model::Image;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes `images` to `sink`, until that returns false. Layers go as they are in the store, without compression.
pub(super) fn save(
    store: &Store,
    images: &[Image],
    sink: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<()> {
    let mut out = Out { sink, open: true };
    let mut written = BTreeSet::new();
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    for image in images {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let size = store.layer_size(layer)?;
            layers.push(json!({"mediaType": LAYER, "digest": layer, "size": size}));
            if written.insert(layer.clone()) && out.open {
                out.header(&blob(layer), size)?;
                let folder = store.inner.find(layer)?;
                record::rebuild(&folder, layer, |bytes| out.put(bytes))?;
                out.pad(size);
            }
        }
        let config = store.document(&image.digest)?;
        let config_digest = image.digest.clone();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config_digest, "size": config.len()},
            "layers": layers,
        })
        .to_string();
        let manifest_digest = digest(manifest.as_bytes());
        let documents = [
            (&config_digest, config),
            (&manifest_digest, manifest.into_bytes()),
        ];
        for (digest, bytes) in &documents {
            if written.insert((*digest).clone()) {
                out.file(&blob(digest), bytes)?;
            }
        }
        let reference = &image.reference;
        let tags = if reference.tag().is_empty() {
            Vec::new()
        } else {
            vec![format!("{}:{}", reference.name(), reference.tag())]
        };
        manifests.push(json!({
            "mediaType": MANIFEST,
            "digest": manifest_digest,
            "size": documents[1].1.len(),
            "annotations": {
                "io.containerd.image.name": reference.to_string(),
                "org.opencontainers.image.ref.name": reference.to_string(),
            },
        }));
        let paths: Vec<String> = image.layers.iter().map(|l| blob(l)).collect();
        docker.push(json!({"Config": blob(&config_digest), "RepoTags": tags, "Layers": paths}));
    }
    out.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    out.file("index.json", index.as_bytes())?;
    out.file("manifest.json", Value::from(docker).to_string().as_bytes())?;
    out.put(&[0; 1024]);
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    digest_of(Sha256::new_with_prefix(bytes))
}

fn blob(digest: &str) -> String {
    format!(
        "blobs/sha256/{}",
        digest.strip_prefix("sha256:").unwrap_or(digest)
    )
}

/// A tar archive on its way.
struct Out<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> bool,
    /// Whether somebody reads on.
    open: bool,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        self.open = self.open && (self.sink)(bytes);
        self.open
    }

    fn header(&mut self, path: &str, size: u64) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header
            .set_path(path)
            .map_err(|e| Error::Internal(format!("an archive cannot have {path}: {e}")))?;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.put(header.as_bytes());
        Ok(())
    }

    fn pad(&mut self, size: u64) {
        let padding = size.next_multiple_of(512) - size;
        self.put(&[0; 512][..usize::try_from(padding).unwrap_or(0)]);
    }

    fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.header(path, content.len() as u64)?;
        self.put(content);
        self.pad(content.len() as u64);
        Ok(())
    }
}
