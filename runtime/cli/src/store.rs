//! What is known of containers, below `--root`: one directory each with a file that is written once, in one piece, and the socket at
//! which the container's process waits for its start. Must not know what a container is made of.

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use swarm_runtime::{
    Error, Result,
    container::{Cgroup, Unit},
};

/// Longest path of a socket (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// All containers of one root.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// What is kept of one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// When the process began, in clock ticks after boot: a number that came to another process is told by it.
    pub(crate) begun: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) cgroup: PathBuf,
    /// The unit whose cgroup that is, where systemd has made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Unit>,
    /// RFC 3339.
    pub(crate) created: String,
}

impl Record {
    /// The container's cgroup.
    pub(crate) fn cgroup(&self) -> Result<Cgroup> {
        Ok(Cgroup::open(&self.cgroup)?.of_unit(self.unit.clone()))
    }
}

/// The directory of one container.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
}

impl Store {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// A new container's place. Two cannot have the same.
    pub(crate) fn add(&self, id: &str) -> Result<Place> {
        let place = self.place(id)?;
        let make = |path: &Path| fs::DirBuilder::new().mode(0o711).create(path);
        let made = match make(&place.directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.root)
                .and_then(|()| make(&place.directory)),
            other => other,
        };
        match made {
            Ok(()) => Ok(place),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::AlreadyExists(
                format!("container with given ID already exists: {id}"),
            )),
            Err(e) => Err(Error::io(
                format!("make the directory {}", place.directory.display()),
                e,
            )),
        }
    }

    /// A container's place, whether there or not.
    pub(crate) fn place(&self, id: &str) -> Result<Place> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id == "." || id == ".." || id.len() > 1024 || !id.chars().all(fits) {
            return Err(Error::Invalid(format!(
                "`{id}` cannot be a container's id: letters, digits and _ + - . are allowed"
            )));
        }
        Ok(Place {
            directory: self.root.join(id),
        })
    }

    /// A container with its spec as it was when it was created.
    pub(crate) fn read(&self, id: &str) -> Result<(Place, Record, Spec)> {
        let place = self.place(id)?;
        let (record, spec) = place.read(id)?;
        Ok((place, record, spec))
    }

    /// The ids of all.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(format!("list {}", self.root.display()), e)),
        };
        let mut ids: Vec<String> = entries
            .filter_map(io::Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| self.root.join(id).join("state").exists())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

impl Place {
    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The socket at which the process waits.
    pub(crate) fn gate(&self) -> Result<PathBuf> {
        let path = self.directory.join("start");
        if path.as_os_str().len() > LONGEST_SOCKET {
            return Err(Error::Invalid(format!(
                "{} is too long for a socket's path: use a shorter --root or id",
                path.display()
            )));
        }
        Ok(path)
    }

    /// Writes everything down: one line with the record, and then the spec as it was given.
    pub(crate) fn write(&self, record: &Record, spec: &[u8]) -> Result<()> {
        let mut text = serde_json::to_vec(record)
            .map_err(|e| Error::Internal(format!("cannot put the container into words: {e}")))?;
        text.push(b'\n');
        text.extend_from_slice(spec);
        replace(&self.state(), &text)
    }

    fn read(&self, id: &str) -> Result<(Record, Spec)> {
        let path = self.state();
        let text = fs::read(&path).map_err(|e| match e.kind() {
            // The words that containerd looks for.
            io::ErrorKind::NotFound => Error::NotFound(format!("container {id} does not exist")),
            _ => Error::io(format!("read {}", path.display()), e),
        })?;
        let damaged = |e: &dyn std::fmt::Display| {
            Error::Internal(format!("{} is damaged: {e}", path.display()))
        };
        let end = text
            .iter()
            .position(|&b| b == b'\n')
            .ok_or_else(|| damaged(&"it has no end"))?;
        let (line, spec) = text.split_at(end);
        Ok((
            serde_json::from_slice(line).map_err(|e| damaged(&e))?,
            serde_json::from_slice(spec).map_err(|e| damaged(&e))?,
        ))
    }

    /// Forgets the container.
    pub(crate) fn remove(&self) -> Result<()> {
        let failed = |e| Error::io(format!("remove {}", self.directory.display()), e);
        // The usual case in the fewest steps.
        let _ = fs::remove_file(self.state());
        match fs::remove_dir(&self.directory) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                fs::remove_dir_all(&self.directory).map_err(failed)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed),
        }
    }
}

/// Writes a file so that nobody sees half of it.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |e| Error::io(format!("write {}", path.display()), e);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::File::create(&new)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&new, path))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_no_path() {
        let store = Store::new(Path::new("/nowhere"));
        for bad in ["", ".", "..", "a/b", "ä", "a b"] {
            assert!(store.place(bad).is_err(), "{bad}");
        }
        assert!(store.place("redis_6.2+x-1").is_ok());
    }
}
