//! A folder to unpack and resolve in, and what lies around it, which nothing may touch.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);
const CANARY: &str = "canary";

/// `root` in a folder of its own, beside a canary. It goes when this does.
#[derive(Debug)]
pub(crate) struct Sandbox {
    around: PathBuf,
    before: Vec<(PathBuf, u64, u32, i64, i64)>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let around = base.join(format!("swarm-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(around.join("root")).unwrap();
        std::fs::create_dir(around.join("outside")).unwrap();
        std::fs::write(around.join(CANARY), "untouched").unwrap();
        std::fs::write(around.join("outside").join(CANARY), "untouched").unwrap();
        let before = look(&around);
        Self { around, before }
    }

    /// The folder that everything must stay in.
    pub(crate) fn root(&self) -> PathBuf {
        self.around.join("root")
    }

    /// Panics if anything has happened outside of it.
    pub(crate) fn check(&self) {
        assert_eq!(
            self.before,
            look(&self.around),
            "something outside of the root was changed"
        );
        for absolute in [
            "/canary",
            "/escaped",
            "/dev/escaped",
            "/proc/escaped",
            "/tmp/escaped",
        ] {
            assert!(
                std::fs::symlink_metadata(absolute).is_err(),
                "{absolute} was made on the host"
            );
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.around);
    }
}

/// All there is around the root, with what would change if it was written to.
fn look(around: &Path) -> Vec<(PathBuf, u64, u32, i64, i64)> {
    let outside = around.join("outside");
    let mut found = Vec::new();
    for path in [around, &outside] {
        let mut names: Vec<PathBuf> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.push(path.to_owned());
        names.sort();
        for name in names {
            let meta = std::fs::symlink_metadata(&name).unwrap();
            // The root's own attributes may change.
            if name.ends_with("root") {
                found.push((name, meta.ino(), 0, 0, 0));
            } else {
                let (mode, size) = (meta.mode(), meta.size().cast_signed());
                found.push((name, meta.ino(), mode, size, meta.mtime_nsec()));
            }
        }
    }
    found
}
