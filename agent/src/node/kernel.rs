//! What a node asks of its host's kernel besides containers: networks, addresses, sockets for DNS. Handed in, so that a
//! simulation can run the same node without one.

use super::networks::underlay;
use async_trait::async_trait;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use swarm_api::model::Capacity;
use swarm_discovery::DiscoveryError;
use swarm_discovery::dns::{DnsServer, ListenerId, Viewpoint};
use swarm_network::{Attach, Error, HostNetwork, Network, Report, Result};

/// Where the host says whom it asks (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The kernel of one host.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// Why it cannot have networks of the cluster, if that is so.
    fn refusal(&self) -> Option<String>;

    /// Makes its networks as they should be.
    ///
    /// # Errors
    /// When it cannot be asked how they are.
    async fn reconcile(&self, desired: Arc<HostNetwork>) -> Result<Report>;

    /// Connects a network namespace.
    ///
    /// # Errors
    /// What it refuses.
    async fn attach(&self, request: Attach) -> Result<()>;

    /// Removes a task's interface; no error if there is none.
    ///
    /// # Errors
    /// What it refuses.
    async fn detach(&self, interface: &str) -> Result<()>;

    /// Removes everything of the cluster's networks.
    ///
    /// # Errors
    /// What it refuses.
    async fn teardown(&self) -> Result<()>;

    /// The MTU of the interface that has this address.
    ///
    /// # Errors
    /// When no interface has it.
    async fn mtu(&self, address: IpAddr) -> swarm_api::Result<u32>;

    /// The network namespace of a process.
    ///
    /// # Errors
    /// When the process has ended.
    fn network_of(&self, pid: u32) -> io::Result<OwnedFd>;

    /// What the host says of its resolvers, as resolv.conf(5); empty where it says nothing.
    fn resolvers(&self) -> String;

    /// The address that others most likely reach this host at.
    ///
    /// # Errors
    /// When there is none, or it cannot be told.
    fn address(&self) -> swarm_api::Result<IpAddr>;

    /// What this host has to give.
    fn capacity(&self) -> Capacity;

    /// Lets the DNS server listen at an address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    async fn listen(
        &self,
        server: &Arc<DnsServer>,
        at: SocketAddr,
        view: Viewpoint,
    ) -> std::result::Result<(ListenerId, SocketAddr), DiscoveryError>;
}

/// The kernel that this process runs on.
pub struct SystemKernel(std::result::Result<Network, Error>);

impl SystemKernel {
    /// Opens what is needed. Changes nothing; a kernel that lacks something says so when it is asked.
    #[must_use]
    pub fn open() -> Self {
        Self(Network::new())
    }

    fn network(&self) -> Result<&Network> {
        self.0.as_ref().map_err(|why| Error::Unsupported {
            why: why.to_string(),
        })
    }
}

#[async_trait]
impl Kernel for SystemKernel {
    fn refusal(&self) -> Option<String> {
        self.0.as_ref().err().map(ToString::to_string)
    }

    async fn reconcile(&self, desired: Arc<HostNetwork>) -> Result<Report> {
        self.network()?.reconcile(desired).await
    }

    async fn attach(&self, request: Attach) -> Result<()> {
        self.network()?.attach(request).await
    }

    async fn detach(&self, interface: &str) -> Result<()> {
        match &self.0 {
            Ok(network) => network.detach(interface).await,
            Err(_) => Ok(()),
        }
    }

    async fn teardown(&self) -> Result<()> {
        match &self.0 {
            Ok(network) => network.teardown().await,
            Err(_) => Ok(()),
        }
    }

    async fn mtu(&self, address: IpAddr) -> swarm_api::Result<u32> {
        let internal = |why: Error| swarm_api::Error::Internal(why.to_string());
        underlay::mtu(self.network().map_err(internal)?, address).await
    }

    fn network_of(&self, pid: u32) -> io::Result<OwnedFd> {
        let path = format!("/proc/{pid}/ns/net");
        std::fs::File::open(&path)
            .map(OwnedFd::from)
            .map_err(|why| io::Error::new(why.kind(), format!("cannot open {path}: {why}")))
    }

    fn resolvers(&self) -> String {
        std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()
    }

    fn address(&self) -> swarm_api::Result<IpAddr> {
        crate::address::of_default_route()
    }

    fn capacity(&self) -> Capacity {
        super::capacity()
    }

    async fn listen(
        &self,
        server: &Arc<DnsServer>,
        at: SocketAddr,
        view: Viewpoint,
    ) -> std::result::Result<(ListenerId, SocketAddr), DiscoveryError> {
        server.bind(at, view).await
    }
}
