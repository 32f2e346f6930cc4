//! An image: a name for layers and a configuration.

use super::Timestamp;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An image's name, with a tag, a digest or both: `NAME:TAG`, `NAME@sha256:…`, `NAME:TAG@sha256:…`. Where neither is
/// given, the tag is `latest`.
///
/// The first part of the name is a registry where it has a dot or a colon or is `localhost`, and something follows:
/// `docker.io/library/nginx:1.27`, `localhost:5000/team/web`. All other names stand for what the host or the cluster
/// knows by them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    name: String,
    /// Empty where there is only a digest.
    tag: String,
    digest: Option<String>,
}

impl ImageReference {
    /// The part before the tag and the digest.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag; empty where there is only a digest.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The digest of its manifest, `sha256:` and 64 digits, where it is named by that.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The registry, `HOST` or `HOST:PORT`, where the name has one.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        let (first, _) = self.name.split_once('/')?;
        (first == "localhost" || first.contains(['.', ':'])).then_some(first)
    }

    /// The name without its registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        match self.registry() {
            Some(registry) => &self.name[registry.len() + 1..],
            None => &self.name,
        }
    }

    /// The same name with the digest of a manifest: it stands for the same bytes from then on.
    ///
    /// # Errors
    /// [`Error::Invalid`] where that is no digest.
    pub fn pinned(&self, digest: &str) -> Result<Self> {
        check_digest(digest)?;
        Ok(Self {
            digest: Some(digest.to_owned()),
            ..self.clone()
        })
    }

    /// What a registry is asked for: the digest, and the tag where there is none.
    #[must_use]
    pub fn selector(&self) -> &str {
        self.digest().unwrap_or(&self.tag)
    }
}

fn check_digest(digest: &str) -> Result<()> {
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(lower_hex) => Ok(()),
        _ => Err(Error::Invalid(format!(
            "\"{digest}\" is not a digest: expected sha256: and 64 digits 0-9 a-f"
        ))),
    }
}

impl std::str::FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Err(Error::Invalid(format!(
                "\"{text}\" is not an image name: {why}; write NAME, NAME:TAG or NAME@sha256:DIGEST, such as whoami, \
                 team/web:1.2 or docker.io/library/nginx:1.27"
            )))
        };
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest
            && let Err(why) = check_digest(digest)
        {
            return bad(&why.to_string());
        }
        let (name, tag) = match named.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                if tag.is_empty() {
                    return bad("a part of it is empty");
                }
                (name, tag)
            }
            _ if digest.is_some() => (named, ""),
            _ => (named, "latest"),
        };
        if name.is_empty() {
            return bad("a part of it is empty");
        }
        // Each for itself, so that a name that is accepted is accepted as well when it is written with the tag that it lacks.
        if name.len() > 255 {
            return bad("its name is longer than 255 characters");
        }
        if tag.len() > 128 {
            return bad("its tag is longer than 128 characters");
        }
        let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(c) = name
            .chars()
            .find(|c| !(ok(*c) && !c.is_ascii_uppercase() || matches!(c, '/' | ':')))
        {
            return bad(&format!("its name has the character {c:?}"));
        }
        if let Some(c) = tag.chars().find(|c| !ok(*c)) {
            return bad(&format!("its tag has the character {c:?}"));
        }
        Ok(Self {
            name: name.into(),
            tag: tag.into(),
            digest: digest.map(str::to_owned),
        })
    }
}

impl std::fmt::Display for ImageReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if !self.tag.is_empty() {
            write!(f, ":{}", self.tag)?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for ImageReference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

/// What an image says of the process that it is for (OCI image-spec, config.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct ImageConfig {
    /// Run before the arguments.
    pub entrypoint: Vec<String>,
    /// The arguments where the user gives none.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; `/` if empty.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`; root if empty.
    pub user: String,
    /// Ports that it listens on, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// The signal that stops it; SIGTERM if none.
    pub stop_signal: Option<String>,
    /// How to find out whether it does its work, where it says so.
    pub health: Option<HealthCheck>,
    /// For people and for filters.
    pub labels: BTreeMap<String, String>,
    /// Absolute paths that a container keeps outside of its writable layer.
    pub volumes: Vec<String>,
}

/// How to find out whether a container does its work (Docker's `HEALTHCHECK`). What is `None` has a default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct HealthCheck {
    /// `NONE`, or `CMD` and a program with its arguments, or `CMD-SHELL` and a line for the shell, or `HTTP`, a port and a
    /// path, or `TCP` and a port. Empty in a task: as its image has it.
    pub test: Vec<String>,
    /// Milliseconds between two checks.
    pub interval_ms: Option<u64>,
    /// Milliseconds that one check may take.
    pub timeout_ms: Option<u64>,
    /// Milliseconds after its start in which failures do not count.
    pub start_period_ms: Option<u64>,
    /// Milliseconds between two checks in that time.
    pub start_interval_ms: Option<u64>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u32>,
}

/// An image that a host or a cluster knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub reference: ImageReference,
    /// `sha256:` and 64 hexadecimal digits: that of its configuration file, which names its layers (Docker's image id).
    /// Images of one digest run alike.
    pub digest: String,
    /// Digests of its layers, lowest first (`sha256:…` of the uncompressed tar, the OCI diff id).
    pub layers: Vec<String>,
    /// Bytes of its layers, uncompressed.
    pub size: u64,
    /// How to run it.
    pub config: ImageConfig,
    /// When it was made or imported.
    pub created_at: Timestamp,
    /// Whether it came with the binary.
    pub builtin: bool,
    /// The digest of the manifest that a registry gave for it (OCI distribution-spec), where it came from one.
    #[serde(default)]
    pub manifest: Option<String>,
}

impl Image {
    /// The digests of all that a host must have for it: its layers, lowest first, its configuration file, and the
    /// manifest of its registry.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        let layers = self.layers.iter();
        let documents = std::iter::once(&self.digest).chain(&self.manifest);
        layers.chain(documents).cloned().collect()
    }
}

/// One step in which an image was made (OCI image-spec, config.md: history).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct HistoryEntry {
    /// When.
    pub created_at: Option<Timestamp>,
    /// By which command.
    pub created_by: String,
    /// In whose words.
    pub comment: String,
    /// By whom.
    pub author: String,
    /// The digest of the layer that it made, if it made one.
    pub layer: Option<String>,
    /// Bytes of that layer, uncompressed.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    #[test]
    fn a_registry_is_what_has_a_dot_or_a_port_or_is_localhost() {
        for (text, registry, repository) in [
            (
                "docker.io/library/nginx:1.27",
                Some("docker.io"),
                "library/nginx",
            ),
            (
                "localhost:5000/team/web",
                Some("localhost:5000"),
                "team/web",
            ),
            ("localhost/web:1", Some("localhost"), "web"),
            ("10.0.0.1:5000/a", Some("10.0.0.1:5000"), "a"),
            ("whoami", None, "whoami"),
            ("web.v2:1.0", None, "web.v2"),
            ("team/web:1.2", None, "team/web"),
        ] {
            let reference = parse(text);
            assert_eq!(
                (reference.registry(), reference.repository()),
                (registry, repository),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_is_written_as_it_is_read() {
        for (text, whole) in [
            ("whoami".to_owned(), "whoami:latest".to_owned()),
            (
                "localhost:5000/web".into(),
                "localhost:5000/web:latest".into(),
            ),
            (format!("a.b/web@{DIGEST}"), format!("a.b/web@{DIGEST}")),
            (
                format!("a.b:1/web:2@{DIGEST}"),
                format!("a.b:1/web:2@{DIGEST}"),
            ),
        ] {
            assert_eq!(parse(&text).to_string(), whole);
            assert_eq!(parse(&whole), parse(&text));
        }
        let pinned = parse("a.b/web:2").pinned(DIGEST).unwrap();
        assert_eq!((pinned.selector(), pinned.tag()), (DIGEST, "2"));
        assert_eq!(parse("a.b/web").selector(), "latest");
        for bad in [
            "",
            ":1",
            "a:",
            "a@",
            "a@sha256:12",
            "A",
            "@sha256:12",
            "a@sha512:ab",
            "a:b c",
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad}");
        }
    }

    /// Found by fuzzing: the tag that is added made some names too long to be read again.
    #[test]
    fn the_longest_name_can_be_read_again() {
        let name = "a".repeat(255);
        let written = parse(&name).to_string();
        assert_eq!(parse(&written), parse(&name));
        assert!("a".repeat(256).parse::<ImageReference>().is_err());
        assert!(
            format!("a:{}", "b".repeat(129))
                .parse::<ImageReference>()
                .is_err()
        );
    }
}
