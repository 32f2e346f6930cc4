//! Network namespaces: made and joined with `ip`, entered by a thread.

use crate::command;
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Where `ip netns` keeps them (ip-netns(8)).
pub const FOLDER: &str = "/run/netns";

/// A network namespace with a name. It stays until [`Netns::delete`].
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one, with its loopback up.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let made = Self { name: name.into() };
        made.ip(&["link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// One that was or will be made by this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it can be opened.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// The number by which the kernel knows it, as in `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn inode(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.path())?.ino())
    }

    /// Runs `ip ARGS` inside.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.name], args].concat())
    }

    /// Runs `work` on a thread that is inside; sockets that it opens and processes that it starts are inside too.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and those of `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(self.path())
                    .with_context(|| format!("there is no network namespace {}", self.name))?;
                setns(file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter network namespace {}", self.name))?;
                work()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Removes its name; the kernel removes the rest when the last process in it has ended.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn delete(&self) -> Result<()> {
        ip(&["netns", "del", &self.name]).map(drop)
    }
}

/// Runs `ip ARGS`.
///
/// # Errors
/// What it says.
pub fn ip(args: &[&str]) -> Result<String> {
    let output = command::run(Command::new("ip").args(args), Duration::from_secs(20))?;
    Ok(output.ok()?.stdout)
}
