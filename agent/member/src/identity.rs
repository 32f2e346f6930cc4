//! What makes this host a member, on its disk: one file, `DATA/identity/member.json`, written whole, readable by root
//! only. It knows nothing of certificates' contents or of the network.

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use swarm_api::model::{NodeId, NodeRole};
use swarm_api::{Error, Result};

const DIR: &str = "identity";
const FILE: &str = "member.json";

/// Bytes that are base64 in a file, and never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.serialize_str(&BASE64.encode(&self.0))
        } else {
            self.0.serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        if !d.is_human_readable() {
            return Vec::deserialize(d).map(Self);
        }
        let text = String::deserialize(d)?;
        let bytes = BASE64.decode(text.as_bytes());
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

/// What members share and nobody else may know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// The CA's key, PKCS #8; managers only.
    pub(crate) ca_key: Option<Blob>,
    /// The gossip keys by id; 32 bytes each.
    pub(crate) gossip: BTreeMap<u32, Blob>,
    /// Which of them seals.
    pub(crate) sealing: u32,
}

/// What makes this host a member.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) node: NodeId,
    pub(crate) role: NodeRole,
    /// PKCS #8.
    pub(crate) key: Blob,
    /// X.509, DER.
    pub(crate) certificate: Blob,
    /// X.509, DER.
    pub(crate) ca: Blob,
    pub(crate) secrets: Secrets,
}

impl Identity {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(DIR).join(FILE)
    }

    pub(crate) fn exists(data_dir: &Path) -> bool {
        Self::path(data_dir).exists()
    }

    /// # Errors
    /// When the file cannot be read or understood.
    pub(crate) fn load(data_dir: &Path) -> Result<Self> {
        let path = Self::path(data_dir);
        let failed = |what: String| {
            Error::Internal(format!(
                "cannot read this host's identity {}: {what}; restore the file, or remove {} and join again",
                path.display(),
                data_dir.join(DIR).display()
            ))
        };
        let bytes = fs::read(&path).map_err(|e| failed(e.to_string()))?;
        let mode = fs::metadata(&path)
            .map_err(|e| failed(e.to_string()))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "the identity could be read by others (mode {:o}); only root may now", mode & 0o777);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .map_err(|e| failed(e.to_string()))?;
        }
        serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))
    }

    /// # Errors
    /// When the file cannot be written; the old one is then as it was.
    pub(crate) fn save(&self, data_dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        write_private(data_dir, FILE, &bytes)
    }
}

/// Writes `DATA/identity/NAME` whole: after a crash there is the old file or the new one.
pub(crate) fn write_private(data_dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let dir = data_dir.join(DIR);
    let written = (|| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let temporary = dir.join(format!("{name}.tmp"));
        let _ = fs::remove_file(&temporary);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(name))?;
        File::open(&dir)?.sync_all()
    })();
    written.map_err(|e: io::Error| {
        let text = format!("cannot write {}: {e}", dir.join(name).display());
        if e.kind() == io::ErrorKind::StorageFull {
            Error::Exhausted(text)
        } else {
            Error::Internal(text)
        }
    })
}

pub(crate) fn read_private(data_dir: &Path, name: &str) -> Option<Vec<u8>> {
    fs::read(data_dir.join(DIR).join(name)).ok()
}

/// Removes everything that a host knows of its cluster; the identity first, so that it is no member from then on.
pub(crate) fn wipe(data_dir: &Path) -> io::Result<()> {
    let gone = |done: io::Result<()>| match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    gone(fs::remove_file(Identity::path(data_dir)))?;
    gone(fs::remove_dir_all(data_dir.join(DIR)))?;
    gone(fs::remove_dir_all(raft_dir(data_dir)))
}

/// Where the log and the replica are kept.
pub(crate) fn raft_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("raft")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_can_read_it_and_it_reads_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity {
            cluster: "c".into(),
            node: NodeId(7),
            role: NodeRole::Manager,
            key: Blob(vec![1, 2, 3]),
            certificate: Blob(vec![4]),
            ca: Blob(vec![5]),
            secrets: Secrets {
                ca_key: Some(Blob(vec![6])),
                gossip: BTreeMap::from([(1, Blob(vec![7; 32]))]),
                sealing: 1,
            },
        };
        assert!(!Identity::exists(dir.path()));
        identity.save(dir.path()).unwrap();
        identity.save(dir.path()).unwrap();
        assert!(Identity::load(dir.path()).unwrap() == identity);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(Identity::path(dir.path())), 0o600);
        assert_eq!(mode(dir.path().join(DIR)), 0o700);
        wipe(dir.path()).unwrap();
        assert!(!Identity::exists(dir.path()) && !dir.path().join(DIR).exists());
        wipe(dir.path()).unwrap();
    }
}
