//! Names on this node: the replica is asked, at the host's own address and at the gateway of every network that is in use
//! here. What a name stands for follows from the state alone.

mod catalogue;
pub(super) mod task;

use super::backoff::Backoff;
use super::kernel::Kernel;
use super::networks::Networks;
use super::warnings::Warnings;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use swarm_api::{Error, Result};
use swarm_discovery::dns::{DnsConfig, DnsServer, ListenerId, Viewpoint, parse_resolv_conf};
use swarm_member::Member;
use tokio_util::sync::CancellationToken;

const PORT: u16 = 53;
/// How often the host's resolvers are read again.
const RESOLVERS: Duration = Duration::from_secs(30);
/// A replica of which it has not been known for so long that it is up to date is stale.
const STALE: Duration = Duration::from_secs(5);

/// This node's DNS server.
pub(super) struct Dns {
    server: Arc<DnsServer>,
    kernel: Arc<dyn Kernel>,
    networks: Arc<Networks>,
    warnings: Warnings,
    listen: SocketAddr,
}

impl Dns {
    /// Listens at the host's own address. A failure is an error if `required`, else a warning and tried again.
    ///
    /// # Errors
    /// When the address cannot be bound, and that was asked for.
    pub(super) async fn start(
        member: Member,
        kernel: Arc<dyn Kernel>,
        networks: Arc<Networks>,
        warnings: Warnings,
        listen: SocketAddr,
        required: bool,
    ) -> Result<(Self, bool)> {
        let internal = |why: swarm_discovery::DiscoveryError| Error::Internal(why.to_string());
        let source = Arc::new(catalogue::Replica(member));
        let server = DnsServer::start(DnsConfig::default(), source).map_err(internal)?;
        let dns = Self {
            server: Arc::new(server),
            kernel,
            networks,
            warnings,
            listen,
        };
        let bound = dns.listen_for_the_host().await;
        dns.read_resolvers(bound.is_ok());
        match bound {
            Err(why) if required => Err(Error::Conflict(format!(
                "{why}; give another address with --dns-listen, or end what listens there"
            ))),
            bound => Ok((dns, bound.is_ok())),
        }
    }

    /// Serves until `stop`, then closes all sockets. `bound` says whether the host's own address is listened on.
    pub(super) async fn run(&self, mut bound: bool, stop: CancellationToken) {
        let mut ready = self.networks.ready();
        let mut resolvers = tokio::time::interval(RESOLVERS);
        let mut listeners: BTreeMap<String, Listener> = BTreeMap::new();
        let mut backoff = Backoff::new(Duration::from_millis(200), RESOLVERS);
        let mut retry = None;
        // What was published before we began to follow counts as well.
        ready.mark_changed();
        loop {
            let look = ready.has_changed().unwrap_or(false);
            if look || retry.is_some_and(|at| at <= tokio::time::Instant::now()) {
                let wanted = ready.borrow_and_update().clone();
                let gateways = wanted
                    .iter()
                    .filter(|_| !(bound && self.listens_everywhere()))
                    .map(|(name, spec)| (name.clone(), IpAddr::V4(spec.gateway)));
                retry = if self.listen_at(&mut listeners, gateways.collect()).await {
                    backoff.reset();
                    None
                } else {
                    Some(tokio::time::Instant::now() + backoff.delay())
                };
            }
            let due = async {
                match retry {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = ready.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    ready.mark_changed();
                }
                () = due => {}
                _ = resolvers.tick() => {
                    if !bound {
                        bound = self.listen_for_the_host().await.is_ok();
                    }
                    self.read_resolvers(bound);
                }
            }
        }
        self.server.shutdown().await;
    }

    /// Whether the host's own sockets take what is sent to the gateways, too; no others could be bound beside them.
    fn listens_everywhere(&self) -> bool {
        self.listen.ip().is_unspecified() && self.listen.port() == PORT
    }

    async fn listen_for_the_host(&self) -> std::result::Result<(), String> {
        let bound = self
            .kernel
            .listen(&self.server, self.listen, Viewpoint::host());
        let bound = bound.await;
        let bound = bound.map(drop).map_err(|why| why.to_string());
        let line = bound.as_ref().err().map(|why| {
            format!("names of the cluster cannot be resolved by programs of this host: {why}")
        });
        self.warnings.set("dns", line);
        bound
    }

    /// Whom the host asks for other names: they are whom we ask, and whom tasks in the host's network ask.
    fn read_resolvers(&self, bound: bool) {
        let upstreams = upstreams(&self.kernel.resolvers(), self.listen);
        self.networks
            .set_host_resolver(if bound && self.listen.port() == PORT {
                vec![self.reached_at()]
            } else {
                upstreams.clone()
            });
        self.server.set_upstreams(upstreams);
    }

    /// Where a program of this host reaches us.
    fn reached_at(&self) -> SocketAddr {
        let mut at = self.listen;
        if at.ip().is_unspecified() {
            at.set_ip(IpAddr::from([127, 0, 0, 1]));
        }
        at
    }

    /// Listens at these gateways and at no others; false if one cannot be listened at now.
    async fn listen_at(
        &self,
        listeners: &mut BTreeMap<String, Listener>,
        gateways: BTreeMap<String, IpAddr>,
    ) -> bool {
        let stale: Vec<String> = listeners
            .iter()
            .filter(|(name, listener)| gateways.get(*name) != Some(&listener.gateway))
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            if let Some(listener) = listeners.remove(&name) {
                self.server.remove(listener.id).await;
                self.warnings.set(&format!("dns {name}"), None);
            }
        }
        let mut all = true;
        for (name, gateway) in gateways {
            if listeners.contains_key(&name) {
                continue;
            }
            let at = SocketAddr::new(gateway, PORT);
            let view = Viewpoint::network(&name);
            let line = match self.kernel.listen(&self.server, at, view).await {
                Ok((id, _)) => {
                    listeners.insert(name.clone(), Listener { gateway, id });
                    None
                }
                Err(why) => {
                    all = false;
                    Some(format!(
                        "tasks of network {name} on this node cannot resolve names: {why}"
                    ))
                }
            };
            self.warnings.set(&format!("dns {name}"), line);
        }
        all
    }
}

/// One network's socket pair.
struct Listener {
    gateway: IpAddr,
    id: ListenerId,
}

fn is_stale(member: &Member) -> bool {
    let status = member.status();
    !status.has_quorum || status.staleness.is_some_and(|age| age > STALE)
}

/// The resolvers of a `resolv.conf`, without ourselves: a socket at all addresses answers at every loopback one.
fn upstreams(resolv_conf: &str, listen: SocketAddr) -> Vec<SocketAddr> {
    let own = |server: &SocketAddr| {
        *server == listen
            || (listen.ip().is_unspecified()
                && server.port() == listen.port()
                && server.ip().is_loopback())
    };
    let mut all = parse_resolv_conf(resolv_conf);
    all.retain(|server| !own(server));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_never_ask_ourselves() {
        let text = "nameserver 127.0.0.1\nnameserver 192.0.2.53\noptions ndots:1\n";
        let asked = |listen: &str| -> Vec<String> {
            let all = upstreams(text, listen.parse().unwrap());
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(asked("127.0.0.1:53"), ["192.0.2.53:53"]);
        assert_eq!(asked("0.0.0.0:53"), ["192.0.2.53:53"]);
        assert_eq!(asked("192.0.2.1:53"), ["127.0.0.1:53", "192.0.2.53:53"]);
    }
}
