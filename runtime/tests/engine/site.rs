//! One engine in a temporary directory, and a root file system with busybox for its containers.

use crate::harness;
use bytes::Bytes;
use futures_util::StreamExt;
use oci_spec::runtime::{Process, Spec};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};
use swarm_api::BoxStream;
use swarm_api::backend::{AttachOptions, Input, LogOptions, LogStream, Output};
use swarm_api::model::ExitStatus;
use swarm_runtime::engine::{ContainerState, Engine, EngineConfig};
use swarm_runtime::shim::launch::Launch;
use tempfile::TempDir;
use tokio::sync::mpsc;

const APPLETS: [&str; 12] = [
    "sh", "cat", "seq", "echo", "sleep", "stty", "printf", "kill", "true", "head", "touch", "dd",
];

/// Everything that one test needs. Removes its containers when it ends.
pub(crate) struct Site {
    pub(crate) engine: Engine,
    pub(crate) config: EngineConfig,
    rootfs: PathBuf,
    _temp: TempDir,
}

/// How a container differs from the usual one.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    pub(crate) log_max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            terminal: false,
            stdin: false,
            log_max_bytes: 10 << 20,
        }
    }
}

/// Runs a test's body on an engine of its own.
pub(crate) fn with_site<F: Future<Output = ()>>(body: impl FnOnce(Site) -> F) {
    with_site_in("", body);
}

/// The same, with the engine's directories below `below`.
pub(crate) fn with_site_in<F: Future<Output = ()>>(below: &str, body: impl FnOnce(Site) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let site = Site::new(below).await;
        let sweeper = Sweeper(site.config.state_dir.clone());
        body(site).await;
        drop(sweeper);
    });
}

/// Ends what a test that failed left behind.
struct Sweeper(PathBuf);

impl Drop for Sweeper {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let spec = std::fs::read(entry.path().join("spec.json")).unwrap_or_default();
            if let Ok(spec) = serde_json::from_slice::<Spec>(&spec)
                && let Some(path) = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone())
                && let Ok(cgroup) = swarm_runtime::container::Cgroup::open(&path)
            {
                let _ = cgroup.signal_all(libc::SIGKILL);
                let _ = cgroup.remove();
            }
        }
    }
}

impl Site {
    async fn new(below: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let rootfs = temp.path().join("rootfs");
        for dir in ["bin", "proc", "dev", "tmp"] {
            std::fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox"))
            .expect("busybox-static is installed");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let base = temp.path().join(below);
        let config = EngineConfig {
            state_dir: base.join("data/containers"),
            run_dir: base.join("run/containers"),
            shim: harness::shim(),
        };
        let engine = Engine::open(config.clone()).await.unwrap();
        Self {
            engine,
            config,
            rootfs,
            _temp: temp,
        }
    }

    /// The agent goes down and comes back: another engine on the same directories.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|| ()).await
    }

    /// The same, where something happens meanwhile.
    pub(crate) async fn restart_after(self, meanwhile: impl FnOnce()) -> Self {
        let Self {
            engine,
            config,
            rootfs,
            _temp,
        } = self;
        drop(engine);
        meanwhile();
        let engine = Engine::open(config.clone()).await.unwrap();
        Self {
            engine,
            config,
            rootfs,
            _temp,
        }
    }

    pub(crate) async fn create(&self, id: &str, script: &str, options: Options) -> Spec {
        let spec = spec(&["/bin/sh", "-c", script], options.terminal);
        self.engine
            .create(id, &spec, self.launch(options))
            .await
            .unwrap();
        spec
    }

    pub(crate) fn launch(&self, options: Options) -> Launch {
        Launch {
            storage: None,
            lower: vec![self.rootfs.clone()],
            log_max_bytes: options.log_max_bytes,
            stdin: options.stdin,
            size: None,
        }
    }

    /// Creates and starts a container that runs a shell script.
    pub(crate) async fn run(&self, id: &str, script: &str, options: Options) {
        self.create(id, script, options).await;
        self.engine.start(id).await.unwrap();
    }

    pub(crate) async fn wait(&self, id: &str) -> ExitStatus {
        match self.engine.wait(id).await.unwrap() {
            ContainerState::Stopped { exit, .. } => exit,
            state => panic!("{id} is {state:?}"),
        }
    }

    /// Joins a container's streams.
    pub(crate) async fn attach(&self, id: &str, replay: bool) -> Joined {
        let options = AttachOptions { replay, size: None };
        Joined::new(|input| self.engine.attach(id, options, input)).await
    }

    /// Runs a further process.
    pub(crate) async fn exec(&self, id: &str, script: &str, terminal: bool, stdin: bool) -> Joined {
        let process = process(&["/bin/sh", "-c", script], terminal);
        Joined::new(|input| self.engine.exec(id, &process, stdin, None, input)).await
    }

    /// The whole log, as lines.
    pub(crate) async fn logs(&self, id: &str, options: LogOptions) -> Vec<(LogStream, Bytes)> {
        let log = self.engine.logs(id, options).await.unwrap();
        log.map(|line| line.map(|(_, stream, data)| (stream, data)).unwrap())
            .collect()
            .await
    }

    pub(crate) async fn delete(&self, id: &str) {
        self.engine.delete(id, true).await.unwrap();
    }
}

/// A process's streams.
pub(crate) struct Joined {
    pub(crate) input: mpsc::UnboundedSender<Input>,
    pub(crate) output: BoxStream<swarm_api::Result<Output>>,
}

impl Joined {
    async fn new<F>(join: impl FnOnce(BoxStream<Input>) -> F) -> Self
    where
        F: Future<Output = swarm_runtime::Result<BoxStream<swarm_api::Result<Output>>>>,
    {
        let (input, inputs) = mpsc::unbounded_channel();
        let inputs = tokio_stream::wrappers::UnboundedReceiverStream::new(inputs);
        let output = join(inputs.boxed()).await.unwrap();
        Self { input, output }
    }

    pub(crate) fn send(&self, input: Input) {
        self.input.send(input).unwrap();
    }

    pub(crate) fn send_bytes(&self, bytes: &'static [u8]) {
        self.send(Input::Stdin(Bytes::from_static(bytes)));
    }

    /// Everything until the exit: standard output, standard error, how it ended.
    pub(crate) async fn finish(mut self) -> (Vec<u8>, Vec<u8>, ExitStatus) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(output) = self.output.next().await {
            match output.unwrap() {
                Output::Stdout(data) => out.extend_from_slice(&data),
                Output::Stderr(data) => err.extend_from_slice(&data),
                Output::Exit(exit) => {
                    assert!(
                        self.output.next().await.is_none(),
                        "something came after the exit"
                    );
                    return (out, err, exit);
                }
            }
        }
        panic!(
            "the output ended without an exit, after {:?}",
            String::from_utf8_lossy(&out)
        );
    }

    /// Reads standard output until `text` has come.
    pub(crate) async fn expect(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.output.next().await {
                Some(Ok(Output::Stdout(data))) => seen.push_str(&String::from_utf8_lossy(&data)),
                Some(Ok(Output::Stderr(_))) => {}
                other => panic!("{other:?} came in place of {text:?}, after {seen:?}"),
            }
        }
        seen
    }
}

pub(crate) fn process(args: &[&str], terminal: bool) -> Process {
    serde_json::from_value(json!({
        "terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args,
        "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true,
    }))
    .unwrap()
}

/// A spec with the usual namespaces and mounts, in a cgroup of its own at the top, so that nothing is left.
pub(crate) fn spec(args: &[&str], terminal: bool) -> Spec {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({ "type": kind }));
    serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "process": process(args, terminal),
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/swarm-engine-test-{}-{count}", std::process::id()),
            "namespaces": namespaces,
        },
    }))
    .unwrap()
}

/// All directories of the container's cgroup that are there.
pub(crate) fn cgroups(spec: &Spec) -> Vec<PathBuf> {
    let path = spec
        .linux()
        .as_ref()
        .unwrap()
        .cgroups_path()
        .clone()
        .unwrap();
    let name = path.strip_prefix("/").unwrap();
    let root = Path::new("/sys/fs/cgroup");
    let mut places = vec![root.join(name)];
    for hierarchy in std::fs::read_dir(root).unwrap().flatten() {
        places.push(hierarchy.path().join(name));
    }
    places.into_iter().filter(|place| place.is_dir()).collect()
}
