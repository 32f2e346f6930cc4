//! One host: a network namespace with an address, folders, control groups, and `swarmd` in it.

use crate::command::{self, Output, Spawned};
use crate::netns::Netns;
use crate::pty::Terminal;
use crate::{cgroups, clean, http, processes, wait_until};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The agents' port, `swarmd`'s default.
pub const AGENT_PORT: u16 = 7946;
/// What every command of `swarmctl` ends within, unless it is one that waits.
pub const SOON: Duration = Duration::from_secs(30);
/// What an agent comes up within.
const START: Duration = Duration::from_secs(20);
/// What an agent ends within when it is asked to.
const STOP: Duration = Duration::from_secs(15);

/// The folder with the binaries under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Finds them: in `SWARM_BIN_DIR`, or beside (or, for a test binary, above) the program that runs.
    ///
    /// # Errors
    /// Where there are none; the message says how to build them.
    pub fn find() -> Result<Self> {
        let here = std::env::current_exe().context("cannot tell which program runs")?;
        let named = std::env::var_os("SWARM_BIN_DIR").map(PathBuf::from);
        let folders = named
            .into_iter()
            .chain(here.ancestors().skip(1).take(2).map(Path::to_path_buf));
        for folder in folders {
            if folder.join("swarmd").is_file() && folder.join("swarmctl").is_file() {
                return Ok(Self { folder });
            }
        }
        bail!(
            "there is no swarmd and swarmctl near {}; build them with `cargo build -p swarmd -p swarmctl`",
            here.display()
        )
    }

    /// The agent's path.
    #[must_use]
    pub fn swarmd(&self) -> PathBuf {
        self.folder.join("swarmd")
    }

    /// The client's path.
    #[must_use]
    pub fn swarmctl(&self) -> PathBuf {
        self.folder.join("swarmctl")
    }
}

/// A host. Made by [`crate::Builder`]; its faults are in [`crate::faults`].
#[derive(Debug)]
pub struct Host {
    /// `host1`, `host2`, …
    pub name: String,
    /// Its address on the network between the hosts.
    pub address: Ipv4Addr,
    pub(crate) netns: Netns,
    pub(crate) bridge: Netns,
    pub(crate) port: String,
    pub(crate) folder: PathBuf,
    pub(crate) group: String,
    pub(crate) binaries: Option<Binaries>,
    pub(crate) arguments: Vec<String>,
    pub(crate) agent: Mutex<Option<Child>>,
}

impl Host {
    /// Where everything of it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its directory for sockets and the like, which a reboot empties.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// What its control groups are called.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// A folder for a test's own files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<PathBuf> {
        let folder = self.folder.join("scratch");
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// What the agent has logged, from all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// The last `lines` lines of that.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Where its agent listens for others: `ADDRESS:PORT`.
    #[must_use]
    pub fn agent_address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), AGENT_PORT)
    }

    /// Starts `swarmd` and waits until it answers.
    ///
    /// # Errors
    /// When it runs already, cannot be started, ends, or does not answer in time.
    pub fn start_agent(&self) -> Result<()> {
        self.spawn_agent()?;
        let socket = self.run_dir().join("cluster.sock");
        let answers = || {
            if let Some(child) = self.agent().as_mut()
                && let Some(status) = child.try_wait()?
            {
                return Ok(Some(status));
            }
            UnixStream::connect(&socket).context("its socket is not there")?;
            Ok(None)
        };
        let ended = wait_until(&format!("{}'s agent answers", self.name), START, answers)
            .with_context(|| self.log_tail(20))?;
        match ended {
            None => Ok(()),
            Some(status) => bail!(
                "{}'s agent ended at once ({status}): {}",
                self.name,
                self.log_tail(20)
            ),
        }
    }

    /// Starts `swarmd` and does not wait.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn spawn_agent(&self) -> Result<()> {
        let mut agent = self.agent();
        ensure!(agent.is_none(), "{}'s agent runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("agent.log"))?;
        let mut command = self.swarmd(&["run"])?;
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        *agent = Some(self.spawn_inside(&mut command)?);
        Ok(())
    }

    /// `swarmd ARGS` with this host's directories and names, not started yet; it is to be started inside.
    ///
    /// # Errors
    /// When this cluster has no binaries.
    pub fn swarmd(&self, args: &[&str]) -> Result<Command> {
        let binaries = self
            .binaries
            .as_ref()
            .context("swarmd and swarmctl are not built")?;
        let mut command = Command::new(binaries.swarmd());
        command
            .args(args)
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(["--name", &self.name])
            .args(["--advertise-addr", &self.address.to_string()])
            .args(["--cgroup-parent", &self.group])
            .args(["--dns-listen", &format!("{}:53", self.address)]);
        Ok(command)
    }

    /// The agent's process, while it runs.
    #[must_use]
    pub fn agent_pid(&self) -> Option<i32> {
        self.agent().as_ref().map(|child| child.id() as i32)
    }

    /// Asks the agent to end (SIGTERM) and returns its exit code. Its containers go on.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn stop_agent(&self) -> Result<i32> {
        let mut agent = self.agent();
        let mut child = agent.take().context("the agent does not run")?;
        processes::signal_all([child.id() as i32], Signal::TERM)?;
        match command::wait(&mut child, STOP)? {
            Some(status) => Ok(status.code().unwrap_or(-1)),
            None => {
                child.kill().ok();
                child.wait().ok();
                bail!(
                    "{}'s agent did not end within {STOP:?} of SIGTERM",
                    self.name
                )
            }
        }
    }

    pub(crate) fn agent(&self) -> MutexGuard<'_, Option<Child>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `swarmctl ARGS` against the cluster, through this host.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time; not when it fails.
    pub fn ctl(&self, args: &[&str]) -> Result<Output> {
        self.ctl_within(SOON, args)
    }

    /// [`Host::ctl`] with another deadline.
    ///
    /// # Errors
    /// As there.
    pub fn ctl_within(&self, limit: Duration, args: &[&str]) -> Result<Output> {
        self.run(&mut self.ctl_command(args)?, limit)
    }

    /// [`Host::ctl`] that must end with 0; its standard output, without the last line end.
    ///
    /// # Errors
    /// As there, and any other exit code.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.ctl(args)?.ok()?.stdout.trim_end().to_owned())
    }

    /// [`Host::ctl`] with `-o json`; what it printed.
    ///
    /// # Errors
    /// As there, and what is not JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        self.ctl(&[&["-o", "json"], args].concat())?.json()
    }

    /// `swarmctl ARGS` that goes on, read line by line.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ctl_stream(&self, args: &[&str]) -> Result<Spawned> {
        let mut command = self.ctl_command(args)?;
        self.netns.enter(|| Spawned::start(&mut command))
    }

    /// `swarmctl ARGS` on a terminal.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ctl_terminal(&self, args: &[&str], rows: u16, columns: u16) -> Result<Terminal> {
        let command = self.ctl_command(args)?;
        self.netns
            .enter(|| Terminal::start(&command, rows, columns))
    }

    /// `swarmctl ARGS` against this host's own runtime.
    ///
    /// # Errors
    /// As [`Host::ctl`].
    pub fn local(&self, args: &[&str]) -> Result<Output> {
        self.run(&mut self.ctl_at("host.sock", args)?, SOON)
    }

    /// [`Host::local`] with `-o json`; what it printed.
    ///
    /// # Errors
    /// As [`Host::json`].
    pub fn local_json(&self, args: &[&str]) -> Result<Value> {
        self.local(&[&["-o", "json"], args].concat())?.json()
    }

    /// `swarmctl ARGS` against the cluster, not started yet.
    ///
    /// # Errors
    /// When this cluster has no binaries.
    pub fn ctl_command(&self, args: &[&str]) -> Result<Command> {
        self.ctl_at("cluster.sock", args)
    }

    fn ctl_at(&self, socket: &str, args: &[&str]) -> Result<Command> {
        let binaries = self
            .binaries
            .as_ref()
            .context("swarmd and swarmctl are not built")?;
        let mut command = Command::new(binaries.swarmctl());
        command
            .arg("--host")
            .arg(format!("unix://{}", self.run_dir().join(socket).display()))
            .args(args);
        Ok(command)
    }

    /// Runs a command inside.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Result<Output> {
        self.netns.enter(|| command::run(command, limit))
    }

    /// Starts a command inside and leaves it to the caller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_inside(&self, command: &mut Command) -> Result<Child> {
        self.netns.enter(|| {
            command
                .spawn()
                .with_context(|| format!("cannot start `{}`", command::line(command)))
        })
    }

    /// What `dig +short ARGS`, asked of this host's own DNS server, prints: one answer a line, sorted.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn dig(&self, args: &[&str]) -> Result<Vec<String>> {
        let text = self.dig_full(&[&["+short"], args].concat())?;
        let mut answers: Vec<String> = text.lines().map(Into::into).collect();
        answers.sort();
        Ok(answers)
    }

    /// What `dig ARGS`, asked of this host's own DNS server, prints.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn dig_full(&self, args: &[&str]) -> Result<String> {
        let mut dig = Command::new("dig");
        dig.arg(format!("@{}", self.address))
            .args(["+time=2", "+tries=2", "+norecurse"])
            .args(args);
        Ok(self.run(&mut dig, SOON)?.ok()?.stdout)
    }

    /// The body of `GET path`, asked from this host.
    ///
    /// # Errors
    /// As [`http::get`].
    pub fn http(&self, address: SocketAddr, path: &str) -> Result<String> {
        self.netns
            .enter(|| http::get(address, path, Duration::from_secs(5)))
    }

    /// All processes of this host: agent, shims, containers.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<i32> {
        processes::of_host(&self.group, self.netns.inode().ok(), &self.folder)
    }

    /// What an agent's work has left on this host, one line each: processes other than the agent, mounts, control
    /// groups, links and packet filter tables.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    pub fn traces(&self) -> Result<Vec<String>> {
        let agent = self.agent_pid();
        let mut found: Vec<String> = self
            .processes()
            .into_iter()
            .filter(|pid| Some(*pid) != agent && processes::is_alive(*pid))
            .map(|pid| format!("process {pid} {}", processes::command_line(pid)))
            .collect();
        let disk = self.data_dir();
        found.extend(
            clean::mounts_under(&self.folder)
                .into_iter()
                .filter(|m| *m != disk)
                .map(|m| format!("mount {}", m.display())),
        );
        for group in cgroups::named(&self.group) {
            let below = cgroups::subtree(&group).into_iter().filter(|g| *g != group);
            found.extend(below.map(|g| format!("cgroup {}", g.display())));
        }
        for line in self.netns.ip(&["-o", "link"])?.lines() {
            let name = line.split(": ").nth(1).unwrap_or(line);
            if name != "lo" && !name.starts_with("eth0@") {
                found.push(format!("link {name}"));
            }
        }
        let mut nft = Command::new("nft");
        let tables = self.run(nft.args(["list", "tables"]), SOON)?.ok()?.stdout;
        found.extend(
            tables
                .lines()
                .filter(|t| !t.contains(crate::faults::TABLE))
                .map(Into::into),
        );
        Ok(found)
    }

    /// The tasks that `swarmctl ps -a` shows here, of one service or of all.
    ///
    /// # Errors
    /// As [`Host::json`].
    pub fn tasks(&self, service: Option<&str>) -> Result<Vec<Task>> {
        let mut args = vec!["ps", "-a"];
        args.extend(service);
        Ok(Task::all(&self.json(&args)?))
    }

    /// The running ones among them.
    ///
    /// # Errors
    /// As [`Host::json`].
    pub fn running(&self, service: &str) -> Result<Vec<Task>> {
        let mut tasks = self.tasks(Some(service))?;
        tasks.retain(|t| t.state == "running");
        Ok(tasks)
    }

    /// Waits until exactly `count` tasks of `service` run, as this host sees it, and returns them.
    ///
    /// # Errors
    /// When they do not within `limit`.
    pub fn wait_running(&self, service: &str, count: usize, limit: Duration) -> Result<Vec<Task>> {
        wait_until(
            &format!("{count} tasks of {service} run, as {} sees it", self.name),
            limit,
            || {
                let tasks = self.tasks(Some(service))?;
                let running: Vec<Task> = tasks
                    .iter()
                    .filter(|t| t.state == "running")
                    .cloned()
                    .collect();
                ensure!(running.len() == count, "{tasks:?}");
                Ok(running)
            },
        )
    }
}

impl Host {
    /// Waits until exactly `count` tasks of `service` run, none of them on `lost`, and this host's DNS server says so.
    ///
    /// # Errors
    /// When they do not within `limit`.
    pub fn wait_moved(
        &self,
        service: &str,
        count: usize,
        lost: &Self,
        limit: Duration,
    ) -> Result<()> {
        wait_until(
            &format!("tasks of {service} run elsewhere and DNS says so"),
            limit,
            || {
                let running = self.running(service)?;
                ensure!(
                    running.len() == count && running.iter().all(|t| t.node != lost.name),
                    "{running:?}"
                );
                let found = self.dig(&[&format!("{service}.swarm")])?;
                let known: Vec<String> = running
                    .iter()
                    .flat_map(|t| &t.addresses)
                    .map(ToString::to_string)
                    .collect();
                ensure!(
                    found.len() == count && found.iter().all(|a| known.contains(a)),
                    "DNS says {found:?}"
                );
                Ok(())
            },
        )
    }
}

/// What a test wants of a task in the answer of `ps -o json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// `web.1`.
    pub name: String,
    /// Its node's name; empty where it has none.
    pub node: String,
    /// `running` and so on.
    pub state: String,
    /// Why it is so.
    pub message: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its process.
    pub pid: Option<i32>,
    /// Its number in a row of restarts.
    pub attempt: u64,
}

impl Task {
    /// All tasks in a JSON array.
    #[must_use]
    pub fn all(array: &Value) -> Vec<Self> {
        array
            .as_array()
            .map(|tasks| tasks.iter().map(Self::of).collect())
            .unwrap_or_default()
    }

    fn of(json: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let status = &json["status"];
        let addresses = json["addresses"].as_array();
        Self {
            id: text(&json["id"]),
            name: text(&json["name"]),
            node: text(&json["node_name"]),
            state: text(&status["state"]),
            message: text(&status["message"]),
            addresses: addresses
                .into_iter()
                .flatten()
                .filter_map(|a| a.as_str()?.parse().ok())
                .collect(),
            pid: status["pid"].as_i64().and_then(|p| p.try_into().ok()),
            attempt: json["attempt"].as_u64().unwrap_or_default(),
        }
    }

    /// Its first address, with a port.
    ///
    /// # Errors
    /// Where it has none.
    pub fn at(&self, port: u16) -> Result<SocketAddr> {
        let address = self.addresses.first();
        let address = address.with_context(|| format!("{self:?} has no address"))?;
        Ok(SocketAddr::new(*address, port))
    }
}
