//! Every verb over a real unix socket, asked of a backend that records what it was asked.

use super::*;
use crate::backend::*;
use crate::control::{Joined, Token};
use crate::model::*;
use crate::{Backend, BoxStream, Control, Error, Result};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Answers each verb with something that can be told apart, and what is called `ghost` with an error.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    /// Rounds of `stats` that were pulled.
    pulled: Arc<AtomicUsize>,
    /// Cancelled when a stream that goes on is dropped.
    dropped: CancellationToken,
    tasks: usize,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

fn fresh<T>(value: T) -> Answer<T> {
    Answer {
        value,
        freshness: Freshness {
            index: 7,
            stale: true,
            age_ms: Some(3),
        },
    }
}

fn network(name: &str) -> Object {
    Object::Network(Network {
        id: Id::from_u64(1),
        name: name.into(),
        subnet: "10.0.0.0/16".parse().unwrap(),
        vni: 1,
        created_at: Timestamp(1),
    })
}

fn ghost(name: &str) -> Result<()> {
    match name {
        "ghost" => Err(Error::NotFound("nothing is called ghost".into())),
        "busy" => Err(Error::Conflict("busy is busy: wait".into())),
        _ => Ok(()),
    }
}

#[async_trait::async_trait]
impl Backend for Fake {
    async fn info(&self) -> Result<Info> {
        Err(Error::Unsupported("no info".into()))
    }

    async fn list(&self, query: Query) -> Result<Answer<Vec<Object>>> {
        self.note(format!("list {query:?}"));
        Ok(fresh(
            (0..self.tasks).map(|n| network(&format!("n{n}"))).collect(),
        ))
    }

    async fn get(&self, kind: Kind, name: String, read: Read) -> Result<Answer<Object>> {
        ghost(&name)?;
        self.note(format!("get {kind} {name} {read:?}"));
        Ok(fresh(network(&name)))
    }

    async fn create(&self, what: Create) -> Result<Object> {
        self.note(format!("create {what:?}"));
        Ok(network("made"))
    }

    async fn update(&self, what: Update) -> Result<Object> {
        self.note(format!("update {what:?}"));
        Ok(network("changed"))
    }

    async fn remove(&self, kind: Kind, name: String, force: bool) -> Result<()> {
        self.note(format!("remove {kind} {name} {force}"));
        ghost(&name)
    }

    async fn stop(&self, name: String, timeout: Option<Duration>) -> Result<()> {
        self.note(format!("stop {name} {timeout:?}"));
        ghost(&name)
    }

    async fn kill(&self, task: String, signal: i32) -> Result<()> {
        self.note(format!("kill {task} {signal}"));
        ghost(&task)
    }

    async fn wait(&self, task: String) -> Result<ExitStatus> {
        let _guard = self.dropped.clone().drop_guard();
        if task == "forever" {
            self.note("waits".into());
            std::future::pending::<()>().await;
        }
        Ok(ExitStatus {
            code: 5,
            signal: Some(2),
            oom_killed: true,
        })
    }

    async fn logs(
        &self,
        name: String,
        options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        ghost(&name)?;
        self.note(format!("logs {options:?}"));
        let record = LogRecord {
            task: name,
            time: Timestamp(3),
            stream: LogStream::Stderr,
            data: Bytes::from_static(b"\xff\n"),
        };
        let end = Err(Error::Exhausted("the log was cut".into()));
        Ok(stream::iter([Ok(record), end]).boxed())
    }

    async fn attach(
        &self,
        task: String,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        ghost(&task)?;
        self.note(format!("attach {options:?}"));
        let guard = self.dropped.clone().drop_guard();
        // Echoes, and ends where the input says so.
        let echo = input.map(move |i| {
            let _held = &guard;
            Ok(match i {
                Input::Stdin(bytes) => Output::Stdout(bytes),
                Input::CloseStdin => Output::Exit(ExitStatus::default()),
                other => Output::Stderr(format!("{other:?}").into()),
            })
        });
        Ok(echo.boxed())
    }

    async fn exec(
        &self,
        task: String,
        spec: ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        self.note(format!("exec {spec:?}"));
        self.attach(task, AttachOptions::default(), input).await
    }

    async fn stats(&self, tasks: Vec<String>, _: bool) -> Result<BoxStream<Result<Vec<Stats>>>> {
        let pulled = Arc::clone(&self.pulled);
        let round = vec![Stats {
            task: "x".repeat(64 << 10),
            ..Stats::default()
        }];
        let count = tasks.len().max(1);
        Ok(stream::iter(0..count * 10_000)
            .map(move |_| {
                pulled.fetch_add(1, Ordering::SeqCst);
                Ok(round.clone())
            })
            .boxed())
    }

    async fn watch(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        let guard = self.dropped.clone().drop_guard();
        let event = Event {
            index: since.unwrap_or_default(),
            time: Timestamp(1),
            kind: Kind::Node,
            id: Id::from_u64(1),
            name: "host1".into(),
            action: EventAction::Updated,
            attributes: [("a".into(), "b".into())].into(),
        };
        let goes_on = stream::iter([Ok(event)]).chain(stream::pending());
        let held = goes_on.inspect(move |_| {
            let _held = &guard;
        });
        Ok(held.boxed())
    }

    async fn lookup(&self, name: String, _: Read) -> Result<Answer<Lookup>> {
        let endpoint = Endpoint {
            task_id: Id::from_u64(1),
            task: "web.1".into(),
            service: name.clone(),
            node: NodeId(3),
            node_name: "host3".into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            ports: vec!["8080:80".parse().unwrap()],
        };
        Ok(fresh(Lookup {
            name,
            endpoints: vec![endpoint],
        }))
    }

    async fn import_image(
        &self,
        name: String,
        config: ImageConfig,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image> {
        if name == "refused" {
            return Err(Error::Invalid("this is not a tar archive".into()));
        }
        let all: Vec<Bytes> = archive.try_collect().await?;
        Ok(Image {
            reference: name.parse()?,
            digest: String::new(),
            layers: Vec::new(),
            size: all.iter().map(|b| b.len() as u64).sum(),
            config,
            created_at: Timestamp(0),
            builtin: false,
            manifest: None,
        })
    }

    async fn stat_path(&self, task: String, path: String) -> Result<FileStat> {
        ghost(&task)?;
        Ok(FileStat {
            name: path,
            kind: FileKind::Symlink,
            size: 5,
            mode: 0o4755,
            modified_at: Timestamp(7),
            target: "/x".into(),
        })
    }

    async fn copy_out(&self, task: String, path: String) -> Result<BoxStream<Result<Bytes>>> {
        ghost(&task)?;
        self.note(format!("copy out {path}"));
        let pulled = Arc::clone(&self.pulled);
        let pieces = stream::iter(0..10_000).map(move |_| {
            pulled.fetch_add(1, Ordering::SeqCst);
            Ok(Bytes::from(vec![1; 64 << 10]))
        });
        Ok(pieces.boxed())
    }

    async fn copy_in(
        &self,
        task: String,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        ghost(&task)?;
        let all: Vec<Bytes> = archive.try_collect().await?;
        self.note(format!("copy in {path} {}", all.concat().len()));
        Ok(())
    }

    async fn export_layer(&self, digest: String) -> Result<BoxStream<Result<Bytes>>> {
        ghost(&digest)?;
        Ok(stream::iter([Ok(Bytes::from(vec![1; 3 << 20]))]).boxed())
    }
}

#[async_trait::async_trait]
impl Control for Fake {
    async fn init(&self, advertise: Option<IpAddr>) -> Result<Joined> {
        self.join(format!("{advertise:?}"), String::new(), None)
            .await
    }

    async fn join(&self, peer: String, token: String, _: Option<IpAddr>) -> Result<Joined> {
        Ok(Joined {
            cluster: peer,
            node: NodeId(1),
            name: token,
            role: NodeRole::Manager,
        })
    }

    async fn leave(&self, force: bool) -> Result<()> {
        if force {
            Ok(())
        } else {
            Err(Error::Denied("not so".into()))
        }
    }

    async fn create_token(&self, role: NodeRole, ttl: Duration) -> Result<Token> {
        let expires_at = Timestamp(0).plus(ttl);
        Ok(Token {
            id: "i".into(),
            secret: Some("s".into()),
            role,
            expires_at,
        })
    }

    async fn list_tokens(&self) -> Result<Vec<Token>> {
        Ok(vec![
            self.create_token(NodeRole::Worker, Duration::ZERO).await?,
        ])
    }

    async fn remove_token(&self, id: String) -> Result<()> {
        ghost(&id)
    }
}

/// A server on a socket of its own, ended when it is dropped.
struct Site {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    fake: Arc<Fake>,
    client: Client,
    _stop: oneshot::Sender<()>,
}

async fn site(fake: Fake) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run").join("cluster.sock");
    let fake = Arc::new(fake);
    let (stop, stopped) = oneshot::channel::<()>();
    let routes = routes(fake.clone(), Some(fake.clone()));
    tokio::spawn(serve_unix(socket.clone(), routes, stopped.map(drop)));
    let client = connected(&socket).await;
    Site {
        _folder: folder,
        socket,
        fake,
        client,
        _stop: stop,
    }
}

/// Connects as soon as the socket is there.
async fn connected(socket: &std::path::Path) -> Client {
    let target = format!("unix://{}", socket.display());
    loop {
        match Client::connect(&target).await {
            Ok(client) => return client,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn no_input() -> BoxStream<Input> {
    stream::pending().boxed()
}

#[tokio::test]
async fn the_verbs_reach_the_backend_and_its_answers_come_back() {
    let site = site(Fake {
        tasks: 3,
        ..Fake::default()
    })
    .await;
    let c = &site.client;
    let query = Query {
        service: Some("web".into()),
        all: true,
        read: Read::Stale,
        ..Query::of(Kind::Task)
    };
    let listed = c.list(query.clone()).await.unwrap();
    assert_eq!(
        (listed.value.len(), listed.freshness),
        (3, fresh(()).freshness)
    );
    assert_eq!(
        c.get(Kind::Image, "a".into(), Read::Stale).await.unwrap(),
        fresh(network("a"))
    );
    assert_eq!(
        c.create(Create::Service(ServiceSpec::default()))
            .await
            .unwrap(),
        network("made")
    );
    let update = Update::Node(
        "n".into(),
        NodeChange {
            availability: Some(Availability::Drain),
            ..NodeChange::default()
        },
    );
    assert_eq!(c.update(update.clone()).await.unwrap(), network("changed"));
    c.remove(Kind::Service, "web".into(), true).await.unwrap();
    c.stop("web".into(), Some(Duration::from_millis(1500)))
        .await
        .unwrap();
    c.kill("web.1".into(), 9).await.unwrap();
    assert_eq!(c.wait("web.1".into()).await.unwrap().code, 5);
    assert_eq!(
        c.lookup("web".into(), Read::default())
            .await
            .unwrap()
            .value
            .endpoints[0]
            .node,
        NodeId(3)
    );
    let asked = site.fake.asked.lock().unwrap().clone();
    let wanted = [
        format!("list {query:?}"),
        "get image a Stale".into(),
        format!("create {:?}", Create::Service(ServiceSpec::default())),
        format!("update {update:?}"),
        "remove service web true".into(),
        "stop web Some(1.5s)".into(),
        "kill web.1 9".into(),
    ];
    assert_eq!(asked, wanted);
}

#[tokio::test]
async fn errors_keep_their_kind_and_message_also_within_a_stream() {
    let site = site(Fake::default()).await;
    let c = &site.client;
    let not_found = Error::NotFound("nothing is called ghost".into());
    assert_eq!(c.kill("ghost".into(), 9).await.unwrap_err(), not_found);
    assert_eq!(
        c.stop("busy".into(), None).await.unwrap_err(),
        Error::Conflict("busy is busy: wait".into())
    );
    assert_eq!(
        c.info().await.unwrap_err(),
        Error::Unsupported("no info".into())
    );
    let attached = c
        .attach("ghost".into(), AttachOptions::default(), no_input())
        .await;
    assert_eq!(attached.err().unwrap(), not_found);
    let mut records = c.logs("web.1".into(), LogOptions::default()).await.unwrap();
    assert_eq!(
        records.next().await.unwrap().unwrap().data,
        Bytes::from_static(b"\xff\n")
    );
    let end = records.next().await.unwrap().unwrap_err();
    assert_eq!(end, Error::Exhausted("the log was cut".into()));
    assert!(records.next().await.is_none());
}

#[tokio::test]
async fn a_list_of_thirty_thousand_arrives() {
    let site = site(Fake {
        tasks: 30_000,
        ..Fake::default()
    })
    .await;
    let all = site.client.list(Query::of(Kind::Network)).await.unwrap();
    assert_eq!(all.value.len(), 30_000);
    assert_eq!(all.value[29_999], network("n29999"));
    assert!(all.freshness.stale);
}

#[tokio::test]
async fn input_and_output_flow_both_ways_in_pieces() {
    let site = site(Fake::default()).await;
    let typed = Bytes::from(vec![b'x'; 300_000]);
    let size = WindowSize {
        rows: 40,
        columns: 90,
    };
    let input = [
        Input::Resize(size),
        Input::Signal(2),
        Input::Stdin(typed.clone()),
        Input::CloseStdin,
    ];
    let spec = ExecSpec {
        args: vec!["cat".into()],
        size: Some(size),
        ..ExecSpec::default()
    };
    let input = stream::iter(input).chain(stream::pending()).boxed();
    let output = site
        .client
        .exec("web.1".into(), spec.clone(), input)
        .await
        .unwrap();
    let mut echoed = Vec::new();
    let mut said = Vec::new();
    let mut output = output.into_stream();
    loop {
        match output.next().await.unwrap().unwrap() {
            Output::Stdout(bytes) => {
                assert!(bytes.len() <= chunks::OUTPUT);
                echoed.extend_from_slice(&bytes);
            }
            Output::Stderr(bytes) => said.push(String::from_utf8(bytes.to_vec()).unwrap()),
            Output::Exit(status) => break assert_eq!(status.code, 0),
        }
    }
    assert_eq!(echoed, typed);
    assert_eq!(
        said,
        [
            format!("{:?}", Input::Resize(size)),
            format!("{:?}", Input::Signal(2))
        ]
    );
    assert_eq!(site.fake.asked.lock().unwrap()[0], format!("exec {spec:?}"));
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_on_the_other_side_although_its_input_waits() {
    let site = site(Fake::default()).await;
    let input = stream::iter([Input::Stdin("a".into())])
        .chain(stream::pending())
        .boxed();
    let mut output = site
        .client
        .attach("web.1".into(), AttachOptions::default(), input)
        .await
        .unwrap();
    output.next().await.unwrap().unwrap();
    assert!(!site.fake.dropped.is_cancelled());
    drop(output);
    site.fake.dropped.cancelled().await;
}

#[tokio::test]
async fn a_watch_that_is_dropped_ends_on_the_other_side() {
    let site = site(Fake::default()).await;
    let mut events = site.client.watch(Some(9)).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().index, 9);
    drop(events);
    site.fake.dropped.cancelled().await;
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_on_the_other_side() {
    let site = site(Fake::default()).await;
    let client = site.client.clone();
    let waiting = tokio::spawn(async move { client.wait("forever".into()).await });
    while site.fake.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    site.fake.dropped.cancelled().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_backend_s_stream_up() {
    let site = site(Fake::default()).await;
    let mut rounds = site.client.stats(Vec::new(), true).await.unwrap();
    rounds.next().await.unwrap().unwrap();
    // Another call on the same connection gets through meanwhile, and gives the first one time to run ahead.
    for _ in 0..100 {
        site.client.kill("web.1".into(), 1).await.unwrap();
    }
    let pulled = site.fake.pulled.load(Ordering::SeqCst);
    assert!(
        pulled < 1_000,
        "{pulled} of 10,000 rounds were pulled for a reader of one"
    );
}

#[tokio::test]
async fn an_archive_goes_whole_or_not_at_all() {
    let site = site(Fake::default()).await;
    let piece = || Ok(Bytes::from(vec![0; 1 << 20]));
    let config = ImageConfig {
        user: "u".into(),
        ..ImageConfig::default()
    };
    let whole = stream::iter([piece(), piece()]).boxed();
    let image = site
        .client
        .import_image("a:b".into(), config.clone(), whole)
        .await
        .unwrap();
    assert_eq!((image.size, image.config), (2 << 20, config.clone()));
    let unreadable = Error::Invalid("cannot read x.tar: I/O error".into());
    let broken = stream::iter([piece(), Err(unreadable.clone())]).boxed();
    let error = site
        .client
        .import_image("a".into(), config.clone(), broken)
        .await
        .unwrap_err();
    assert_eq!(error, unreadable);
    let endless = stream::repeat_with(piece).boxed();
    let error = site
        .client
        .import_image("refused".into(), config, endless)
        .await
        .unwrap_err();
    assert_eq!(error, Error::Invalid("this is not a tar archive".into()));
    let layer = site.client.export_layer("sha256:a".into()).await.unwrap();
    let pieces: Vec<Bytes> = layer.try_collect().await.unwrap();
    assert!(pieces.len() > 1 && pieces.concat().len() == 3 << 20);
}

#[tokio::test]
async fn files_are_copied_over_the_wire_and_no_faster_than_they_are_taken() {
    let site = site(Fake::default()).await;
    let c = &site.client;
    let stat = c.stat_path("web".into(), "/a".into()).await.unwrap();
    assert_eq!(
        (stat.name.as_str(), stat.kind, stat.mode),
        ("/a", FileKind::Symlink, 0o4755)
    );
    assert_eq!(
        (stat.size, stat.modified_at, stat.target.as_str()),
        (5, Timestamp(7), "/x")
    );
    let ghost = || "ghost".to_owned();
    assert!(c.stat_path(ghost(), "/".into()).await.is_err());
    assert!(c.copy_out(ghost(), "/".into()).await.is_err());

    let mut archive = c.copy_out("web".into(), "/a".into()).await.unwrap();
    for _ in 0..4 {
        archive.next().await.unwrap().unwrap();
    }
    // Time to run ahead, as above.
    for _ in 0..100 {
        c.kill("web.1".into(), 1).await.unwrap();
    }
    assert!(
        site.fake.pulled.load(Ordering::SeqCst) < 2_000,
        "nobody holds the other side"
    );
    drop(archive);

    let piece = || Ok(Bytes::from(vec![7; 1 << 20]));
    let whole = stream::iter([piece(), piece()]).boxed();
    c.copy_in("web".into(), "/b".into(), whole).await.unwrap();
    let noted = site.fake.asked.lock().unwrap().clone();
    assert!(
        noted.contains(&format!("copy in /b {}", 2 << 20)),
        "{noted:?}"
    );
    let unreadable = Error::Invalid("cannot read x: I/O error".into());
    let broken = stream::iter([piece(), Err(unreadable.clone())]).boxed();
    let error = c
        .copy_in("web".into(), "/c".into(), broken)
        .await
        .unwrap_err();
    assert_eq!(error, unreadable);
    assert!(
        !site
            .fake
            .asked
            .lock()
            .unwrap()
            .clone()
            .iter()
            .any(|n| n.starts_with("copy in /c")),
        "cut off is not whole"
    );
    let endless = stream::repeat_with(piece).boxed();
    assert!(c.copy_in(ghost(), "/".into(), endless).await.is_err());
}

#[tokio::test]
async fn a_host_enters_and_leaves_over_the_wire() {
    let site = site(Fake::default()).await;
    let c = &site.client;
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(
        c.init(Some(ip)).await.unwrap().cluster,
        format!("{:?}", Some(ip))
    );
    assert_eq!(
        c.join("p".into(), "t".into(), None).await.unwrap().name,
        "t"
    );
    assert_eq!(
        c.leave(false).await.unwrap_err(),
        Error::Denied("not so".into())
    );
    c.leave(true).await.unwrap();
    let token = c
        .create_token(NodeRole::Manager, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(
        (token.role, token.expires_at),
        (NodeRole::Manager, Timestamp(1000))
    );
    assert_eq!(c.list_tokens().await.unwrap().len(), 1);
    assert!(c.remove_token("ghost".into()).await.is_err());
}

#[tokio::test]
async fn where_there_is_no_control_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host.sock");
    let routes = routes(Arc::new(Fake::default()), None);
    tokio::spawn(serve_unix(socket.clone(), routes, std::future::pending()));
    let error = connected(&socket).await.leave(false).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unsupported(m) if m.contains("cluster.sock")),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_said_with_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let target = format!("unix://{}/cluster.sock", folder.path().display());
    let error = Client::connect(&target).await.unwrap_err().to_string();
    assert!(
        error.contains("cluster.sock") && error.contains("swarmd"),
        "{error}"
    );
    assert!(matches!(
        Client::connect("ftp://x").await,
        Err(Error::Invalid(_))
    ));
    let error = Client::connect("http://127.0.0.1:1").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_group_and_a_stale_one_is_replaced() {
    let site = site(Fake::default()).await;
    let mode = std::fs::metadata(&site.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let again = serve_unix(
        &site.socket,
        routes(site.fake.clone(), None),
        std::future::pending(),
    )
    .await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    // What a process that was killed leaves behind.
    let stale = site.socket.with_file_name("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(serve_unix(
        stale.clone(),
        routes(site.fake.clone(), None),
        stopped.map(drop),
    ));
    connected(&stale)
        .await
        .kill("web.1".into(), 1)
        .await
        .unwrap();
    drop(stop);
    served.await.unwrap().unwrap();
    assert!(!stale.exists());
    let file = site.socket.with_file_name("file");
    std::fs::write(&file, "precious").unwrap();
    let refused = serve_unix(
        &file,
        routes(site.fake.clone(), None),
        std::future::pending(),
    )
    .await;
    assert!(matches!(refused, Err(Error::Conflict(_))) && file.exists());
}

#[tokio::test]
async fn health_and_reflection_are_served_beside() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let site = site(Fake::default()).await;
    let socket = site.socket.clone();
    let channel = tonic::transport::Endpoint::from_static("http://agent")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        }))
        .await
        .unwrap();
    for service in ["", "swarm.v1.Backend", "swarm.v1.Control"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = HealthClient::new(channel.clone())
            .check(request)
            .await
            .unwrap();
        assert_eq!(answer.into_inner().status, 1, "{service}");
    }
    use tonic_reflection::pb::v1 as reflection;
    let request = reflection::ServerReflectionRequest {
        message_request: Some(
            reflection::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
        ..Default::default()
    };
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client
        .server_reflection_info(stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(
        answer.contains("swarm.v1.Backend") && !answer.contains("swarm.agent"),
        "{answer}"
    );
}
