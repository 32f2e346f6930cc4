//! The host's records as JSON files: `host/services/ID.json`, and for each task a folder `host/tasks/ID` with
//! `record.json` and the files that its container is given. Must not know what is in a record.

use crate::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use swarm_api::model::Id;

const RECORD: &str = "record.json";

/// The folder of the records.
#[derive(Debug)]
pub(super) struct Disk {
    services: PathBuf,
    tasks: PathBuf,
}

impl Disk {
    pub(super) fn open(data_dir: &Path) -> Result<Self> {
        let host = data_dir.join("host");
        let disk = Self {
            services: host.join("services"),
            tasks: host.join("tasks"),
        };
        for dir in [&disk.services, &disk.tasks] {
            std::fs::create_dir_all(dir)
                .map_err(|e| Error::io(format!("make the directory {}", dir.display()), e))?;
        }
        Ok(disk)
    }

    /// The folder of one task.
    pub(super) fn task_dir(&self, id: &Id) -> PathBuf {
        self.tasks.join(id.as_str())
    }

    /// Writes a service's record; it is on the disk when this returns.
    pub(super) fn save_service(&self, id: &Id, record: &impl Serialize) -> Result<()> {
        save(&self.services.join(format!("{id}.json")), record, true)
    }

    pub(super) fn remove_service(&self, id: &Id) -> Result<()> {
        let path = self.services.join(format!("{id}.json"));
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), e))
            }
            _ => sync(&self.services),
        }
    }

    /// Writes a task's record. A power cut may lose it: what it says is made again from the services or the cluster.
    pub(super) fn save_task(&self, id: &Id, record: &impl Serialize) -> Result<()> {
        let dir = self.task_dir(id);
        let is_new = match std::fs::create_dir(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(
                    format!("make the directory {}", dir.display()),
                    e,
                ));
            }
            made => made.is_ok(),
        };
        let saved = save(&dir.join(RECORD), record, false);
        if saved.is_err() && is_new {
            // Nobody knows of the task then, and nobody would remove its folder.
            let _ = std::fs::remove_dir(&dir);
        }
        saved
    }

    pub(super) fn remove_task(&self, id: &Id) -> Result<()> {
        let dir = self.task_dir(id);
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", dir.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// All services' records that can be read.
    pub(super) fn services<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let files = entries(&self.services)?;
        let files = files
            .iter()
            .filter(|p| p.extension().is_some_and(|e| e == "json"));
        Ok(files.filter_map(|path| load(path)).collect())
    }

    /// All tasks' records that can be read. Folders without one go.
    pub(super) fn tasks<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let mut found = Vec::new();
        for dir in entries(&self.tasks)? {
            match load(&dir.join(RECORD)) {
                Some(record) => found.push(record),
                None => {
                    if let Err(why) = std::fs::remove_dir_all(&dir) {
                        tracing::warn!(%why, dir = %dir.display(), "cannot remove a task's folder");
                    }
                }
            }
        }
        Ok(found)
    }
}

fn save(path: &Path, record: &impl Serialize, durable: bool) -> Result<()> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let json = serde_json::to_vec(record)?;
        let mut file = File::create(&new)?;
        file.write_all(&json)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&new, path)
    };
    if let Err(e) = write() {
        let _ = std::fs::remove_file(&new);
        return Err(Error::io(format!("write {}", path.display()), e));
    }
    match path.parent() {
        Some(folder) if durable => sync(folder),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::io(format!("sync {}", folder.display()), e))
}

fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let read = || -> std::io::Result<T> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    match read() {
        Ok(record) => Some(record),
        Err(why) => {
            tracing::warn!(%why, path = %path.display(), "a record cannot be read and is left out");
            None
        }
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let reading = |e| Error::io(format!("read {}", dir.display()), e);
    std::fs::read_dir(dir)
        .map_err(reading)?
        .map(|entry| entry.map(|e| e.path()).map_err(reading))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a record on a disk without room.
    struct Unwritable;

    impl Serialize for Unwritable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no space left on device"))
        }
    }

    #[test]
    fn a_task_whose_record_cannot_be_written_leaves_no_folder() {
        let data = tempfile::tempdir().unwrap();
        let disk = Disk::open(data.path()).unwrap();
        let id = Id::from_u64(1);
        assert!(disk.save_task(&id, &Unwritable).is_err());
        assert!(!disk.task_dir(&id).exists());
        // One that is there stays as it was.
        disk.save_task(&id, &"first").unwrap();
        assert!(disk.save_task(&id, &Unwritable).is_err());
        assert_eq!(disk.tasks::<String>().unwrap(), ["first"]);
    }
}
