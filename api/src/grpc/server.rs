//! `swarm.v1.Backend`, answered by any [`Backend`]. Streams are pulled: the backend's stream is asked for more only
//! when the client takes it, and dropped when the client goes.

use super::chunks;
use super::convert::{each, exec_spec, into_each, kind, present, pull_policy, read};
use super::status::to_status;
use crate::backend::{
    AttachOptions, Input, LogOptions, LogRecord, Output, PullEvent, PullOptions, PushEvent,
};
use crate::model::{Answer, Freshness, ImageConfig, Object};
use crate::{Backend, BoxStream, Error, Result};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use swarm_proto::v1;
use swarm_proto::v1::{attach_request, copy_in_request, exec_request, import_image_request};
use tonic::{Request, Response, Status, Streaming};

/// Objects in one message of a list.
const OBJECTS: usize = 256;

/// A backend behind the wire.
pub(crate) struct BackendService {
    backend: Arc<dyn Backend>,
}

impl BackendService {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }
}

type Reply<T> = std::result::Result<Response<T>, Status>;
type Items<T> = BoxStream<std::result::Result<T, Status>>;

#[async_trait::async_trait]
impl v1::backend_server::Backend for BackendService {
    type ListStream = Items<v1::ListResponse>;
    type LogsStream = Items<v1::LogRecord>;
    type AttachStream = Items<v1::ProcessOutput>;
    type ExecStream = Items<v1::ProcessOutput>;
    type StatsStream = Items<v1::StatsResponse>;
    type WatchStream = Items<v1::Event>;
    type SaveImagesStream = Items<v1::SaveImagesResponse>;
    type PullImageStream = Items<v1::PullImageResponse>;
    type ExportLayerStream = Items<v1::ExportLayerResponse>;
    type CopyOutStream = Items<v1::CopyOutResponse>;
    type PushImageStream = Items<v1::PushImageResponse>;

    async fn info(&self, _: Request<v1::InfoRequest>) -> Reply<v1::InfoResponse> {
        reply(self.backend.info().await)
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Reply<Self::ListStream> {
        let answer = async { self.backend.list(request.into_inner().try_into()?).await };
        let Answer { value, freshness } = answer.await.map_err(to_status)?;
        Ok(Response::new(pages(value, freshness)))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Reply<v1::GetResponse> {
        let r = request.into_inner();
        reply(async { self.backend.get(kind(r.kind)?, r.name, read(r.read)?).await }.await)
    }

    async fn create(&self, request: Request<v1::CreateRequest>) -> Reply<v1::Object> {
        reply(async { self.backend.create(request.into_inner().try_into()?).await }.await)
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Reply<v1::Object> {
        reply(async { self.backend.update(request.into_inner().try_into()?).await }.await)
    }

    async fn remove(&self, request: Request<v1::RemoveRequest>) -> Reply<v1::RemoveResponse> {
        let r = request.into_inner();
        let done = async { self.backend.remove(kind(r.kind)?, r.name, r.force).await };
        done.await.map_err(to_status)?;
        Ok(Response::new(v1::RemoveResponse {}))
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Reply<v1::StopResponse> {
        let r = request.into_inner();
        let timeout = r.timeout_ms.map(Duration::from_millis);
        self.backend
            .stop(r.name, timeout)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::StopResponse {}))
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> Reply<v1::KillResponse> {
        let r = request.into_inner();
        self.backend
            .kill(r.task, r.signal)
            .await
            .map_err(to_status)?;
        Ok(Response::new(v1::KillResponse {}))
    }

    async fn wait(&self, request: Request<v1::WaitRequest>) -> Reply<v1::ExitStatus> {
        reply(self.backend.wait(request.into_inner().task).await)
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Reply<Self::LogsStream> {
        let request = request.into_inner();
        let options = LogOptions::from(&request);
        let records = self.backend.logs(request.name, options).await;
        items(records, |record: LogRecord| [v1::LogRecord::from(record)])
    }

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Reply<Self::AttachStream> {
        let mut messages = request.into_inner();
        let Some(attach_request::Message::Start(start)) =
            messages.message().await?.and_then(|m| m.message)
        else {
            return Err(no_start("Attach"));
        };
        let input = inputs(messages, |m| match m.message {
            Some(attach_request::Message::Input(input)) => Some(input),
            _ => None,
        });
        let output = async {
            let options = AttachOptions::try_from(&start)?;
            self.backend.attach(start.task, options, input).await
        };
        items(output.await, outputs)
    }

    async fn exec(&self, request: Request<Streaming<v1::ExecRequest>>) -> Reply<Self::ExecStream> {
        let mut messages = request.into_inner();
        let Some(exec_request::Message::Start(start)) =
            messages.message().await?.and_then(|m| m.message)
        else {
            return Err(no_start("Exec"));
        };
        let input = inputs(messages, |m| match m.message {
            Some(exec_request::Message::Input(input)) => Some(input),
            _ => None,
        });
        let output = async {
            let (task, spec) = exec_spec(start)?;
            self.backend.exec(task, spec, input).await
        };
        items(output.await, outputs)
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Reply<Self::StatsStream> {
        let r = request.into_inner();
        items(self.backend.stats(r.tasks, r.follow).await, |stats| {
            [v1::StatsResponse {
                stats: into_each(stats),
            }]
        })
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Reply<Self::WatchStream> {
        let events = self.backend.watch(request.into_inner().since).await;
        items(events, |event| [v1::Event::from(event)])
    }

    async fn lookup(&self, request: Request<v1::LookupRequest>) -> Reply<v1::LookupResponse> {
        let r = request.into_inner();
        reply(async { self.backend.lookup(r.name, read(r.read)?).await }.await)
    }

    async fn import_image(
        &self,
        request: Request<Streaming<v1::ImportImageRequest>>,
    ) -> Reply<v1::Image> {
        let mut messages = request.into_inner();
        let Some(import_image_request::Message::Start(start)) =
            messages.message().await?.and_then(|m| m.message)
        else {
            return Err(no_start("ImportImage"));
        };
        let config = start.config.map(ImageConfig::from).unwrap_or_default();
        let image = self
            .backend
            .import_image(start.name, config, archive(messages))
            .await;
        reply(image)
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Reply<Self::PullImageStream> {
        let r = request.into_inner();
        let events = async {
            let options = PullOptions {
                policy: pull_policy(r.policy)?,
                all_nodes: r.all_nodes,
                digest: Some(r.digest).filter(|d| !d.is_empty()),
            };
            self.backend.pull_image(r.name, options).await
        };
        items(events.await, |event: PullEvent| {
            [v1::PullImageResponse::from(event)]
        })
    }

    async fn load_images(
        &self,
        request: Request<Streaming<v1::ImportImageRequest>>,
    ) -> Reply<v1::LoadImagesResponse> {
        let mut messages = request.into_inner();
        let Some(import_image_request::Message::Start(start)) =
            messages.message().await?.and_then(|m| m.message)
        else {
            return Err(no_start("LoadImages"));
        };
        let name = Some(start.name).filter(|name| !name.is_empty());
        let images = self.backend.load_images(name, archive(messages)).await;
        let images = into_each(images.map_err(to_status)?);
        Ok(Response::new(v1::LoadImagesResponse { images }))
    }

    async fn stat_path(&self, request: Request<v1::StatPathRequest>) -> Reply<v1::FileStat> {
        let r = request.into_inner();
        reply(self.backend.stat_path(r.task, r.path).await)
    }

    async fn copy_out(&self, request: Request<v1::CopyOutRequest>) -> Reply<Self::CopyOutStream> {
        let r = request.into_inner();
        items(self.backend.copy_out(r.task, r.path).await, |bytes| {
            chunks::split(bytes, chunks::ARCHIVE).map(|chunk| v1::CopyOutResponse { chunk })
        })
    }

    async fn copy_in(
        &self,
        request: Request<Streaming<v1::CopyInRequest>>,
    ) -> Reply<v1::CopyInResponse> {
        let mut messages = request.into_inner();
        let Some(copy_in_request::Message::Start(start)) =
            messages.message().await?.and_then(|m| m.message)
        else {
            return Err(no_start("CopyIn"));
        };
        let archive = pieces(messages, |m| match m.message {
            Some(copy_in_request::Message::Chunk(chunk)) => Part::Chunk(chunk),
            Some(copy_in_request::Message::End(_)) => Part::End,
            _ => Part::Other,
        });
        let copied = self.backend.copy_in(start.task, start.path, archive).await;
        copied.map_err(to_status)?;
        Ok(Response::new(v1::CopyInResponse {}))
    }

    async fn save_images(
        &self,
        request: Request<v1::SaveImagesRequest>,
    ) -> Reply<Self::SaveImagesStream> {
        let archive = self.backend.save_images(request.into_inner().names).await;
        items(archive, |bytes| {
            chunks::split(bytes, chunks::ARCHIVE).map(|chunk| v1::SaveImagesResponse { chunk })
        })
    }

    async fn image_history(
        &self,
        request: Request<v1::ImageHistoryRequest>,
    ) -> Reply<v1::ImageHistoryResponse> {
        let entries = self.backend.image_history(request.into_inner().name).await;
        let entries = into_each(entries.map_err(to_status)?);
        Ok(Response::new(v1::ImageHistoryResponse { entries }))
    }

    async fn push_image(
        &self,
        request: Request<v1::PushImageRequest>,
    ) -> Reply<Self::PushImageStream> {
        let r = request.into_inner();
        let events = self.backend.push_image(r.name, r.to).await;
        items(events, |event: PushEvent| {
            [v1::PushImageResponse::from(event)]
        })
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Reply<v1::Image> {
        let r = request.into_inner();
        let (task, name) = (r.task.clone(), r.name.clone());
        reply(self.backend.commit(task, name, r.into()).await)
    }

    async fn tag_image(&self, request: Request<v1::TagImageRequest>) -> Reply<v1::Image> {
        let r = request.into_inner();
        reply(self.backend.tag_image(r.name, r.to).await)
    }

    async fn disk_usage(&self, _: Request<v1::DiskUsageRequest>) -> Reply<v1::DiskUsageResponse> {
        let hosts = into_each(self.backend.disk_usage().await.map_err(to_status)?);
        Ok(Response::new(v1::DiskUsageResponse { hosts }))
    }

    async fn export_layer(
        &self,
        request: Request<v1::ExportLayerRequest>,
    ) -> Reply<Self::ExportLayerStream> {
        let layer = self.backend.export_layer(request.into_inner().digest).await;
        items(layer, |bytes| {
            chunks::split(bytes, chunks::ARCHIVE).map(|chunk| v1::ExportLayerResponse { chunk })
        })
    }
}

fn reply<A, B: From<A>>(answer: Result<A>) -> Reply<B> {
    answer.map(|a| Response::new(a.into())).map_err(to_status)
}

/// A stream of a backend as a stream of messages, some for each item.
fn items<A, B, I>(
    answer: Result<BoxStream<Result<A>>>,
    convert: impl Fn(A) -> I + Send + 'static,
) -> Reply<Items<B>>
where
    A: Send + 'static,
    B: Send + 'static,
    I: IntoIterator<Item = B> + 'static,
    I::IntoIter: Send,
{
    let source = answer.map_err(to_status)?;
    let messages = source.flat_map(move |item| match item {
        Ok(item) => stream::iter(convert(item)).map(Ok).boxed(),
        Err(why) => stream::iter([Err(to_status(why))]).boxed(),
    });
    Ok(Response::new(messages.boxed()))
}

fn outputs(output: Output) -> Vec<v1::ProcessOutput> {
    match output {
        Output::Stdout(bytes) => chunks::split(bytes, chunks::OUTPUT)
            .map(|b| Output::Stdout(b).into())
            .collect(),
        Output::Stderr(bytes) => chunks::split(bytes, chunks::OUTPUT)
            .map(|b| Output::Stderr(b).into())
            .collect(),
        exit @ Output::Exit(_) => vec![exit.into()],
    }
}

/// The input of a client, until it ends, breaks off or is malformed.
fn inputs<M: Send + 'static>(
    messages: Streaming<M>,
    part: impl Fn(M) -> Option<v1::ProcessInput> + Send + 'static,
) -> BoxStream<Input> {
    stream::unfold((messages, part), |(mut messages, part)| async move {
        let message = messages.message().await.ok().flatten()?;
        let input = Input::try_from(part(message)?).ok()?;
        Some((input, (messages, part)))
    })
    .boxed()
}

/// A message of a stream that carries an archive.
enum Part {
    Chunk(Bytes),
    End,
    Other,
}

fn archive(messages: Streaming<v1::ImportImageRequest>) -> BoxStream<Result<Bytes>> {
    pieces(messages, |m| match m.message {
        Some(import_image_request::Message::Chunk(chunk)) => Part::Chunk(chunk),
        Some(import_image_request::Message::End(_)) => Part::End,
        _ => Part::Other,
    })
}

/// The pieces of an archive. One that breaks off ends with an error, so that it is never taken for a whole one.
fn pieces<M: Send + 'static>(
    messages: Streaming<M>,
    part: fn(M) -> Part,
) -> BoxStream<Result<Bytes>> {
    let cut_off = |why: &str| Error::Invalid(format!("the archive was cut off: {why}"));
    stream::unfold(Some(messages), move |messages| async move {
        let mut messages = messages?;
        let piece = match messages.message().await {
            Ok(Some(message)) => match part(message) {
                Part::Chunk(chunk) => Ok(chunk),
                Part::End => return None,
                Part::Other => Err(cut_off("a message that is neither a piece nor the end")),
            },
            Ok(None) => Err(cut_off("the client ended without saying that it was whole")),
            Err(status) => Err(cut_off(status.message())),
        };
        let next = piece.is_ok().then_some(messages);
        Some((piece, next))
    })
    .boxed()
}

fn pages(objects: Vec<Object>, freshness: Freshness) -> Items<v1::ListResponse> {
    let mut first = Some(v1::Freshness::from(freshness));
    let mut objects = objects.into_iter();
    let pages = std::iter::from_fn(move || {
        let page: Vec<v1::Object> = objects.by_ref().take(OBJECTS).map(Into::into).collect();
        let freshness = first.take();
        (freshness.is_some() || !page.is_empty()).then_some(Ok(v1::ListResponse {
            objects: page,
            freshness,
        }))
    });
    stream::iter(pages).boxed()
}

/// Reads a list back together.
pub(crate) async fn gather(mut pages: Streaming<v1::ListResponse>) -> Result<Answer<Vec<Object>>> {
    let mut answer = Answer::<Vec<Object>>::default();
    let mut first = true;
    while let Some(page) = pages
        .message()
        .await
        .map_err(|s| super::status::from_status(&s))?
    {
        if std::mem::take(&mut first) {
            answer.freshness = present("freshness", page.freshness)?.into();
        }
        answer.value.extend(each::<_, Object>(page.objects)?);
    }
    Ok(answer)
}

fn no_start(call: &str) -> Status {
    to_status(Error::Invalid(format!(
        "the first message of {call} is not `start`"
    )))
}
