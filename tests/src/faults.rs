//! What befalls hosts: links cut, packets lost, processes killed and frozen, power lost, disks filled.

use crate::host::{Host, SOON};
use crate::netns::Netns;
use crate::{clean, command, processes, wait_until};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

/// The packet filter table that faults are in; no agent's.
pub const TABLE: &str = "swarm_faults";

impl Host {
    /// Cuts the host's link: nothing comes, nothing goes.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut(&self) -> Result<()> {
        self.bridge
            .ip(&["link", "set", &self.port, "down"])
            .map(drop)
    }

    /// Heals the link, and takes all faults between hosts away.
    ///
    /// # Errors
    /// What `ip` and `nft` say.
    pub fn heal(&self) -> Result<()> {
        self.bridge.ip(&["link", "set", &self.port, "up"])?;
        self.nft(&format!(
            "table inet {TABLE} {{\n}}\ndelete table inet {TABLE}"
        ))
    }

    /// This host hears nothing of `other` any more; `other` hears this host.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn deafen_to(&self, other: &Host) -> Result<()> {
        self.drop_incoming(&format!("ip saddr {} drop", other.address))
    }

    /// Neither hears the other any more; both hear all others.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn cut_from(&self, other: &Host) -> Result<()> {
        self.deafen_to(other)?;
        other.deafen_to(self)
    }

    /// This many percent of the packets that come in are lost.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn lose(&self, percent: u8) -> Result<()> {
        match percent {
            0..100 => self.drop_incoming(&format!("numgen random mod 100 < {percent} drop")),
            100.. => self.drop_incoming("drop"),
        }
    }

    /// Packets that go out are so much later. `false` where the kernel has no netem and nothing was done.
    ///
    /// # Errors
    /// When `tc` cannot be run.
    pub fn delay(&self, by: Duration) -> Result<bool> {
        let delay = format!("{}us", by.as_micros());
        let mut tc = Command::new("tc");
        tc.args([
            "qdisc", "replace", "dev", "eth0", "root", "netem", "delay", &delay,
        ]);
        Ok(self.run(&mut tc, SOON)?.code == 0)
    }

    fn drop_incoming(&self, rule: &str) -> Result<()> {
        self.nft(&format!(
            "table inet {TABLE} {{\n chain incoming {{\n  type filter hook prerouting priority -400\n  iifname \"eth0\" {rule}\n }}\n}}"
        ))
    }

    fn nft(&self, script: &str) -> Result<()> {
        let mut nft = Command::new("nft");
        self.run(nft.arg(script), SOON)?.ok().map(drop)
    }

    /// SIGKILL to the agent only; shims and containers go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_agent(&self) -> Result<()> {
        let mut child = self.agent().take().context("the agent does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGKILL to every process of the host. Its link, mounts and namespaces stay.
    ///
    /// # Errors
    /// When a process does not die.
    pub fn kill_all(&self) -> Result<()> {
        let agent = self.agent().take();
        wait_until(&format!("all of {} is dead", self.name), SOON, || {
            let alive = self.processes();
            processes::signal_all(alive.iter().copied(), Signal::KILL)?;
            ensure!(alive.is_empty(), "processes {alive:?} live");
            Ok(())
        })?;
        if let Some(mut child) = agent {
            child.wait()?;
        }
        Ok(())
    }

    /// Takes the power away: link, processes, mounts, network and everything in memory are gone at once; what is on
    /// the disk stays.
    ///
    /// # Errors
    /// When something cannot be taken away.
    pub fn power_off(&self) -> Result<()> {
        self.cut()?;
        self.kill_all()?;
        let disk = self.data_dir();
        for mount in clean::mounts_under(&self.folder) {
            if mount != disk {
                clean::unmount(&mount)?;
            }
        }
        clean::remove_groups(&self.group)?;
        self.bridge.ip(&["link", "del", &self.port])?;
        self.netns.delete()?;
        std::fs::remove_dir_all(self.run_dir())?;
        Ok(())
    }

    /// Gives the power back and starts the agent.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn power_on(&self) -> Result<()> {
        self.make_network()?;
        std::fs::create_dir_all(self.run_dir())?;
        self.start_agent()
    }

    /// Makes the host's network namespace, its link and its address.
    pub(crate) fn make_network(&self) -> Result<()> {
        let netns = Netns::create(self.netns.name())?;
        let inside = [
            "link", "add", "eth0", "type", "veth", "peer", "name", &self.port, "netns",
        ];
        netns.ip(&[&inside[..], &[self.bridge.name()]].concat())?;
        self.bridge
            .ip(&["link", "set", &self.port, "master", "br0", "up"])?;
        netns.ip(&[
            "addr",
            "add",
            &format!("{}/24", self.address),
            "dev",
            "eth0",
        ])?;
        netns.ip(&["link", "set", "eth0", "up"])?;
        netns
            .ip(&["route", "add", "default", "via", crate::cluster::OUTSIDE])
            .map(drop)
    }

    /// Stops every process of the host (SIGSTOP): it is silent, but its connections stay open.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn freeze(&self) -> Result<()> {
        processes::signal_all(self.processes(), Signal::STOP)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        processes::signal_all(self.processes(), Signal::CONT)
    }

    /// Fills the disk that the data directory is on; only where the host was made with a small one. Returns how many
    /// bytes went in: what was free at this moment, so that room which the host makes for itself later stays free.
    ///
    /// # Errors
    /// Where the disk is the machine's own.
    pub fn fill_disk(&self) -> Result<u64> {
        ensure!(
            clean::mounts_under(&self.folder).contains(&self.data_dir()),
            "{} has no disk of its own; make the cluster with Builder::disk",
            self.name
        );
        let file = std::fs::File::create(self.data_dir().join("filler"))?;
        loop {
            let free = self.free_disk()?;
            if free == 0 {
                return Ok(0);
            }
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&file, flags, 0, free) {
                Ok(()) => return Ok(free),
                // The host took some of it in the meantime.
                Err(rustix::io::Errno::NOSPC) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// How many bytes are free on the disk that the data directory is on.
    ///
    /// # Errors
    /// When it is not there.
    pub fn free_disk(&self) -> Result<u64> {
        let disk = rustix::fs::statvfs(self.data_dir())?;
        Ok(disk.f_bavail * disk.f_frsize)
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When the disk was not filled.
    pub fn empty_disk(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.data_dir().join("filler"))?)
    }

    /// Whether `other` answers a ping from here within a second.
    ///
    /// # Errors
    /// When the probe cannot be run.
    pub fn reaches(&self, other: &Host) -> Result<bool> {
        let target = std::net::SocketAddr::new(other.address.into(), 9);
        self.netns.enter(|| {
            // A refusal is an answer too.
            let answer = std::net::TcpStream::connect_timeout(&target, Duration::from_secs(1));
            Ok(match answer {
                Ok(_) => true,
                Err(e) => e.kind() == std::io::ErrorKind::ConnectionRefused,
            })
        })
    }
}

/// Whether this process may make hosts.
///
/// # Errors
/// Where it may not; the message says what is missing.
pub fn may_make_hosts() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "hosts are network namespaces, and only root may make them; run this as root or with sudo"
    );
    for tool in ["ip", "nft", "dig", "setsid"] {
        let mut which = Command::new("sh");
        which.args([
            "-c",
            &format!("PATH=$PATH:/usr/sbin:/sbin command -v {tool}"),
        ]);
        ensure!(
            command::run(&mut which, SOON)?.code == 0,
            "there is no `{tool}`; tests/install-deps.sh installs what is needed"
        );
    }
    Ok(())
}
