//! What makes this host a member, on its disk: one file, `DATA/identity/member.json`, written whole, readable by root
//! only. It knows nothing of certificates' contents or of the network.

use crate::world::World;
use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use swarm_api::model::{NodeId, NodeRole};
use swarm_api::{Error, Result};
use swarm_consensus::Disk;

/// Where the log and the replica are kept.
pub(crate) const RAFT: &str = "raft";
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
    pub(crate) fn exists(world: &World) -> bool {
        // A file that cannot be read is one.
        let read = folder(world).and_then(|folder| folder.read(FILE));
        !matches!(read, Ok(None))
    }

    /// # Errors
    /// When the file cannot be read or understood.
    pub(crate) fn load(world: &World) -> Result<Self> {
        let failed = |what: &dyn std::fmt::Display| {
            let dir = world.storage.describe(DIR);
            Error::Internal(format!(
                "cannot read this host's identity {dir}/{FILE}: {what}; restore the file, or remove {dir} and join again"
            ))
        };
        let read = folder(world).and_then(|folder| folder.read(FILE));
        let bytes = read
            .and_then(|bytes| bytes.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|e| failed(&e))?;
        serde_json::from_slice(&bytes).map_err(|e| failed(&e))
    }

    /// # Errors
    /// When the file cannot be written; the old one is then as it was.
    pub(crate) fn save(&self, world: &World) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        write_private(world, FILE, &bytes)
    }
}

fn folder(world: &World) -> io::Result<Arc<dyn Disk>> {
    world.storage.folder(DIR)
}

/// Writes `DATA/identity/NAME` whole: after a crash there is the old file or the new one.
pub(crate) fn write_private(world: &World, name: &str, bytes: &[u8]) -> Result<()> {
    let written = folder(world).and_then(|folder| folder.write_atomic(name, &[bytes]));
    written.map_err(|e| {
        let text = format!("cannot write {}/{name}: {e}", world.storage.describe(DIR));
        if e.kind() == io::ErrorKind::StorageFull {
            Error::Exhausted(text)
        } else {
            Error::Internal(text)
        }
    })
}

pub(crate) fn read_private(world: &World, name: &str) -> Option<Vec<u8>> {
    folder(world).ok()?.read(name).ok()?
}

/// Removes everything that a host knows of its cluster; the identity first, so that it is no member from then on.
pub(crate) fn wipe(world: &World) -> io::Result<()> {
    let identity = folder(world)?;
    identity.remove(FILE)?;
    identity.clear()?;
    world.storage.folder(RAFT)?.clear()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    #[test]
    fn only_root_can_read_it_and_it_reads_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::system(dir.path());
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
        assert!(!Identity::exists(&world));
        identity.save(&world).unwrap();
        let folder = dir.path().join(DIR);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        identity.save(&world).unwrap();
        assert!(Identity::load(&world).unwrap() == identity);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.join(FILE)), 0o600);
        assert_eq!(mode(&folder), 0o700);
        wipe(&world).unwrap();
        assert!(!Identity::exists(&world) && !folder.exists());
        wipe(&world).unwrap();
    }
}
