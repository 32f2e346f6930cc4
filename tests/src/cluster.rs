//! Several hosts on one network, and an observer outside of them.

use crate::host::{AGENT_PORT, Binaries, Host, SOON};
use crate::netns::Netns;
use crate::{clean, faults, http, wait_until};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::time::Duration;

/// Where the bridge between the hosts is, and where [`Cluster::outside`] asks from.
pub const OUTSIDE: &str = "10.99.0.254";
/// The most hosts of a cluster.
const MOST: usize = 50;

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct Builder {
    hosts: usize,
    agents: bool,
    disk: Option<u64>,
    arguments: Vec<String>,
}

impl Builder {
    /// So many hosts; 3 if not said.
    #[must_use]
    pub fn hosts(mut self, count: usize) -> Self {
        self.hosts = count;
        self
    }

    /// Hosts whose agents are not started yet, or never.
    #[must_use]
    pub fn without_agents(mut self) -> Self {
        self.agents = false;
        self
    }

    /// A data disk of so many bytes, in memory, for each host; the machine's own if not said.
    #[must_use]
    pub fn disk(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// A further argument for each `swarmd`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Makes the hosts and starts their agents, each on its own still.
    ///
    /// # Errors
    /// When this process is not root, there are no binaries, or a host does not come up.
    pub fn start(self) -> Result<Cluster> {
        faults::may_make_hosts()?;
        ensure!(
            (1..=MOST).contains(&self.hosts),
            "a cluster has 1 to {MOST} hosts, not {}",
            self.hosts
        );
        let binaries = if self.agents {
            Some(Binaries::find()?)
        } else {
            Binaries::find().ok()
        };
        let prefix = clean::new_prefix();
        // First of all, so that its drop cleans up whatever follows.
        let mut cluster = Cluster {
            bridge: Netns::create(&format!("{prefix}-br"))?,
            prefix,
            hosts: Vec::new(),
        };
        cluster.make_bridge()?;
        for number in 1..=self.hosts {
            let host = cluster.make_host(number, &self, binaries.clone())?;
            cluster.hosts.push(host);
        }
        if self.agents {
            for host in &cluster.hosts {
                host.start_agent()?;
            }
        }
        Ok(cluster)
    }
}

/// Several hosts on one network. Dropping it removes everything; [`Cluster::stop`] does too and says what stayed.
#[derive(Debug)]
pub struct Cluster {
    prefix: String,
    bridge: Netns,
    hosts: Vec<Host>,
}

impl Cluster {
    /// Three hosts with agents, unless said otherwise.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            hosts: 3,
            agents: true,
            disk: None,
            arguments: Vec::new(),
        }
    }

    /// What all names of this cluster begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// All hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host with this number, from 1.
    ///
    /// # Panics
    /// Where there is none: a test's own mistake.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// The host with this name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn named(&self, name: &str) -> Result<&Host> {
        let found = self.hosts.iter().find(|h| h.name == name);
        found.with_context(|| format!("there is no host {name:?}"))
    }

    /// The hosts without this one.
    pub fn others<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |h| h.name != host.name)
    }

    /// `init` on the first host, `join` as a manager on all others; waits until every host sees all as ready.
    ///
    /// # Errors
    /// When that fails.
    pub fn form(&self) -> Result<()> {
        self.host(1).ok(&["init"])?;
        if self.hosts.len() > 1 {
            let token = self.token("manager")?;
            for host in &self.hosts[1..] {
                host.ok(&["join", "--token", &token, &self.entrance()])?;
            }
        }
        self.wait_ready()
    }

    /// A token, made on the first host.
    ///
    /// # Errors
    /// When none is given.
    pub fn token(&self, role: &str) -> Result<String> {
        let token = self.host(1).json(&["token", "create", "--role", role])?;
        let secret = token["secret"].as_str().map(Into::into);
        secret.with_context(|| format!("there is no secret in {token}"))
    }

    /// Where others join: the first host's agent.
    #[must_use]
    pub fn entrance(&self) -> String {
        format!("{}:{AGENT_PORT}", self.host(1).address)
    }

    /// Waits until every host sees all hosts as ready.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn wait_ready(&self) -> Result<()> {
        for host in &self.hosts {
            wait_until(&format!("{} sees all nodes ready", host.name), SOON, || {
                let nodes = host.json(&["node", "ls"])?;
                let ready = nodes.as_array().into_iter().flatten();
                let ready = ready.filter(|n| n["health"] == "ready").count();
                ensure!(ready == self.hosts.len(), "{nodes}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The host that leads, as `host` sees it.
    ///
    /// # Errors
    /// When it knows of none.
    pub fn leader(&self, host: &Host) -> Result<&Host> {
        let nodes = host.json(&["node", "ls"])?;
        let leader = nodes
            .as_array()
            .into_iter()
            .flatten()
            .find(|n| n["raft"] == "leader")
            .and_then(|n| n["name"].as_str());
        self.named(leader.with_context(|| format!("no leader in {nodes}"))?)
    }

    /// The body of `GET path`, asked from outside of all hosts, on their network.
    ///
    /// # Errors
    /// As [`http::get`].
    pub fn outside(&self, address: SocketAddr, path: &str) -> Result<String> {
        self.bridge
            .enter(|| http::get(address, path, Duration::from_secs(5)))
    }

    /// What all agents logged last.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for host in &self.hosts {
            let _ = writeln!(text, "---- {} ----\n{}", host.name, host.log_tail(60));
        }
        text
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When something stays behind.
    pub fn stop(self) -> Result<()> {
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        let mut failed = Vec::new();
        for host in &self.hosts {
            if host.netns.path().exists()
                && let Err(e) = host.thaw().and_then(|()| host.kill_all())
            {
                failed.push(format!("{e:#}"));
            }
        }
        if let Err(e) = clean::sweep(&self.prefix) {
            failed.push(format!("{e:#}"));
        }
        if failed.is_empty() {
            Ok(())
        } else {
            bail!("{}", failed.join("; "))
        }
    }

    fn make_bridge(&self) -> Result<()> {
        let bridge = &self.bridge;
        bridge.ip(&["link", "add", "br0", "type", "bridge", "forward_delay", "0"])?;
        bridge.ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", "br0"])?;
        bridge.ip(&["link", "set", "br0", "up"])?;
        std::fs::create_dir(clean::folder(&self.prefix))
            .with_context(|| format!("cannot make {}", clean::folder(&self.prefix).display()))
    }

    fn make_host(&self, number: usize, like: &Builder, binaries: Option<Binaries>) -> Result<Host> {
        let group = format!("{}-h{number}", self.prefix);
        let last = u8::try_from(number).context("too many hosts")?;
        let host = Host {
            name: format!("host{number}"),
            address: Ipv4Addr::new(10, 99, 0, last),
            netns: Netns::named(&group),
            bridge: self.bridge.clone(),
            port: format!("port{number}"),
            folder: clean::folder(&self.prefix).join(format!("h{number}")),
            group,
            binaries,
            arguments: like.arguments.clone(),
            agent: Mutex::new(None),
        };
        host.make_network()?;
        std::fs::create_dir_all(host.run_dir())?;
        std::fs::create_dir_all(host.data_dir())?;
        if let Some(bytes) = like.disk {
            nix::mount::mount(
                Some("disk"),
                &host.data_dir(),
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some(format!("size={bytes},mode=0700").as_str()),
            )
            .with_context(|| format!("cannot mount a disk for {}", host.name))?;
        }
        Ok(host)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            eprintln!("cluster {} was not removed: {e:#}", self.prefix);
        }
    }
}

/// A test with a formed cluster of so many hosts: where it fails, it says what the agents logged; where it does not,
/// nothing may be left behind.
///
/// # Panics
/// When it fails.
pub fn with_cluster(hosts: usize, test: impl FnOnce(&Cluster) -> Result<()>) {
    with_hosts(Cluster::builder().hosts(hosts), |cluster| {
        cluster.form()?;
        test(cluster)
    });
}

/// [`with_cluster`] with hosts that are not in a cluster yet.
///
/// # Panics
/// When the test fails.
pub fn with_hosts(builder: Builder, test: impl FnOnce(&Cluster) -> Result<()>) {
    let cluster = match builder.start() {
        Ok(cluster) => cluster,
        Err(e) => panic!("cannot make the hosts: {e:#}"),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&cluster)));
    let logs = cluster.logs();
    let stopped = cluster.stop();
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("{logs}");
    }
    match outcome {
        Err(panic) => resume_unwind(panic),
        Ok(Err(e)) => panic!("{e:#}"),
        Ok(Ok(())) => {}
    }
    if let Err(e) = stopped {
        panic!("the cluster left something behind: {e:#}");
    }
}
