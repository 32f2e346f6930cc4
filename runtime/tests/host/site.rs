//! One host in a temporary directory, with a busybox image.

use crate::harness;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use swarm_api::backend::{AttachOptions, Create, ExecSpec, Input, LogOptions, Output};
use swarm_api::model::{
    ExitStatus, ImageConfig, Kind, NetworkMode, Object, Query, Restart, RestartPolicy, Service,
    ServiceSpec, Task, TaskSpec, TaskState,
};
use swarm_api::{Backend, BoxStream, Result};
use swarm_runtime::host::{Host, HostConfig};
use tempfile::TempDir;

const APPLETS: [&str; 19] = [
    "sh", "cat", "seq", "echo", "sleep", "true", "false", "id", "hostname", "env", "ls", "touch",
    "mount", "head", "test", "pwd", "httpd", "rm", "ln",
];
/// What something that is to happen on a busy machine happens within.
const SOON: Duration = Duration::from_secs(60);

/// Everything that one test needs.
pub(crate) struct Site {
    pub(crate) host: Arc<Host>,
    config: HostConfig,
    pub(crate) temp: TempDir,
}

/// Runs a test's body on a host of its own, and sees that nothing of it is left.
pub(crate) fn with_site<F: Future<Output = Site>>(body: impl FnOnce(Site) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let site = Site::new().await;
        let sweeper = Sweeper(site.config.cgroup_parent.clone());
        let site = body(site).await;
        site.clear().await;
        drop(sweeper);
    });
}

/// Ends what a test that failed left behind.
struct Sweeper(String);

impl Drop for Sweeper {
    fn drop(&mut self) {
        for group in cgroups(&self.0) {
            for below in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                if below.path().is_dir() {
                    let name = Path::new(&self.0).join(below.file_name());
                    if let Ok(cgroup) = swarm_runtime::container::Cgroup::open(&name) {
                        let _ = cgroup.signal_all(libc::SIGKILL);
                        let _ = cgroup.remove();
                    }
                }
            }
            let _ = std::fs::remove_dir(&group);
        }
    }
}

/// All directories of a cgroup that are there.
pub(crate) fn cgroups(path: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let name = path.trim_start_matches('/');
    let mut places = vec![root.join(name)];
    for hierarchy in std::fs::read_dir(root).unwrap().flatten() {
        places.push(hierarchy.path().join(name));
    }
    places.into_iter().filter(|place| place.is_dir()).collect()
}

/// A tar archive of busybox.
fn busybox() -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for dir in ["bin", "etc", "tmp"] {
        std::fs::create_dir(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nguest:x:1000:1000::/tmp:/bin/sh\n",
    )
    .unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", root).unwrap();
    tar.into_inner().unwrap()
}

impl Site {
    async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let temp = tempfile::tempdir().unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let config = HostConfig {
            data_dir: temp.path().join("data"),
            run_dir: temp.path().join("run"),
            cgroup_parent: format!("/swarm-host-test-{}-{count}", std::process::id()),
            node_name: "host1".into(),
            shim: harness::shim(),
            version: "1.2.3".into(),
            builtin: Vec::new(),
            registry: Default::default(),
            gc: swarm_runtime::host::GcPolicy::OFF,
        };
        let host = Host::open(config.clone()).await.unwrap();
        let archive = stream::iter([Ok(Bytes::from(busybox()))]).boxed();
        let image = ImageConfig {
            env: vec!["PATH=/bin".into()],
            ..ImageConfig::default()
        };
        host.import_image("busybox".into(), image, archive)
            .await
            .unwrap();
        Self { host, config, temp }
    }

    /// The agent goes down and comes back.
    pub(crate) async fn restart(self) -> Self {
        let Self { host, config, temp } = self;
        drop(host);
        let host = Host::open(config.clone()).await.unwrap();
        Self { host, config, temp }
    }

    /// A service of one task that runs a shell script.
    pub(crate) fn spec(&self, name: &str, script: &str) -> ServiceSpec {
        ServiceSpec {
            name: name.into(),
            replicas: 1,
            restart: RestartPolicy::with(Restart::Never),
            task: TaskSpec {
                image: "busybox".into(),
                args: vec!["sh".into(), "-c".into(), script.into()],
                network: NetworkMode::None,
                stop_timeout_ms: Some(200),
                ..TaskSpec::default()
            },
            ..ServiceSpec::default()
        }
    }

    pub(crate) async fn create(&self, spec: ServiceSpec) -> Service {
        match self.host.create(Create::Service(spec)).await.unwrap() {
            Object::Service(service) => service,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn tasks(&self) -> Vec<Task> {
        let query = Query {
            all: true,
            ..Query::of(Kind::Task)
        };
        let objects = self.host.list(query).await.unwrap().value;
        let task = |object| match object {
            Object::Task(task) => task,
            other => panic!("{other:?}"),
        };
        objects.into_iter().map(task).collect()
    }

    /// Waits until the tasks are as `done` wants them.
    pub(crate) async fn until(&self, what: &str, done: impl Fn(&[Task]) -> bool) -> Vec<Task> {
        let mut changes = self.host.watch();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let tasks = self.tasks().await;
                if done(&tasks) {
                    return tasks;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(SOON, wait).await {
            Ok(tasks) => tasks,
            Err(_) => panic!("not within {SOON:?}: {what}: {:#?}", self.tasks().await),
        }
    }

    pub(crate) async fn until_running(&self, count: usize) -> Vec<Task> {
        let running = |tasks: &[Task]| {
            tasks
                .iter()
                .filter(|t| t.status.state == TaskState::Running)
                .count()
                == count
        };
        self.until("the tasks run", running).await
    }

    pub(crate) async fn attach(&self, task: &str) -> Result<(String, String, ExitStatus)> {
        let options = AttachOptions {
            replay: true,
            size: None,
        };
        let output = self
            .host
            .attach(task.into(), options, stream::pending::<Input>().boxed())
            .await?;
        collect(output).await
    }

    pub(crate) async fn exec(
        &self,
        task: &str,
        spec: ExecSpec,
    ) -> Result<(String, String, ExitStatus)> {
        let output = self
            .host
            .exec(task.into(), spec, stream::empty::<Input>().boxed())
            .await?;
        collect(output).await
    }

    /// Runs a script in a service of its own to its end: what it put out.
    pub(crate) async fn output_of(&self, spec: ServiceSpec) -> String {
        let name = spec.name.clone();
        self.create(spec).await;
        let (out, err, exit) = self.attach(&name).await.unwrap();
        assert_eq!((exit.code, err.as_str()), (0, ""), "{out}");
        self.host.remove(Kind::Service, name, true).await.unwrap();
        out
    }

    pub(crate) async fn log(&self, name: &str, options: LogOptions) -> Vec<String> {
        let log = self.host.logs(name.into(), options).await.unwrap();
        log.map(|r| {
            String::from_utf8_lossy(&r.unwrap().data)
                .trim_end()
                .to_owned()
        })
        .collect()
        .await
    }

    /// Removes everything, and sees that nothing is left of it.
    async fn clear(self) {
        for object in self
            .host
            .list(Query::of(Kind::Service))
            .await
            .unwrap()
            .value
        {
            if let Object::Service(service) = object {
                self.host
                    .remove(Kind::Service, service.spec.name, true)
                    .await
                    .unwrap();
            }
        }
        for task in self.host.cluster_tasks() {
            self.host.remove_task(&task.id).await.unwrap();
        }
        self.until("nothing is left", <[Task]>::is_empty).await;
        for place in [
            "data/containers",
            "data/host/tasks",
            "data/host/services",
            "run/containers",
        ] {
            let left: Vec<_> = std::fs::read_dir(self.temp.path().join(place))
                .unwrap()
                .flatten()
                .collect();
            assert!(left.is_empty(), "{place}: {left:?}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.temp.path().to_str().unwrap()),
            "{mounts}"
        );
        for group in cgroups(&self.config.cgroup_parent) {
            let below = std::fs::read_dir(&group)
                .unwrap()
                .flatten()
                .find(|e| e.path().is_dir());
            assert!(below.is_none(), "{below:?}");
        }
    }
}

async fn collect(mut output: BoxStream<Result<Output>>) -> Result<(String, String, ExitStatus)> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = output.next().await {
        match piece? {
            Output::Stdout(bytes) => out.extend_from_slice(&bytes),
            Output::Stderr(bytes) => err.extend_from_slice(&bytes),
            Output::Exit(exit) => {
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                return Ok((text(out), text(err), exit));
            }
        }
    }
    panic!("the output ended without an exit");
}
