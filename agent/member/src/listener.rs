//! The one listener between agents: accepts streams, ends TLS, and hands connections on with who is at their other end.

use crate::guard::{Caller, GuardLayer};
use crate::seldom::Seldom;
use crate::tls::{self, Tls};
use crate::world::{BoxStream, StreamListener};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at the same time; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// How long connections have to finish what they are at when the node stops.
const GRACE: Duration = Duration::from_millis(500);

/// The running server.
pub(crate) struct Listener {
    stop: CancellationToken,
    kill: CancellationToken,
    accept: JoinHandle<()>,
    serve: JoinHandle<()>,
}

impl Listener {
    pub(crate) fn start(
        streams: Box<dyn StreamListener>,
        tls: &Tls,
        cluster: &str,
        guard: GuardLayer,
        routes: Routes,
    ) -> Self {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (ready, incoming) = mpsc::channel(16);
        let accept = tokio::spawn(accept(
            streams,
            TlsAcceptor::from(Arc::clone(&tls.server)),
            cluster.to_owned(),
            ready,
            kill.clone(),
        ));
        let stopped = stop.clone().cancelled_owned();
        let serve = tokio::spawn(async move {
            let server = Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(10)))
                .http2_keepalive_timeout(Some(Duration::from_secs(5)))
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .layer(guard)
                .add_routes(routes)
                .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped);
            if let Err(e) = server.await {
                tracing::error!("the server for other agents ended: {e}");
            }
        });
        Self {
            stop,
            kill,
            accept,
            serve,
        }
    }

    /// Closes the port, then the connections.
    pub(crate) async fn close(self) {
        self.accept.abort();
        let _ = self.accept.await;
        self.stop.cancel();
        let mut serve = self.serve;
        if tokio::time::timeout(GRACE, &mut serve).await.is_err() {
            // Streams that follow the log end with their connections only.
            self.kill.cancel();
            if tokio::time::timeout(GRACE, &mut serve).await.is_err() {
                serve.abort();
            }
        }
    }
}

async fn accept(
    streams: Box<dyn StreamListener>,
    acceptor: TlsAcceptor,
    cluster: String,
    ready: mpsc::Sender<io::Result<Connection>>,
    kill: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let refused = Arc::new(Seldom::default());
    let failed = Seldom::default();
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let (stream, from) = match streams.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                failed.tell(|more| tracing::warn!(more, "cannot accept a connection: {e}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, cluster, ready, kill, refused) = (
            acceptor.clone(),
            cluster.clone(),
            ready.clone(),
            kill.clone(),
            Arc::clone(&refused),
        );
        tokio::spawn(async move {
            let _permit = permit;
            let handshake = acceptor.accept(stream);
            let done = tokio::select! {
                done = tokio::time::timeout(HANDSHAKE, handshake) => done,
                () = kill.cancelled() => return,
            };
            match done {
                Ok(Ok(stream)) => {
                    let peer = tls::peer_of(stream.get_ref().1.peer_certificates(), &cluster);
                    let connection = Connection {
                        stream,
                        caller: Caller(peer),
                        killed: Box::pin(kill.cancelled_owned()),
                    };
                    // Nobody takes it when the node stops.
                    let _ = ready.send(Ok(connection)).await;
                }
                Ok(Err(e)) => refused.tell(|more| tracing::warn!(%from, more, "a TLS handshake was refused: {e}")),
                Err(_) => refused.tell(|more| tracing::warn!(%from, more, "a TLS handshake took longer than {HANDSHAKE:?}")),
            }
        });
    }
}

/// A connection with who is at its other end. Reading fails once the node has stopped.
struct Connection {
    stream: TlsStream<BoxStream>,
    caller: Caller,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.killed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
