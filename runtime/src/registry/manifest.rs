//! What registries' documents say: manifests, indexes and configurations of the OCI image-spec and of Docker's schema
//! version 2, which differ in names of media types only. Pure.

use serde::Deserialize;
use std::collections::BTreeMap;
use swarm_api::model::{HealthCheck, ImageConfig};
use swarm_api::{Error, Result};

/// What is asked for. The order is that of preference.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// More layers than any image has.
const MAX_LAYERS: usize = 1024;

/// A blob: its kind, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:` and 64 digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    #[serde(default)]
    platform: Option<PlatformField>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Of a blob that is in no index.
    #[must_use]
    pub fn new(media_type: &str, digest: &str, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// What an index calls it (containerd's annotation, or the image-spec's, which may be a tag alone).
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        [
            "io.containerd.image.name",
            "org.opencontainers.image.ref.name",
        ]
        .iter()
        .find_map(|key| self.annotations.get(*key))
        .map(String::as_str)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct PlatformField {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: String,
}

/// One image's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers as they are sent, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What programs of an image run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// As Go calls it, `linux`.
    pub os: String,
    /// As Go calls it, `amd64`.
    pub architecture: String,
}

impl Platform {
    /// This host's.
    #[must_use]
    pub fn here() -> Self {
        Self {
            os: "linux".into(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                "x86" => "386",
                "powerpc64" => "ppc64le",
                other => other,
            }
            .into(),
        }
    }
}

/// An image's configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// How to run it.
    pub config: ImageConfig,
    /// Digests of its layers, uncompressed, lowest first.
    pub diff_ids: Vec<String>,
    /// When it was made, in seconds of the epoch.
    pub created: Option<jiff::Timestamp>,
    /// For which architecture.
    pub architecture: String,
}

pub(crate) enum Document {
    Image(Manifest),
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index.
pub(crate) fn read(bytes: &[u8]) -> Result<Document> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|e| Error::Invalid(format!("it is no manifest of an image: {e}")))?;
    if raw.schema_version != 2 {
        return Err(Error::Unsupported(format!(
            "it is of schema version {}, which Docker has given up as well; push the image again with a newer program",
            raw.schema_version
        )));
    }
    if let Some(manifests) = raw.manifests {
        manifests.iter().try_for_each(check)?;
        return Ok(Document::Index(manifests));
    }
    let config = raw
        .config
        .ok_or_else(|| Error::Invalid("it names no configuration".into()))?;
    if raw.layers.len() > MAX_LAYERS {
        return Err(Error::Invalid(format!(
            "it has more than {MAX_LAYERS} layers"
        )));
    }
    check(&config)?;
    raw.layers.iter().try_for_each(check)?;
    Ok(Document::Image(Manifest {
        config,
        layers: raw.layers,
    }))
}

fn check(descriptor: &Descriptor) -> Result<()> {
    let hex = descriptor
        .digest
        .strip_prefix("sha256:")
        .unwrap_or_default();
    if hex.len() == 64
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "it names \"{}\", which is no digest of the kind sha256",
            descriptor.digest
        )))
    }
}

/// The image of an index for a platform.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor> {
    let fits = |entry: &&Descriptor| match &entry.platform {
        Some(p) => p.os == wanted.os && p.architecture == wanted.architecture,
        None => false,
    };
    // Several variants of one architecture: the one without a name, or the first.
    let fitting: Vec<_> = entries.iter().filter(fits).collect();
    let plain = |entry: &&&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_some_and(|p| p.variant.is_empty())
    };
    if let Some(entry) = fitting.iter().find(plain).or(fitting.first()) {
        return Ok(entry);
    }
    if let [only] = entries
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let mut there: Vec<String> = entries
        .iter()
        .filter_map(|e| e.platform.as_ref())
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .collect();
    there.sort();
    there.dedup();
    Err(Error::Unsupported(format!(
        "it is not there for {}/{}, only for {}",
        wanted.os,
        wanted.architecture,
        there.join(", ")
    )))
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    healthcheck: Option<RawHealth>,
    labels: Option<BTreeMap<String, String>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// Durations are nanoseconds; 0 stands for a default.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealth {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u32,
}

impl RawHealth {
    /// None where it says nothing that differs from no health check.
    fn read(self) -> Option<HealthCheck> {
        let ms = |ns: u64| (ns > 0).then(|| ns.div_ceil(1_000_000));
        let health = HealthCheck {
            test: self.test.unwrap_or_default(),
            interval_ms: ms(self.interval),
            timeout_ms: ms(self.timeout),
            start_period_ms: ms(self.start_period),
            start_interval_ms: ms(self.start_interval),
            retries: (self.retries > 0).then_some(self.retries),
        };
        (!health.test.is_empty()).then_some(health)
    }
}

/// Reads a configuration.
pub(crate) fn read_config(bytes: &[u8]) -> Result<ImageFile> {
    let raw: RawImage = serde_json::from_slice(bytes)
        .map_err(|e| Error::Invalid(format!("it is no configuration of an image: {e}")))?;
    let config = raw.config.unwrap_or_default();
    Ok(ImageFile {
        config: ImageConfig {
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            exposed_ports: config
                .exposed_ports
                .unwrap_or_default()
                .into_keys()
                .collect(),
            stop_signal: config.stop_signal.filter(|s| !s.is_empty()),
            health: config.healthcheck.and_then(RawHealth::read),
            labels: config.labels.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        },
        diff_ids: raw.rootfs.diff_ids,
        created: raw.created.and_then(|t| t.parse().ok()),
        architecture: raw.architecture,
    })
}

/// The registry's own words in a refusal, with a colon before them.
pub(super) fn read_errors(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        message: String,
    }
    let errors: Errors = serde_json::from_slice(body).unwrap_or(Errors { errors: Vec::new() });
    let words: Vec<String> = errors
        .errors
        .into_iter()
        .filter(|e| !e.message.is_empty())
        .map(|e| {
            e.message
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect()
        })
        .collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(": {}", words.join(", "))
    }
}
