//! The agent of an ordinary user: one host's runtime in a user namespace of that user's, without a cluster. Must not know how such a
//! namespace is made.

use crate::config::Config;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use std::convert::Infallible;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use swarm_api::control::{Joined, Token};
use swarm_api::model::NodeRole;
use swarm_api::{Control, Error};
use swarm_runtime::container::{self, rootless};
use tracing::warn;

/// What the agent is called in the namespace.
const NAME: &str = "swarmd-rootless";

/// Whether an ordinary user runs this program.
#[must_use]
pub fn is() -> bool {
    !rootless::is_root() || rootless::entered_as(NAME)
}

/// Where an ordinary user's images and containers are kept if nothing is said.
///
/// # Errors
/// Where the user has no home.
pub fn data_dir() -> Result<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    folder("XDG_DATA_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("swarmd"))
        .context("there is no place for this user's data: set HOME, or give one with --data-dir")
}

/// Where an ordinary user's sockets are if nothing is said.
///
/// # Errors
/// Where the user has no such folder.
pub fn run_dir() -> Result<PathBuf> {
    rootless::runtime_dir().map(|dir| dir.join("swarmd")).context(
        "there is no place for this user's sockets: set XDG_RUNTIME_DIR, or give one with --run-dir",
    )
}

/// Executes the program anew as root of the user's namespace: the one that containers of an earlier life are in, or a new one. Does nothing
/// where it is there already. The caller must be single-threaded.
///
/// # Errors
/// Where this host does not let the user have such a namespace.
pub fn enter(data_dir: &Path) -> Result<()> {
    if rootless::is_root() {
        return Ok(());
    }
    let never: Infallible = match keeper(data_dir) {
        Some(pid) => rootless::join(NAME, pid, false, true)?,
        None => rootless::enter(NAME)?,
    };
    match never {}
}

/// Becomes another program, as root of the user's namespace. Returns why it could not. The caller must be single-threaded.
#[must_use]
pub fn run(program: &[OsString]) -> anyhow::Error {
    if !rootless::is_root()
        && let Err(why) = rootless::enter(NAME)
    {
        return why.into();
    }
    let Some((name, arguments)) = program.split_first() else {
        return anyhow::anyhow!("there is no program to run");
    };
    let why = std::process::Command::new(name).args(arguments).exec();
    anyhow::Error::new(why).context(format!("cannot run {}", name.display()))
}

/// Where containers' cgroups are made: in what was delegated to the user.
///
/// # Errors
/// Where that cannot be used.
pub fn settle(config: &mut Config) -> Result<()> {
    if !config.rootless {
        return Ok(());
    }
    match container::delegated()? {
        Some(base) => {
            let Some(base) = base.to_str() else {
                bail!("the cgroup of this program has a name that is no text");
            };
            config.cgroup_parent = format!("{base}/{}", config.cgroup_parent);
        }
        None => warn!(
            "this user has no cgroup to make others in: containers have no limits and no statistics (a user's service or scope with \
             Delegate=yes has one, see docs/operations.md)"
        ),
    }
    if rootless::has_one_id() {
        warn!(
            "this user has no subordinate ids, or newuidmap is not installed: containers have no user but root (see docs/operations.md)"
        );
    }
    Ok(())
}

/// The process that keeps a container of an earlier life, if one runs still: it is in the user's namespace.
fn keeper(data_dir: &Path) -> Option<i32> {
    let containers = data_dir.canonicalize().ok()?.join("containers");
    let keeps = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        words.next().is_some_and(|name| name == "swarmd-shim")
            && words.any(|word| Path::new(&*word).parent() == Some(&containers))
    };
    std::fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|&pid| keeps(pid))
}

/// What answers who wants such a host in a cluster.
pub struct Alone;

fn alone<T>() -> swarm_api::Result<T> {
    Err(Error::Unsupported(
        "this agent is an ordinary user's: it runs containers on its own host alone, without a cluster; for a cluster run swarmd as root"
            .into(),
    ))
}

#[async_trait]
impl Control for Alone {
    async fn init(&self, _: Option<IpAddr>) -> swarm_api::Result<Joined> {
        alone()
    }

    async fn join(&self, _: String, _: String, _: Option<IpAddr>) -> swarm_api::Result<Joined> {
        alone()
    }

    async fn leave(&self, _: bool) -> swarm_api::Result<()> {
        alone()
    }

    async fn create_token(&self, _: NodeRole, _: Duration) -> swarm_api::Result<Token> {
        alone()
    }

    async fn list_tokens(&self) -> swarm_api::Result<Vec<Token>> {
        alone()
    }

    async fn remove_token(&self, _: String) -> swarm_api::Result<()> {
        alone()
    }
}
