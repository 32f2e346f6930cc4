//! An image: a name for layers and a configuration.

use super::Timestamp;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// An image's name and tag, `name:tag`; the tag defaults to `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    name: String,
    tag: String,
}

impl ImageReference {
    /// The part before the tag.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl std::str::FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Err(Error::Invalid(format!(
                "\"{text}\" is not an image name: {why}; write NAME or NAME:TAG, such as whoami or team/web:1.2"
            )))
        };
        let (name, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (text, "latest"),
        };
        if name.is_empty() || tag.is_empty() {
            return bad("a part of it is empty");
        }
        if text.len() > 255 {
            return bad("it is longer than 255 characters");
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
        })
    }
}

impl std::fmt::Display for ImageReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
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
}

/// An image that a host or a cluster knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub reference: ImageReference,
    /// `sha256:` and 64 hexadecimal digits: the digest of its manifest.
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
}
