//! The shell of DNS: sockets that come and go, a catalogue that changes underneath, and an upstream for the rest.
//!
//! Names of ours are answered in the receiving task, without a lock or an allocation worth naming; forwarded ones get a
//! task each, of which there are only so many at a time.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::upstream::{NetUpstream, Upstream};
use super::wire::{MAX_TCP, encode, udp_limit};
use super::zone::{Answer, Viewpoint, Zone, answer, reply_to};
use crate::DiscoveryError;
use crate::catalogue::Source;

/// What the server is started with.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The domain that is served.
    pub domain: String,
    /// How long answers may be cached, in seconds. Short: tasks move.
    pub ttl: u32,
    /// The resolvers for all other names; see [`super::parse_resolv_conf`].
    pub upstreams: Vec<SocketAddr>,
    /// How long one resolver may take.
    pub upstream_timeout: Duration,
    /// How many queries may be under way to resolvers at a time; one above gets SERVFAIL.
    pub max_forwards: usize,
    /// How many TCP connections may be open at a time; one above waits.
    pub max_connections: usize,
    /// How long a TCP connection may be silent.
    pub idle: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            domain: "swarm.".to_owned(),
            ttl: 1,
            upstreams: Vec::new(),
            upstream_timeout: Duration::from_millis(1500),
            max_forwards: 256,
            max_connections: 128,
            idle: Duration::from_secs(10),
        }
    }
}

/// Names a pair of sockets that the server listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(u64);

/// What has been counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DnsStats {
    /// Queries answered from the catalogue, negative answers included.
    pub answered: u64,
    /// Queries passed to a resolver.
    pub forwarded: u64,
    /// Of these, the ones that no resolver answered, or that were one too many.
    pub forward_failures: u64,
    /// Messages that could not be read.
    pub malformed: u64,
}

#[derive(Default)]
struct Counters {
    answered: AtomicU64,
    forwarded: AtomicU64,
    forward_failures: AtomicU64,
    malformed: AtomicU64,
}

struct Shared {
    zone: Zone,
    source: Arc<dyn Source>,
    upstream: Arc<dyn Upstream>,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    idle: Duration,
    rotation: AtomicU64,
    counters: Counters,
}

struct Listener {
    addrs: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A running DNS server. When it is dropped, it stops listening.
pub struct DnsServer {
    shared: Arc<Shared>,
    net: Option<Arc<NetUpstream>>,
    stop: CancellationToken,
    listeners: Mutex<HashMap<ListenerId, Listener>>,
    next: AtomicU64,
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl DnsServer {
    /// A server without sockets yet, which serves what `source` holds and forwards over the network.
    ///
    /// # Errors
    /// When the domain is not a DNS name.
    pub fn start(config: DnsConfig, source: Arc<dyn Source>) -> Result<Self, DiscoveryError> {
        let net = Arc::new(NetUpstream::new(
            config.upstreams.clone(),
            config.upstream_timeout,
        ));
        let mut server = Self::start_with(config, source, net.clone())?;
        server.net = Some(net);
        Ok(server)
    }

    /// As [`DnsServer::start`], with another way to forward.
    ///
    /// # Errors
    /// When the domain is not a DNS name.
    pub fn start_with(
        config: DnsConfig,
        source: Arc<dyn Source>,
        upstream: Arc<dyn Upstream>,
    ) -> Result<Self, DiscoveryError> {
        let zone = Zone::new(&config.domain, config.ttl)?;
        Ok(Self {
            shared: Arc::new(Shared {
                zone,
                source,
                upstream,
                forwards: Arc::new(Semaphore::new(config.max_forwards)),
                connections: Arc::new(Semaphore::new(config.max_connections)),
                idle: config.idle,
                rotation: AtomicU64::new(0),
                counters: Counters::default(),
            }),
            net: None,
            stop: CancellationToken::new(),
            listeners: Mutex::new(HashMap::new()),
            next: AtomicU64::new(1),
        })
    }

    /// Listens on sockets that are already bound, and answers as seen from `view`.
    ///
    /// # Errors
    /// When the sockets have no local address.
    pub fn listen(
        &self,
        udp: UdpSocket,
        tcp: TcpListener,
        view: Viewpoint,
    ) -> Result<ListenerId, DiscoveryError> {
        let addr = |found: io::Result<SocketAddr>| {
            found.map_err(|source| DiscoveryError::Io {
                attempted: "get the address of a DNS socket".to_owned(),
                source,
            })
        };
        let addrs = vec![addr(udp.local_addr())?, addr(tcp.local_addr())?];
        let view = Viewpoint {
            server: view
                .server
                .or_else(|| Some(addrs[0].ip()).filter(|ip| !ip.is_unspecified())),
            ..view
        };
        let listener = Listener {
            addrs,
            stop: self.stop.child_token(),
            tasks: TaskTracker::new(),
        };
        let port = Endpoint {
            shared: self.shared.clone(),
            view: Arc::new(view),
            stop: listener.stop.clone(),
            tasks: listener.tasks.clone(),
        };
        listener.tasks.spawn(port.clone().serve_udp(Arc::new(udp)));
        listener.tasks.spawn(port.serve_tcp(tcp));
        listener.tasks.close();
        let id = ListenerId(self.next.fetch_add(1, Ordering::Relaxed));
        self.with_listeners(|listeners| listeners.insert(id, listener));
        Ok(id)
    }

    /// Takes an address without sockets there: whoever brings the queries some other way uses [`DnsServer::respond`].
    pub fn reserve(&self, addr: SocketAddr) -> ListenerId {
        let listener = Listener {
            addrs: vec![addr],
            stop: self.stop.child_token(),
            tasks: TaskTracker::new(),
        };
        listener.tasks.close();
        let id = ListenerId(self.next.fetch_add(1, Ordering::Relaxed));
        self.with_listeners(|listeners| listeners.insert(id, listener));
        id
    }

    /// What a query that came in a datagram is answered, as seen from `view`; nothing where it is ignored or would be
    /// passed to a resolver.
    #[must_use]
    pub fn respond(&self, query: &[u8], view: Viewpoint) -> Option<Vec<u8>> {
        let port = Endpoint {
            shared: self.shared.clone(),
            view: Arc::new(view),
            stop: self.stop.clone(),
            tasks: TaskTracker::new(),
        };
        match port.decide(query, false) {
            Outcome::Reply(reply) => Some(reply),
            Outcome::Forward(_) | Outcome::Nothing => None,
        }
    }

    /// Binds UDP and TCP at `addr` (port 0: the same free port for both) and listens there.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(
        &self,
        addr: SocketAddr,
        view: Viewpoint,
    ) -> Result<(ListenerId, SocketAddr), DiscoveryError> {
        let failed = |source| DiscoveryError::Io {
            attempted: format!("listen for DNS on {addr}"),
            source,
        };
        let mut tries = 0;
        loop {
            let udp = UdpSocket::bind(addr).await.map_err(failed)?;
            let bound = udp.local_addr().map_err(failed)?;
            match TcpListener::bind(bound).await {
                Ok(tcp) => return Ok((self.listen(udp, tcp, view)?, bound)),
                // The port that UDP got may be in use for TCP.
                Err(error)
                    if addr.port() == 0
                        && error.kind() == io::ErrorKind::AddrInUse
                        && tries < 16 =>
                {
                    tries += 1;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Stops listening there and closes the sockets; false if there is no such listener.
    pub async fn remove(&self, id: ListenerId) -> bool {
        let Some(listener) = self.with_listeners(|listeners| listeners.remove(&id)) else {
            return false;
        };
        listener.stop.cancel();
        listener.tasks.wait().await;
        true
    }

    /// The addresses that are listened on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addrs: Vec<SocketAddr> = self.with_listeners(|listeners| {
            listeners
                .values()
                .map(|listener| listener.addrs[0])
                .collect()
        });
        addrs.sort_unstable();
        addrs
    }

    /// Forwards to other resolvers from now on. Of no effect on a server that was started with its own upstream.
    pub fn set_upstreams(&self, servers: Vec<SocketAddr>) {
        if let Some(net) = &self.net {
            net.set_servers(servers);
        }
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> DnsStats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsStats {
            answered: read(&counters.answered),
            forwarded: read(&counters.forwarded),
            forward_failures: read(&counters.forward_failures),
            malformed: read(&counters.malformed),
        }
    }

    /// Stops listening everywhere and closes all sockets.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let listeners: Vec<Listener> = self
            .with_listeners(|listeners| listeners.drain().map(|(_, listener)| listener).collect());
        for listener in listeners {
            listener.tasks.wait().await;
        }
    }

    fn with_listeners<T>(&self, change: impl FnOnce(&mut HashMap<ListenerId, Listener>) -> T) -> T {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut listeners);
        let own: Vec<SocketAddr> = listeners
            .values()
            .flat_map(|listener| listener.addrs.clone())
            .collect();
        self.shared.upstream.exclude(&own);
        result
    }
}

/// What the tasks of one listener share.
#[derive(Clone)]
struct Endpoint {
    shared: Arc<Shared>,
    view: Arc<Viewpoint>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

enum Outcome {
    Reply(Vec<u8>),
    Forward(Box<Message>),
    Nothing,
}

impl Endpoint {
    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buf = vec![0u8; 4096];
        loop {
            let received = tokio::select! {
                () = self.stop.cancelled() => return,
                received = socket.recv_from(&mut buf) => received,
            };
            let (len, from) = match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a DNS query");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            match self.decide(&buf[..len], false) {
                Outcome::Nothing => {}
                Outcome::Reply(reply) => send(&socket, &reply, from).await,
                Outcome::Forward(query) => {
                    let Ok(permit) = self.shared.forwards.clone().try_acquire_owned() else {
                        let reply = self.failed(&query, ResponseCode::ServFail, udp_limit(&query));
                        send(&socket, &reply, from).await;
                        continue;
                    };
                    let (raw, socket, this) = (buf[..len].to_vec(), socket.clone(), self.clone());
                    self.tasks.spawn(async move {
                        let forwarding = this.forward(&raw, &query, false);
                        tokio::select! {
                            () = this.stop.cancelled() => {}
                            reply = forwarding => send(&socket, &reply, from).await,
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let permit = tokio::select! {
                () = self.stop.cancelled() => return,
                permit = self.shared.connections.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else {
                return;
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let this = self.clone();
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = this.stop.cancelled() => {}
                            // An error ends the connection, which is all that can be done about it.
                            _ = this.serve_stream(stream) => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a DNS connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let len = timeout(self.shared.idle, stream.read_u16()).await??;
            let mut query = vec![0u8; usize::from(len)];
            timeout(self.shared.idle, stream.read_exact(&mut query)).await??;
            let reply = match self.decide(&query, true) {
                Outcome::Nothing => return Ok(()),
                Outcome::Reply(reply) => reply,
                Outcome::Forward(message) => match self.shared.forwards.try_acquire() {
                    Ok(_permit) => self.forward(&query, &message, true).await,
                    Err(_) => self.failed(&message, ResponseCode::ServFail, MAX_TCP),
                },
            };
            let len = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut framed = Vec::with_capacity(reply.len() + 2);
            framed.extend_from_slice(&len.to_be_bytes());
            framed.extend_from_slice(&reply);
            timeout(self.shared.idle, stream.write_all(&framed)).await??;
        }
    }

    fn decide(&self, bytes: &[u8], tcp: bool) -> Outcome {
        let counters = &self.shared.counters;
        let Ok(query) = Message::from_vec(bytes) else {
            counters.malformed.fetch_add(1, Ordering::Relaxed);
            return malformed(bytes);
        };
        let limit = if tcp { MAX_TCP } else { udp_limit(&query) };
        let rotation = self.shared.rotation.fetch_add(1, Ordering::Relaxed);
        let mut answered = Answer::Ignore;
        (self.shared.source).with(&mut |names| {
            answered = answer(&self.shared.zone, &query, names, &self.view, rotation);
        });
        match answered {
            Answer::Ignore => Outcome::Nothing,
            Answer::Reply(reply) => {
                counters.answered.fetch_add(1, Ordering::Relaxed);
                Outcome::Reply(encode(*reply, limit))
            }
            Answer::Forward if !self.shared.upstream.available() => {
                Outcome::Reply(self.failed(&query, ResponseCode::Refused, limit))
            }
            Answer::Forward => Outcome::Forward(Box::new(query)),
        }
    }

    async fn forward(&self, raw: &[u8], query: &Message, tcp: bool) -> Vec<u8> {
        let counters = &self.shared.counters;
        counters.forwarded.fetch_add(1, Ordering::Relaxed);
        match self.shared.upstream.exchange(raw, tcp).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, "no upstream resolver answered");
                let limit = if tcp { MAX_TCP } else { udp_limit(query) };
                self.failed(query, ResponseCode::ServFail, limit)
            }
        }
    }

    fn failed(&self, query: &Message, code: ResponseCode, limit: usize) -> Vec<u8> {
        if code == ResponseCode::ServFail {
            self.shared
                .counters
                .forward_failures
                .fetch_add(1, Ordering::Relaxed);
        }
        let mut reply = reply_to(query);
        reply.metadata.response_code = code;
        encode(reply, limit)
    }
}

/// FORMERR for what looks like a query but cannot be read, silence for all else.
fn malformed(bytes: &[u8]) -> Outcome {
    match *bytes {
        [a, b, flags, ..] if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([a, b]);
            let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            Outcome::Reply(encode(reply, 512))
        }
        _ => Outcome::Nothing,
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(reply, to).await {
        tracing::debug!(%to, %error, "cannot send a DNS answer");
    }
}
