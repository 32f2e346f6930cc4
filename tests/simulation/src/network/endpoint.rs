//! The network as the programs of one host see it, in one life of the host.

use super::stream::SimStream;
use super::{Fabric, Incoming, Mailbox};
use async_trait::async_trait;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use swarm_member::{BoxStream, Datagrams, Network, StreamListener};

/// Where ports begin that are given to who opens a stream.
const EPHEMERAL: u16 = 32_768;

/// The network as one host sees it.
#[derive(Clone)]
pub struct HostNetwork {
    fabric: Fabric,
    ip: IpAddr,
    life: u64,
}

impl HostNetwork {
    pub(super) fn new(fabric: Fabric, ip: IpAddr, life: u64) -> Self {
        Self { fabric, ip, life }
    }
}

/// Nobody asks any more who lives in an earlier life of the host.
fn gone() -> io::Error {
    io::ErrorKind::NetworkDown.into()
}

#[async_trait]
impl Network for HostNetwork {
    async fn listen(&self, at: SocketAddr) -> io::Result<Box<dyn StreamListener>> {
        let mut inner = self.fabric.lock();
        let ports = inner.hosts.get_mut(&self.ip).ok_or_else(gone)?;
        if ports.listeners.contains_key(&at.port()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        ports.listeners.insert(at.port(), Incoming::default());
        drop(inner);
        Ok(Box::new(Listening(self.clone(), at.port())))
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<BoxStream> {
        let id = {
            let mut inner = self.fabric.lock();
            let port = EPHEMERAL + u16::try_from(inner.sequence % 28_000).unwrap_or_default();
            inner.new_stream(SocketAddr::new(self.ip, port), to)
        };
        // Dropped when it is given up.
        let stream = SimStream::new(self.fabric.clone(), id, 0);
        std::future::poll_fn(|cx| {
            let mut inner = self.fabric.lock();
            let Some(ends) = inner.streams.get_mut(&id) else {
                return Poll::Ready(Err(gone()));
            };
            if ends.refused {
                return Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()));
            }
            if ends.open {
                return Poll::Ready(Ok(()));
            }
            ends.opening = Some(cx.waker().clone());
            Poll::Pending
        })
        .await?;
        Ok(Box::new(stream))
    }

    async fn bind(&self, at: SocketAddr) -> io::Result<Arc<dyn Datagrams>> {
        let mut inner = self.fabric.lock();
        let ports = inner.hosts.get_mut(&self.ip).ok_or_else(gone)?;
        if ports.sockets.contains_key(&at.port()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        ports.sockets.insert(at.port(), Mailbox::default());
        drop(inner);
        Ok(Arc::new(Socket(self.clone(), at.port())))
    }

    async fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        let address = host.parse().map_err(|_| io::ErrorKind::NotFound)?;
        Ok(vec![address])
    }
}

struct Listening(HostNetwork, u16);

#[async_trait]
impl StreamListener for Listening {
    async fn accept(&self) -> io::Result<(BoxStream, SocketAddr)> {
        let Self(host, port) = self;
        let (stream, from) = std::future::poll_fn(|cx| {
            let mut inner = host.fabric.lock();
            let ports = inner
                .hosts
                .get_mut(&host.ip)
                .filter(|p| p.life == host.life);
            let Some(incoming) = ports.and_then(|p| p.listeners.get_mut(port)) else {
                return Poll::Ready(Err(gone()));
            };
            if let Some(next) = incoming.streams.pop_front() {
                return Poll::Ready(Ok(next));
            }
            incoming.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await?;
        Ok((Box::new(stream), from))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Self(host, port) = self;
        let mut inner = host.fabric.lock();
        let ports = inner
            .hosts
            .get_mut(&host.ip)
            .filter(|p| p.life == host.life);
        let waiting = ports.and_then(|p| p.listeners.remove(port));
        drop(inner);
        // Streams that nobody took are closed, which needs the lock.
        drop(waiting);
    }
}

struct Socket(HostNetwork, u16);

impl Datagrams for Socket {
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let Self(host, port) = self;
        let mut inner = host.fabric.lock();
        let ports = inner
            .hosts
            .get_mut(&host.ip)
            .filter(|p| p.life == host.life);
        let Some(mailbox) = ports.and_then(|p| p.sockets.get_mut(port)) else {
            return Poll::Ready(Err(gone()));
        };
        let Some((bytes, from)) = mailbox.datagrams.pop_front() else {
            mailbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let count = bytes.len().min(buf.len());
        buf[..count].copy_from_slice(&bytes[..count]);
        Poll::Ready(Ok((count, from)))
    }

    fn poll_send(&self, _cx: &mut Context<'_>, buf: &[u8], to: SocketAddr) -> Poll<io::Result<()>> {
        let Self(host, port) = self;
        let mut inner = host.fabric.lock();
        if inner
            .hosts
            .get(&host.ip)
            .is_none_or(|p| p.life != host.life)
        {
            return Poll::Ready(Err(gone()));
        }
        inner.send_datagram(SocketAddr::new(host.ip, *port), to, buf);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Self(host, port) = self;
        let mut inner = host.fabric.lock();
        if let Some(ports) = inner
            .hosts
            .get_mut(&host.ip)
            .filter(|p| p.life == host.life)
        {
            ports.sockets.remove(port);
        }
    }
}
