//! A backend that asks another one over gRPC.

use super::convert::{attach_start, commit_request, each, exec_start, into_each, logs_request};
use super::server::gather;
use super::status::from_status;
use super::{LARGEST_MESSAGE, chunks};
use crate::backend::{
    AttachOptions, CommitOptions, Create, ExecSpec, FileStat, Input, LogOptions, LogRecord, Output,
    PullEvent, PullOptions, PushEvent, Stats, Update,
};
use crate::model::{
    Answer, DiskUsage, Event, ExitStatus, HistoryEntry, Image, ImageConfig, Info, Kind, Lookup,
    Object, Query, Read,
};
use crate::{Backend, BoxStream, Error, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use swarm_proto::v1;
use swarm_proto::v1::backend_client::BackendClient;
use swarm_proto::v1::control_client::ControlClient;
use swarm_proto::v1::{attach_request, copy_in_request, exec_request, import_image_request};
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

/// What the first connection may take where a network is between.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a connection over a network is probed, so that a host without power is noticed.
const PROBE: Duration = Duration::from_secs(10);

/// A [`Backend`] and a [`crate::Control`] at the other end of a connection. Cheap to clone; all clones share one
/// connection, which is made again when it broke.
///
/// No call has a deadline of its own: put `tokio::time::timeout` around those that need one. A stream that is dropped
/// ends the call on the other side.
///
/// # Example
/// ```no_run
/// use futures_util::StreamExt;
/// use swarm_api::grpc::Client;
/// use swarm_api::Backend;
///
/// # async fn example() -> swarm_api::Result<()> {
/// let client = Client::connect("unix:///run/swarmd/cluster.sock").await?;
/// let mut events = client.watch(None).await?;
/// while let Some(event) = events.next().await {
///     let event = event?;
///     println!("{} {} was {:?}", event.kind, event.name, event.action);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to an agent: `unix:///run/swarmd/cluster.sock`, a plain path, or `http://HOST:PORT`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `target` is none of these, [`Error::Unavailable`] or [`Error::Denied`] where nobody
    /// answers there; the message names the socket and what to do.
    pub async fn connect(target: &str) -> Result<Self> {
        if let Some(path) = target.strip_prefix("unix://") {
            return Self::connect_unix(path.into()).await;
        }
        if target.starts_with('/') {
            return Self::connect_unix(target.into()).await;
        }
        if !target.starts_with("http://") {
            return Err(Error::Invalid(format!(
                "\"{target}\" is not the address of an agent: write unix:///PATH or http://HOST:PORT"
            )));
        }
        let endpoint = Endpoint::from_shared(target.to_owned())
            .map_err(|e| Error::Invalid(format!("\"{target}\" is not an address: {e}")))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PROBE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|e| {
            Error::Unavailable(format!(
                "cannot reach an agent at {target}: {}; is swarmd running there?",
                bottom(&e)
            ))
        })?;
        Ok(Self { channel })
    }

    /// A client over a connection that is there already.
    #[must_use]
    pub fn from_channel(channel: Channel) -> Self {
        Self { channel }
    }

    async fn connect_unix(path: PathBuf) -> Result<Self> {
        // Asked first by itself: the transport's own error hides the reason.
        UnixStream::connect(&path)
            .await
            .map_err(|e| unreachable_socket(&path, &e))?;
        let socket = path.clone();
        let channel = Endpoint::from_static("http://agent")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .map_err(|e| {
                Error::Unavailable(format!(
                    "the agent (swarmd) at {} does not answer: {}",
                    path.display(),
                    bottom(&e)
                ))
            })?;
        Ok(Self { channel })
    }

    fn backend(&self) -> BackendClient<Channel> {
        BackendClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }
}

#[async_trait::async_trait]
impl Backend for Client {
    async fn info(&self) -> Result<Info> {
        ask(self.backend().info(v1::InfoRequest {}).await)?.try_into()
    }

    async fn list(&self, query: Query) -> Result<Answer<Vec<Object>>> {
        gather(ask(self
            .backend()
            .list(v1::ListRequest::from(query))
            .await)?)
        .await
    }

    async fn get(&self, kind: Kind, name: String, read: Read) -> Result<Answer<Object>> {
        let request = v1::GetRequest {
            kind: v1::Kind::from(kind).into(),
            name,
            read: v1::Read::from(read).into(),
        };
        ask(self.backend().get(request).await)?.try_into()
    }

    async fn create(&self, what: Create) -> Result<Object> {
        ask(self.backend().create(v1::CreateRequest::from(what)).await)?.try_into()
    }

    async fn update(&self, what: Update) -> Result<Object> {
        ask(self.backend().update(v1::UpdateRequest::from(what)).await)?.try_into()
    }

    async fn remove(&self, kind: Kind, name: String, force: bool) -> Result<()> {
        let request = v1::RemoveRequest {
            kind: v1::Kind::from(kind).into(),
            name,
            force,
        };
        ask(self.backend().remove(request).await).map(drop)
    }

    async fn stop(&self, name: String, timeout: Option<Duration>) -> Result<()> {
        let timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let request = v1::StopRequest { name, timeout_ms };
        ask(self.backend().stop(request).await).map(drop)
    }

    async fn kill(&self, task: String, signal: i32) -> Result<()> {
        ask(self.backend().kill(v1::KillRequest { task, signal }).await).map(drop)
    }

    async fn wait(&self, task: String) -> Result<ExitStatus> {
        ask(self.backend().wait(v1::WaitRequest { task }).await).map(Into::into)
    }

    async fn logs(
        &self,
        name: String,
        options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        let request = logs_request(name, options);
        let records = ask(self.backend().logs(request).await)?;
        Ok(receive(records, TryInto::try_into))
    }

    async fn attach(
        &self,
        task: String,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        let (requests, held) = until_dropped(attach_requests(attach_start(task, options), input));
        let output = ask(self.backend().attach(requests).await)?;
        Ok(hold(receive(output, TryInto::try_into), held))
    }

    async fn exec(
        &self,
        task: String,
        spec: ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        let (requests, held) = until_dropped(exec_requests(exec_start(task, spec), input));
        let output = ask(self.backend().exec(requests).await)?;
        Ok(hold(receive(output, TryInto::try_into), held))
    }

    async fn stats(
        &self,
        tasks: Vec<String>,
        follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        let request = v1::StatsRequest { tasks, follow };
        let rounds = ask(self.backend().stats(request).await)?;
        Ok(receive(rounds, |round: v1::StatsResponse| {
            Ok(into_each(round.stats))
        }))
    }

    async fn watch(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        let events = ask(self.backend().watch(v1::WatchRequest { since }).await)?;
        Ok(receive(events, TryInto::try_into))
    }

    async fn lookup(&self, name: String, read: Read) -> Result<Answer<Lookup>> {
        let request = v1::LookupRequest {
            name,
            read: v1::Read::from(read).into(),
        };
        ask(self.backend().lookup(request).await)?.try_into()
    }

    async fn import_image(
        &self,
        name: String,
        config: ImageConfig,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image> {
        let start = v1::ImportImageStart {
            name,
            config: Some(config.into()),
        };
        let unreadable = Arc::default();
        let requests = import_requests(start, archive, Arc::clone(&unreadable));
        let (requests, _held) = until_dropped(requests);
        let answer = ask(self.backend().import_image(requests).await);
        or_why(answer, &unreadable)?.try_into()
    }

    async fn load_images(
        &self,
        name: Option<String>,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Vec<Image>> {
        let start = v1::ImportImageStart {
            name: name.unwrap_or_default(),
            config: None,
        };
        let unreadable = Arc::default();
        let requests = import_requests(start, archive, Arc::clone(&unreadable));
        let (requests, _held) = until_dropped(requests);
        let answer = ask(self.backend().load_images(requests).await);
        let images = or_why(answer, &unreadable)?.images;
        images.into_iter().map(TryInto::try_into).collect()
    }

    async fn stat_path(&self, task: String, path: String) -> Result<FileStat> {
        let request = v1::StatPathRequest { task, path };
        ask(self.backend().stat_path(request).await)?.try_into()
    }

    async fn copy_out(&self, task: String, path: String) -> Result<BoxStream<Result<Bytes>>> {
        let request = v1::CopyOutRequest { task, path };
        let archive = ask(self.backend().copy_out(request).await)?;
        Ok(receive(archive, |piece: v1::CopyOutResponse| {
            Ok(piece.chunk)
        }))
    }

    async fn copy_in(
        &self,
        task: String,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        use copy_in_request::Message;
        let unreadable = Arc::default();
        let start = Message::Start(v1::CopyInStart { task, path });
        let whole = Message::End(v1::Empty {});
        let messages = archive_messages(
            start,
            Message::Chunk,
            whole,
            archive,
            Arc::clone(&unreadable),
        );
        let requests = messages.map(|m| v1::CopyInRequest { message: Some(m) });
        let (requests, _held) = until_dropped(requests.boxed());
        let answer = ask(self.backend().copy_in(requests).await);
        or_why(answer, &unreadable).map(drop)
    }

    async fn save_images(&self, names: Vec<String>) -> Result<BoxStream<Result<Bytes>>> {
        let request = v1::SaveImagesRequest { names };
        let archive = ask(self.backend().save_images(request).await)?;
        Ok(receive(archive, |piece: v1::SaveImagesResponse| {
            Ok(piece.chunk)
        }))
    }

    async fn pull_image(
        &self,
        name: String,
        options: PullOptions,
    ) -> Result<BoxStream<Result<PullEvent>>> {
        let request = v1::PullImageRequest {
            name,
            policy: v1::PullPolicy::from(options.policy).into(),
            all_nodes: options.all_nodes,
            digest: options.digest.unwrap_or_default(),
        };
        let events = ask(self.backend().pull_image(request).await)?;
        Ok(receive(events, TryInto::try_into))
    }

    async fn image_history(&self, name: String) -> Result<Vec<HistoryEntry>> {
        let request = v1::ImageHistoryRequest { name };
        let answer = ask(self.backend().image_history(request).await)?;
        Ok(into_each(answer.entries))
    }

    async fn push_image(
        &self,
        name: String,
        to: Option<String>,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        let request = v1::PushImageRequest { name, to };
        let events = ask(self.backend().push_image(request).await)?;
        Ok(receive(events, TryInto::try_into))
    }

    async fn commit(&self, task: String, name: String, options: CommitOptions) -> Result<Image> {
        let request = commit_request(task, name, options);
        ask(self.backend().commit(request).await)?.try_into()
    }

    async fn tag_image(&self, name: String, to: String) -> Result<Image> {
        let request = v1::TagImageRequest { name, to };
        ask(self.backend().tag_image(request).await)?.try_into()
    }

    async fn disk_usage(&self) -> Result<Vec<DiskUsage>> {
        let answer = ask(self.backend().disk_usage(v1::DiskUsageRequest {}).await)?;
        each(answer.hosts)
    }

    async fn export_layer(&self, digest: String) -> Result<BoxStream<Result<Bytes>>> {
        let request = v1::ExportLayerRequest { digest };
        let layer = ask(self.backend().export_layer(request).await)?;
        Ok(receive(layer, |piece: v1::ExportLayerResponse| {
            Ok(piece.chunk)
        }))
    }
}

/// The answer, or why there was nothing to answer to.
fn or_why<T>(answer: Result<T>, unreadable: &Mutex<Option<Error>>) -> Result<T> {
    let reason = unreadable
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match (answer, reason) {
        (Err(_), Some(reason)) => Err(reason),
        (answer, _) => answer,
    }
}

fn attach_requests(
    start: v1::AttachStart,
    input: BoxStream<Input>,
) -> BoxStream<v1::AttachRequest> {
    use attach_request::Message;
    stream::iter([Message::Start(start)])
        .chain(pieces(input).map(|i| Message::Input(i.into())))
        .map(|m| v1::AttachRequest { message: Some(m) })
        .boxed()
}

fn exec_requests(start: v1::ExecStart, input: BoxStream<Input>) -> BoxStream<v1::ExecRequest> {
    use exec_request::Message;
    stream::iter([Message::Start(start)])
        .chain(pieces(input).map(|i| Message::Input(i.into())))
        .map(|m| v1::ExecRequest { message: Some(m) })
        .boxed()
}

fn import_requests(
    start: v1::ImportImageStart,
    archive: BoxStream<Result<Bytes>>,
    unreadable: Arc<Mutex<Option<Error>>>,
) -> BoxStream<v1::ImportImageRequest> {
    use import_image_request::Message;
    let (start, end) = (Message::Start(start), Message::End(v1::Empty {}));
    archive_messages(start, Message::Chunk, end, archive, unreadable)
        .map(|m| v1::ImportImageRequest { message: Some(m) })
        .boxed()
}

/// The messages that carry an archive. One that cannot be read ends them without `end`, and why is put in `unreadable`.
fn archive_messages<M: Send + 'static>(
    start: M,
    chunk: fn(Bytes) -> M,
    end: M,
    archive: BoxStream<Result<Bytes>>,
    unreadable: Arc<Mutex<Option<Error>>>,
) -> BoxStream<M> {
    let pieces = archive
        .map_ok(|bytes| stream::iter(chunks::split(bytes, chunks::ARCHIVE).map(Ok)))
        .try_flatten()
        .map_ok(chunk)
        .chain(stream::once(async { Ok(end) }))
        .scan(unreadable, |unreadable, piece: Result<M>| {
            let piece = piece.map_err(|why| {
                *unreadable.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            });
            std::future::ready(piece.ok())
        });
    stream::once(async { start }).chain(pieces).boxed()
}

fn ask<T>(answer: std::result::Result<Response<T>, Status>) -> Result<T> {
    answer
        .map(Response::into_inner)
        .map_err(|status| from_status(&status))
}

fn receive<A: Send + 'static, B: 'static>(
    messages: Streaming<A>,
    convert: impl Fn(A) -> Result<B> + Send + 'static,
) -> BoxStream<Result<B>> {
    messages
        .map(move |message| message.map_err(|s| from_status(&s)).and_then(&convert))
        .boxed()
}

/// Input in pieces that fit a message.
fn pieces(input: BoxStream<Input>) -> BoxStream<Input> {
    input
        .flat_map(|input| match input {
            Input::Stdin(bytes) => {
                stream::iter(chunks::split(bytes, chunks::OUTPUT).map(Input::Stdin)).boxed()
            }
            other => stream::iter([other]).boxed(),
        })
        .boxed()
}

/// The messages of a call. A type of its own, because the compiler cannot prove a boxed stream `'static` once it is
/// held over an await (rust-lang/rust#102211).
struct Requests<T>(BoxStream<T>);

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Ends `requests` when the guard is dropped. Otherwise a request stream that waits for input would keep the call
/// open on the other side after the response stream was dropped.
fn until_dropped<T: Send + 'static>(requests: BoxStream<T>) -> (Requests<T>, DropGuard) {
    let token = CancellationToken::new();
    let requests = requests.take_until(token.clone().cancelled_owned()).boxed();
    (Requests(requests), token.drop_guard())
}

fn hold<T: 'static>(stream: BoxStream<T>, guard: DropGuard) -> BoxStream<T> {
    stream
        .map(move |item| {
            let _held = &guard;
            item
        })
        .boxed()
}

fn unreachable_socket(path: &std::path::Path, why: &std::io::Error) -> Error {
    let socket = path.display();
    match why.kind() {
        std::io::ErrorKind::PermissionDenied => Error::Denied(format!(
            "cannot use the agent's socket {socket}: {why}; run this as root, or as a member of the socket's group \
             (swarmd made it)"
        )),
        _ => Error::Unavailable(format!(
            "cannot reach the agent at {socket}: {why}; is swarmd running? Start it, or name its socket with --host"
        )),
    }
}

/// The cause at the bottom of an error of the transport.
fn bottom(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
