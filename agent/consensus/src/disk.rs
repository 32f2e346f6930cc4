//! The disk, as this crate sees it: one log database and a few small files that are only ever
//! written whole. Handed in, so that a test or a simulation can lose power at any write.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::StorageBackend;

/// Storage of one node.
pub trait Disk: Send + Sync + 'static {
    /// Opens the log database's storage, creating it empty if there is none.
    ///
    /// # Errors
    /// What the disk says.
    fn open_log(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// The whole file `name`, or `None` if there is none.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the file `name`. When it returns, the new content is durable; after a crash on the
    /// way there is either the old file or the new one.
    ///
    /// # Errors
    /// What the disk says; the old file is then still there.
    fn write_atomic(&self, name: &str, parts: &[&[u8]]) -> io::Result<()>;

    /// Removes the file `name` if there is one.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names of all files written by [`write_atomic`](Self::write_atomic), in any order.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes everything, the log database included. Nobody may have that open.
    ///
    /// # Errors
    /// What the disk says.
    fn clear(&self) -> io::Result<()>;

    /// What differs after the power was lost, so that something written may be gone that was said to be durable. Empty
    /// where that cannot be told.
    fn boot(&self) -> String {
        String::new()
    }

    /// `None` for a real disk, whose calls may block and are made off the async threads. A
    /// simulated disk gives the time that a write is to take: it passes on the runtime's clock,
    /// then the call is made in place, so that the order of all things stays deterministic.
    fn simulated(&self) -> Option<Duration> {
        None
    }
}

/// A directory of the host's file system.
#[derive(Debug, Clone)]
pub struct DirDisk {
    dir: PathBuf,
}

const LOG_FILE: &str = "log.redb";
const TEMPORARY: &str = ".tmp";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl DirDisk {
    /// The directory, which is made (mode 0700) when something is written. One that is there is
    /// closed to others, and what a crash left half written in it is removed: whoever opens it
    /// holds it already (`swarmd` locks its data directory).
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn open(dir: impl AsRef<Path>) -> io::Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", dir.display()));
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { dir }),
            entries => entries.map_err(named)?,
        };
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(named)?;
        for entry in entries {
            let path = entry.map_err(named)?.path();
            if path.to_string_lossy().ends_with(TEMPORARY) {
                fs::remove_file(&path).map_err(named)?;
            }
        }
        Ok(Self { dir })
    }

    fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.dir.display())))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl Disk for DirDisk {
    fn open_log(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.make()?;
        let path = self.dir.join(LOG_FILE);
        let new = !path.exists();
        let file = private(File::options().read(true).write(true).create(true)).open(&path)?;
        if new {
            self.sync_dir()?;
        }
        let backend = redb::backends::FileBackend::new(file)
            .map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
        Ok(Box::new(backend))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write_atomic(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let target = self.dir.join(name);
        let temporary = self.dir.join(format!("{name}{TEMPORARY}"));
        let written = (|| {
            self.make()?;
            let mut file = private(File::options().write(true).create(true).truncate(true))
                .open(&temporary)?;
            for part in parts {
                file.write_all(part)?;
            }
            file.sync_all()?;
            fs::rename(&temporary, &target)
        })();
        if let Err(e) = written {
            // A half-written file would keep the space that may be what is missing.
            let _ = fs::remove_file(&temporary);
            return Err(io::Error::new(
                e.kind(),
                format!("{}: {e}", target.display()),
            ));
        }
        self.sync_dir()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != LOG_FILE && !name.ends_with(TEMPORARY) {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn boot(&self) -> String {
        fs::read_to_string(BOOT_ID)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }
}

fn private(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

/// Runs `work` where the disk may block: in place on a simulated disk, else off the async threads.
pub(crate) async fn run<T: Send + 'static>(
    disk: &std::sync::Arc<dyn Disk>,
    work: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if let Some(latency) = disk.simulated() {
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        return work(disk.as_ref());
    }
    let disk = std::sync::Arc::clone(disk);
    match tokio::task::spawn_blocking(move || work(disk.as_ref())).await {
        Ok(result) => result,
        Err(e) => Err(io::Error::other(format!("disk task: {e}"))),
    }
}
