//! Reading and writing the kernel's small files, and removing directories of them. Knows no controller.

use crate::{Error, Result};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

/// How long the last processes of a cgroup are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file's text.
pub(super) fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(|e| missing(path, "read", e))?;
    Ok(text)
}

/// The number that a file consists of.
pub(super) fn number(path: &Path) -> Result<u64> {
    let text = read(path)?;
    text.trim().parse().map_err(|_| {
        Error::Internal(format!(
            "{} has no number but `{}`",
            path.display(),
            text.trim()
        ))
    })
}

/// The number behind a key in a file of `key number` lines.
pub(super) fn keyed(path: &Path, key: &str) -> Result<u64> {
    Ok(value(&read(path)?, key).unwrap_or(0))
}

/// The number behind a key in a text of `key number` lines.
pub(super) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Writes a value, in one piece.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|e| missing(path, &format!("write `{value}` to"), e))
}

/// Writes several values, each in one piece.
pub(super) fn write_each<'a>(path: &Path, values: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| missing(path, "open", e))?;
    for value in values {
        file.write_all(value.as_bytes())
            .map_err(|e| missing(path, &format!("write `{value}` to"), e))?;
    }
    Ok(())
}

/// An error, `NotFound` where the file is not there.
fn missing(path: &Path, verb: &str, error: io::Error) -> Error {
    // ENODEV: the cgroup was removed while the file was open.
    if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) {
        Error::NotFound(format!("cannot {verb} {}: it is not there", path.display()))
    } else {
        Error::io(format!("{verb} {}", path.display()), error)
    }
}

/// Makes a cgroup and what is missing above it. It may be there already if no process is in it.
pub(super) fn make(path: &Path) -> Result<()> {
    let attempt = |e| Error::io(format!("make the cgroup {}", path.display()), e);
    match fs::create_dir(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(attempt)?;
            }
            match fs::create_dir(path) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(attempt(e)),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(attempt(e)),
    }
    if read(&path.join("cgroup.procs"))?.trim().is_empty() {
        Ok(())
    } else {
        Err(Error::AlreadyExists(format!(
            "the cgroup {} has processes in it already; give every container its own cgroupsPath",
            path.display()
        )))
    }
}

/// The processes in a cgroup and below it.
pub(super) fn pids(path: &Path) -> Result<Vec<i32>> {
    let text = match read(&path.join("cgroup.procs")) {
        Ok(text) => text,
        Err(Error::NotFound(_)) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(path) {
        pids.extend(self::pids(&child)?);
    }
    Ok(pids)
}

/// Removes a cgroup with those below it. While it is busy `wait` is asked to wait for the event that ends that, at most as long
/// as it is told.
pub(super) fn remove(path: &Path, mut wait: impl FnMut(Duration)) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let busy = match remove_once(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => e,
            Err(e) => {
                return Err(Error::io(
                    format!("remove the cgroup {}", path.display()),
                    e,
                ));
            }
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Conflict(format!(
                "cannot remove the cgroup {}: {busy}; there are still processes in it: {:?}",
                path.display(),
                pids(path).unwrap_or_default()
            )));
        }
        wait(left);
    }
}

/// Removes a cgroup that has nothing in it.
pub(super) fn remove_now(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(
            format!("remove the cgroup {}", path.display()),
            e,
        )),
        _ => Ok(()),
    }
}

fn remove_once(path: &Path) -> io::Result<()> {
    let gone = |e: io::Error| {
        if e.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(e)
        }
    };
    let Err(first) = fs::remove_dir(path).or_else(gone) else {
        return Ok(());
    };
    let below = children(path);
    if below.is_empty() {
        return Err(first);
    }
    for child in below {
        remove_once(&child)?;
    }
    fs::remove_dir(path).or_else(gone)
}

fn children(path: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
