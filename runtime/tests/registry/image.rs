//! Images to serve: layers of files, compressed one way or another.

use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;

/// How a layer is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// The parts of an image as a registry has them.
pub(crate) struct Parts {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) diff_ids: Vec<String>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex = data_encoding::HEXLOWER.encode(Sha256::digest(bytes).as_slice());
    format!("sha256:{hex}")
}

/// An archive with one file, whose bytes no compression makes small.
pub(crate) fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ name.len() as u64;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(size)
    .collect();
    let mut header = tar::Header::new_ustar();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, name, content.as_slice())
        .unwrap();
    archive.into_inner().unwrap()
}

fn pack(archive: &[u8], packed: Packed) -> (Vec<u8>, &'static str) {
    match packed {
        Packed::Plain => (archive.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
        Packed::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(archive).unwrap();
            (
                gzip.finish().unwrap(),
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )
        }
        Packed::Zstd => (
            zstd::encode_all(archive, 3).unwrap(),
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
    }
}

impl Parts {
    pub(crate) fn new(layers: &[(Vec<u8>, Packed)], architecture: &str) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|(archive, _)| digest(archive)).collect();
        let packed: Vec<_> = layers
            .iter()
            .map(|(archive, how)| pack(archive, *how))
            .collect();
        let config = serde_json::json!({
            "created": "2026-01-02T03:04:05Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "User": "1:1", "Env": ["A=b"], "WorkingDir": "/tmp"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let described: Vec<_> = packed
            .iter()
            .map(|(blob, kind)| serde_json::json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()}))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": digest(&config), "size": config.len()},
            "layers": described,
        })
        .to_string()
        .into_bytes();
        Self {
            manifest,
            config,
            blobs: packed.into_iter().map(|(blob, _)| blob).collect(),
            diff_ids,
        }
    }

    /// The manifest's digest.
    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// What has that digest.
    pub(crate) fn blob(&self, wanted: &str) -> Option<&[u8]> {
        let all = self.blobs.iter().chain([&self.config, &self.manifest]);
        all.map(Vec::as_slice).find(|b| digest(b) == wanted)
    }

    /// Writes it as an OCI layout with the tag `latest`.
    pub(crate) fn layout(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for bytes in self.blobs.iter().chain([&self.config, &self.manifest]) {
            std::fs::write(blobs.join(&digest(bytes)[7..]), bytes).unwrap();
        }
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.digest(),
            "size": self.manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "latest"}}]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }
}
