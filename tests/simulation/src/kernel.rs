//! The kernel of a simulated host, as far as the agent programs it: networks, interfaces, addresses of its DNS server.

use async_trait::async_trait;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use swarm_agent::node::Kernel;
use swarm_api::model::Capacity;
use swarm_discovery::DiscoveryError;
use swarm_discovery::dns::{DnsServer, ListenerId, Viewpoint};
use swarm_network::{Attach, Error, HostNetwork, Report, Result};

/// A host's kernel. It outlasts the agent, and loses everything with the power.
pub struct SimKernel {
    ip: IpAddr,
    capacity: Capacity,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    networks: Option<Arc<HostNetwork>>,
    interfaces: BTreeSet<String>,
    names: Option<Arc<DnsServer>>,
    /// Every name resolves to nothing (a deliberate bug).
    no_names: bool,
}

impl SimKernel {
    /// The kernel of the host at this address.
    #[must_use]
    pub fn new(ip: IpAddr, capacity: Capacity) -> Self {
        Self {
            ip,
            capacity,
            inner: Mutex::default(),
        }
    }

    /// The agent has ended, and with it its DNS server.
    pub fn end(&self) {
        self.lock().names = None;
    }

    /// The power is lost.
    pub fn lose_power(&self) {
        *self.lock() = Inner::default();
    }

    /// Every name resolves to nothing from now on: a deliberate bug.
    pub fn forget_names(&self) {
        self.lock().no_names = true;
    }

    /// The IPv4 addresses that programs of this host get for a name; nothing while nobody answers.
    ///
    /// # Errors
    /// When the name is none.
    pub fn look_up(&self, name: &str) -> anyhow::Result<Option<BTreeSet<IpAddr>>> {
        let Some(server) = self.lock().names.clone() else {
            return Ok(None);
        };
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(
            Name::from_ascii(format!("{name}.swarm."))?,
            RecordType::A,
        ));
        let reply = server.respond(&query.to_vec()?, Viewpoint::host());
        let Some(reply) = reply else {
            return Ok(None);
        };
        let reply = Message::from_vec(&reply)?;
        let address = |data: &RData| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        };
        let found: BTreeSet<IpAddr> = (reply.answers.iter())
            .filter_map(|record| address(&record.data))
            .collect();
        Ok(Some(match self.lock().no_names {
            true => BTreeSet::new(),
            false => found,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Kernel for SimKernel {
    fn refusal(&self) -> Option<String> {
        None
    }

    async fn reconcile(&self, desired: Arc<HostNetwork>) -> Result<Report> {
        desired.validate()?;
        let mut inner = self.lock();
        let wanted: BTreeSet<String> = (desired.attachments.iter())
            .map(|a| a.host_ifname.clone())
            .collect();
        inner.interfaces.retain(|name| wanted.contains(name));
        let missing = wanted.difference(&inner.interfaces).cloned().collect();
        inner.networks = Some(desired);
        Ok(Report {
            missing,
            ..Report::default()
        })
    }

    async fn attach(&self, request: Attach) -> Result<()> {
        let mut inner = self.lock();
        let there = inner
            .networks
            .as_ref()
            .is_some_and(|n| n.networks.iter().any(|n| n.vni == request.vni));
        if !there {
            return Err(Error::NoBridge {
                ifname: request.host_ifname,
                bridge: format!("vni {}", request.vni),
            });
        }
        inner.interfaces.insert(request.host_ifname);
        Ok(())
    }

    async fn detach(&self, interface: &str) -> Result<()> {
        self.lock().interfaces.remove(interface);
        Ok(())
    }

    async fn teardown(&self) -> Result<()> {
        let mut inner = self.lock();
        inner.networks = None;
        inner.interfaces.clear();
        Ok(())
    }

    async fn mtu(&self, _address: IpAddr) -> swarm_api::Result<u32> {
        Ok(1500)
    }

    fn network_of(&self, _pid: u32) -> io::Result<OwnedFd> {
        Ok(std::fs::File::open("/dev/null")?.into())
    }

    fn resolvers(&self) -> String {
        String::new()
    }

    fn address(&self) -> swarm_api::Result<IpAddr> {
        Ok(self.ip)
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }

    async fn listen(
        &self,
        server: &Arc<DnsServer>,
        at: SocketAddr,
        _view: Viewpoint,
    ) -> std::result::Result<(ListenerId, SocketAddr), DiscoveryError> {
        self.lock().names = Some(Arc::clone(server));
        Ok((server.reserve(at), at))
    }
}
