//! Forwarding: a query that is not ours goes to the host's resolvers as it came, and so does the answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::wire::question;

/// How many resolvers are tried for one query.
const MAX_TRIES: usize = 3;

/// Answers queries for names that are not ours.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Whether there is anyone to ask.
    fn available(&self) -> bool;

    /// The addresses that this very server listens on: never to be asked, or queries would go round in circles.
    fn exclude(&self, own: &[SocketAddr]) {
        let _ = own;
    }

    /// Gets the answer to `query`, a whole DNS message, over the transport that the client used.
    async fn exchange(&self, query: &[u8], tcp: bool) -> io::Result<Vec<u8>>;
}

/// Resolvers reached over the network.
pub struct NetUpstream {
    servers: ArcSwap<Vec<SocketAddr>>,
    own: ArcSwap<Vec<SocketAddr>>,
    timeout: Duration,
    random: SystemRandom,
}

impl NetUpstream {
    /// Asks `servers` in order, each for at most `timeout`.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self {
            servers: ArcSwap::from_pointee(servers),
            own: ArcSwap::default(),
            timeout,
            random: SystemRandom::new(),
        }
    }

    /// Asks others from now on.
    pub fn set_servers(&self, servers: Vec<SocketAddr>) {
        self.servers.store(Arc::new(servers));
    }

    fn usable(&self) -> Vec<SocketAddr> {
        let own = self.own.load();
        self.servers
            .load()
            .iter()
            .copied()
            .filter(|server| !own.contains(server))
            .collect()
    }
}

#[async_trait]
impl Upstream for NetUpstream {
    fn available(&self) -> bool {
        !self.usable().is_empty()
    }

    fn exclude(&self, own: &[SocketAddr]) {
        self.own.store(Arc::new(own.to_vec()));
    }

    async fn exchange(&self, query: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
        let [first, second, ..] = *query else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // Our own random id, from a random port: the client's would be easier to guess.
        let mut id = [0u8; 2];
        self.random
            .fill(&mut id)
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let mut query = query.to_vec();
        query[..2].copy_from_slice(&id);

        let mut last = io::Error::new(
            io::ErrorKind::NotFound,
            "no upstream resolver is configured",
        );
        for server in self.usable().into_iter().take(MAX_TRIES) {
            let attempt = async {
                if tcp {
                    over_tcp(server, &query).await
                } else {
                    over_udp(server, &query).await
                }
            };
            match tokio::time::timeout(self.timeout, attempt).await {
                Ok(Ok(mut reply)) => {
                    reply[0] = first;
                    reply[1] = second;
                    return Ok(reply);
                }
                Ok(Err(error)) => last = error,
                Err(_) => {
                    last =
                        io::Error::new(io::ErrorKind::TimedOut, format!("{server} did not answer"));
                }
            }
        }
        Err(last)
    }
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut reply = vec![0u8; 4096];
    loop {
        let len = socket.recv(&mut reply).await?;
        if answers(query, &reply[..len]) {
            reply.truncate(len);
            return Ok(reply);
        }
        // Not the answer to this query: keep waiting, until the caller's patience ends.
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0u8; usize::from(len)];
    stream.read_exact(&mut reply).await?;
    if answers(query, &reply) {
        Ok(reply)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{server} answered another question"),
        ))
    }
}

/// Whether `reply` is a response to this very query.
fn answers(query: &[u8], reply: &[u8]) -> bool {
    let same_question = match (question(query), question(reply)) {
        (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
        // Some resolvers leave the question out of an error.
        (_, None) => true,
        (None, Some(_)) => false,
    };
    reply.len() >= 12 && reply[..2] == query[..2] && reply[2] & 0x80 != 0 && same_question
}

/// The resolvers that a `resolv.conf(5)` names.
#[must_use]
pub fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            let ip: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(ip, 53))
        })
        .collect()
}
