//! What a member has around it, handed in: streams and datagrams to others, a disk, the wall clock, random numbers. The
//! system's own are here as well; a simulation hands in others, and everything else is the same code. Monotonic time is
//! `tokio::time`, which a simulation drives.
//!
//! It must not know what is sent, kept or drawn. What TLS draws by itself (nonces, ephemeral keys) is the system's: it
//! decides nothing and changes no length.

use crate::shared::Shared;
use async_trait::async_trait;
use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};
use swarm_api::model::Timestamp;
use swarm_api::{Error, Result};
use swarm_consensus::{DirDisk, Disk};
use swarm_discovery::membership::DatagramSocket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What a member has around it. Clones are the same.
#[derive(Clone)]
pub struct World {
    /// Where others are reached.
    pub network: Arc<dyn Network>,
    /// Where things are kept.
    pub storage: Arc<dyn Storage>,
    /// Tells the wall clock's time.
    pub clock: Clock,
    /// Gives random numbers.
    pub entropy: Arc<dyn Entropy>,
    /// What its replica shares with others of this process; nothing but in a simulation.
    pub shared: Option<Shared>,
}

/// Tells the wall clock's time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A stream of bytes to another host, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A stream of bytes to another host, whatever it is made of.
pub type BoxStream = Box<dyn Stream>;

/// Streams and datagrams between hosts, as TCP and UDP give them.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Takes streams in at an address.
    ///
    /// # Errors
    /// What the network says; the address may be in use.
    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn StreamListener>>;

    /// Opens a stream to an address.
    ///
    /// # Errors
    /// What the network says; nobody may listen there.
    async fn connect(&self, to: SocketAddr) -> io::Result<BoxStream>;

    /// Takes datagrams in at an address, and sends from it.
    ///
    /// # Errors
    /// What the network says; the address may be in use.
    async fn bind(&self, at: SocketAddr) -> io::Result<Arc<dyn Datagrams>>;

    /// The addresses of `HOST:PORT`.
    ///
    /// # Errors
    /// When there is no such host.
    async fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>>;
}

/// Where streams come in.
#[async_trait]
pub trait StreamListener: Send + Sync + 'static {
    /// Waits for the next one; also says from where.
    ///
    /// # Errors
    /// What the network says. The next one can still be waited for.
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)>;
}

/// Where datagrams come in and go out.
pub trait Datagrams: Send + Sync + 'static {
    /// Takes one in, if one is there; says how long it is and from where.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>>;

    /// Sends one, if there is room.
    fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8], to: SocketAddr) -> Poll<io::Result<()>>;
}

/// Where a host keeps what must outlast it, in folders.
pub trait Storage: Send + Sync + 'static {
    /// A folder of its own. Nothing is made before something is written.
    ///
    /// # Errors
    /// What the disk says.
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>>;

    /// What a person calls a folder: a path, for messages.
    fn describe(&self, name: &str) -> String;
}

/// Random numbers that nobody can guess.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// When there are none.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;
}

impl World {
    /// The system's own, with everything that lasts below `data_dir`.
    #[must_use]
    pub fn system(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            network: Arc::new(Sockets),
            storage: Arc::new(Directory(data_dir.into())),
            clock: Arc::new(system_time),
            entropy: Arc::new(SystemRandom::new()),
            shared: None,
        }
    }

    /// The time by this host's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Random bytes.
    ///
    /// # Errors
    /// [`Error::Internal`] when there are none.
    pub fn random<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.entropy
            .fill(&mut bytes)
            .map_err(|e| Error::Internal(format!("the system gives no random numbers: {e}")))?;
        Ok(bytes)
    }
}

/// TCP and UDP of this host.
struct Sockets;

#[async_trait]
impl Network for Sockets {
    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn StreamListener>> {
        Ok(Box::new(TcpListener::bind(at).await?))
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        Ok(Arc::new(UdpSocket::bind(at).await?))
    }

    async fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(host).await?.collect())
    }
}

#[async_trait]
impl StreamListener for TcpListener {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), from))
    }
}

impl Datagrams for UdpSocket {
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buf = ReadBuf::new(buf);
        self.poll_recv_from(cx, &mut buf)
            .map_ok(|from| (buf.filled().len(), from))
    }

    fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8], to: SocketAddr) -> Poll<io::Result<()>> {
        self.poll_send_to(cx, buf, to).map_ok(drop)
    }
}

/// The gossip's socket, whatever it is made of.
pub(crate) struct Gossip(pub(crate) Arc<dyn Datagrams>);

impl DatagramSocket for Gossip {
    async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        std::future::poll_fn(|cx| self.0.poll_recv(cx, buf)).await
    }

    async fn send_to(&self, buf: &[u8], to: SocketAddr) -> io::Result<()> {
        std::future::poll_fn(|cx| self.0.poll_send(cx, buf, to)).await
    }
}

/// A directory of this host's file system.
struct Directory(PathBuf);

impl Storage for Directory {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        Ok(Arc::new(DirDisk::open(self.0.join(name))?))
    }

    fn describe(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Entropy for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        SecureRandom::fill(self, bytes).map_err(|e| io::Error::other(e.to_string()))
    }
}

fn system_time() -> Timestamp {
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
