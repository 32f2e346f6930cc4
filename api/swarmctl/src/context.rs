//! What every command needs: where to ask, how to print.

use crate::cli::{Format, Global};
use crate::failure;
use crate::render;
use anyhow::Result;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use swarm_api::grpc::Client;
use swarm_api::model::{Answer, Freshness, Read};

/// An agent's sockets: for the cluster, and for its host alone.
const CLUSTER: &str = "cluster.sock";
const HOST: &str = "host.sock";

/// Where an agent's socket is: in this user's own folder, if an agent of this user was started, or in the system's.
fn socket(name: &str, own: Option<&Path>) -> String {
    let own = own
        .map(|folder| folder.join("swarmd").join(name))
        .filter(|path| path.exists());
    let path = own.unwrap_or_else(|| Path::new("/run/swarmd").join(name));
    format!("unix://{}", path.display())
}

fn own_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    named.or_else(|| {
        let user = rustix::process::getuid().as_raw();
        (user != 0).then(|| format!("/run/user/{user}").into())
    })
}

/// The agent to ask if nothing is said.
pub(crate) fn default_agent() -> String {
    socket(CLUSTER, own_folder().as_deref())
}

/// The global flags, put to use.
pub(crate) struct Context {
    global: Global,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self { global }
    }

    /// Connects to the agent.
    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(Client::connect(&target(&self.global.host)).await?)
    }

    pub(crate) fn json(&self) -> bool {
        self.global.output == Format::Json
    }

    pub(crate) fn read(&self) -> Read {
        if self.global.stale {
            Read::Stale
        } else {
            Read::Linearizable
        }
    }

    /// The answer itself. Where it is stale, that is said on standard error.
    pub(crate) fn fresh<T>(&self, answer: Answer<T>) -> T {
        if let Some(warning) = staleness(&answer.freshness) {
            failure::say(&warning);
        }
        answer.value
    }

    /// Prints the name of what was done with; programs know it.
    pub(crate) fn done(&self, name: &str) -> Result<()> {
        if self.json() { Ok(()) } else { out(name) }
    }

    /// Prints `value` as JSON, or what `text` makes of it.
    pub(crate) fn print<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        if self.json() {
            json(value)
        } else {
            out(&text(value))
        }
    }
}

fn target(host: &str) -> String {
    if host == "local" {
        socket(HOST, own_folder().as_deref())
    } else {
        host.to_owned()
    }
}

/// Prints pretty JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<()> {
    out(&serde_json::to_string_pretty(value)?)
}

/// Prints JSON in one line.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<()> {
    out(&serde_json::to_string(value)?)
}

/// Prints text; a line end is put after it where it has none.
pub(crate) fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}

fn staleness(freshness: &Freshness) -> Option<String> {
    if !freshness.stale {
        return None;
    }
    let age = freshness.age_ms.map(|ms| {
        format!(
            ", {} old",
            render::duration(std::time::Duration::from_millis(ms))
        )
    });
    Some(format!(
        "warning: this answer is stale{}: the node could not confirm it with a quorum (log index {})",
        age.unwrap_or_default(),
        freshness.index
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stale_answer_is_warned_of_with_its_age() {
        assert_eq!(staleness(&Freshness::default()), None);
        let stale = Freshness {
            index: 7,
            stale: true,
            age_ms: Some(65_000),
        };
        let warning = staleness(&stale).unwrap();
        assert!(warning.contains("stale, 1m old"), "{warning}");
    }

    #[test]
    fn local_is_this_host_s_own_socket() {
        let own = tempfile::tempdir().unwrap();
        let local = |own| socket(HOST, own);
        assert_eq!(local(None), "unix:///run/swarmd/host.sock");
        assert_eq!(local(Some(own.path())), "unix:///run/swarmd/host.sock");
        std::fs::create_dir(own.path().join("swarmd")).unwrap();
        std::fs::write(own.path().join("swarmd").join(HOST), "").unwrap();
        assert_eq!(
            local(Some(own.path())),
            format!("unix://{}/swarmd/host.sock", own.path().display())
        );
        assert_eq!(target("http://h:1"), "http://h:1");
    }
}
