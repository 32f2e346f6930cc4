//! The verbs. A host and a cluster of hosts answer the same ones, so that they compose: an aggregate of
//! backends is a backend again, and a front end neither knows nor cares which it talks to.

use crate::Result;
use crate::model::{
    Answer, DiskUsage, Event, ExitStatus, HistoryEntry, Id, Image, ImageReference, Info, Kind,
    Lookup, NetworkSpec, NodeChange, Object, Query, Read, ServiceChange, ServiceSpec, Timestamp,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A stream that can be boxed, sent and held.
pub type BoxStream<T> = futures_util::stream::BoxStream<'static, T>;

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)]
pub enum Create {
    /// A service and its tasks.
    Service(ServiceSpec),
    /// A network.
    Network(NetworkSpec),
}

/// What to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Update {
    /// A service, by name or id.
    Service(String, ServiceChange),
    /// A node, by name or id.
    Node(String, NodeChange),
}

/// A window's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// What goes into a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// Its standard input ends.
    CloseStdin,
    /// Its terminal's new size.
    Resize(WindowSize),
    /// A signal, by number (signal(7)).
    Signal(i32),
}

/// What comes out of a process. `Exit` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From its standard output, or its terminal.
    Stdout(Bytes),
    /// From its standard error.
    Stderr(Bytes),
    /// It ended.
    Exit(ExitStatus),
}

/// A further process in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, after the container's.
    pub env: Vec<String>,
    /// In place of the container's user.
    pub user: Option<String>,
    /// In place of the container's working directory.
    pub working_dir: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub stdin: bool,
    /// The terminal's first size.
    pub size: Option<WindowSize>,
}

/// How a client joins a task's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct AttachOptions {
    /// Whether what was put out before comes first: nothing of a new task's output is missed then, also where it
    /// has ended already.
    pub replay: bool,
    /// The terminal's size, where the task has one.
    pub size: Option<WindowSize>,
}

/// Which records of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct LogOptions {
    /// Whether to wait for more until the tasks have ended.
    pub follow: bool,
    /// The last so many records only.
    pub tail: Option<u64>,
    /// Records from then on only.
    pub since: Option<Timestamp>,
}

/// Where a log record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a task's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The task's name.
    pub task: String,
    /// When.
    pub time: Timestamp,
    /// From where.
    pub stream: LogStream,
    /// The line with its line end, if it had one.
    pub data: Bytes,
}

/// What a container uses now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Stats {
    /// The task's name.
    pub task: String,
    /// The task's id.
    pub task_id: Id,
    /// Where it runs.
    pub node_name: String,
    /// When it was measured.
    pub time: Timestamp,
    /// Processor time since its start, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes, without the page cache that can be dropped.
    pub memory: u64,
    /// Its limit in bytes.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Processes of it that the kernel has killed for memory since its start.
    pub oom_kills: u64,
    /// What it waits for, where the kernel tells (PSI, cgroup v2).
    pub pressure: Option<Pressures>,
}

/// What a container's processes wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Pressures {
    /// A processor.
    pub cpu: Pressure,
    /// Memory.
    pub memory: Pressure,
    /// Disks.
    pub io: Pressure,
}

/// Shares of the last 10 seconds, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Pressure {
    /// In which a process of it waited.
    pub some: u32,
    /// In which all of them that were not idle waited.
    pub full: u32,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe or a socket.
    Other,
}

/// What is at a path in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// The last part of its path; `/` for the root.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Its bytes.
    pub size: u64,
    /// Its permissions, as chmod(1) takes them in octal.
    pub mode: u32,
    /// When it was changed.
    pub modified_at: Timestamp,
    /// Where a symbolic link leads; else empty.
    pub target: String,
}

/// When an image is fetched from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// Where it is not known.
    #[default]
    Missing,
    /// Each time; what is here already is not fetched again.
    Always,
}

/// How an image is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PullOptions {
    /// When.
    pub policy: PullPolicy,
    /// Every node that is ready gets it, not only the one that is asked.
    pub all_nodes: bool,
    /// The manifest that the name is to stand for, where that is decided.
    pub digest: Option<String>,
}

/// What became of an image on another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledNode {
    /// The node's name.
    pub name: String,
    /// Why it does not have the image.
    pub failure: Option<String>,
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProgress {
    /// The digest by which its registry knows it.
    pub digest: String,
    /// Bytes that have come.
    pub done: u64,
    /// Bytes to come in all, as they are sent.
    pub total: u64,
    /// Whether it is unpacked, or was here before.
    pub ready: bool,
}

/// What happens while an image is fetched. `Done` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)]
pub enum PullEvent {
    /// The manifest that the name stands for is known.
    Resolved(String),
    /// Another node has it, or cannot get it.
    Node(PulledNode),
    /// A layer has come further.
    Layer(LayerProgress),
    /// The image is here, and known.
    Done(Image),
}

/// What happens while an image is pushed. `Done` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushEvent {
    /// A layer has come further; sizes are of the uncompressed layer.
    Layer(LayerProgress),
    /// The image is in the registry.
    Done(Pushed),
}

/// An image that is in a registry now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Its name there.
    pub reference: ImageReference,
    /// The digest of its manifest.
    pub digest: String,
}

/// How an image is made of a task's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct CommitOptions {
    /// Changes of the configuration, as lines of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL,
    /// STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// What the history says of it.
    pub message: String,
    /// Who made it.
    pub author: String,
    /// Whether the container goes on meanwhile; its files may then be of different moments.
    pub no_pause: bool,
}

/// The verbs. Names of tasks may be a name (`web.1`), an id, a prefix of an id that is unique, or, where a
/// service has one live task, the service's name.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Who answers.
    async fn info(&self) -> Result<Info>;

    /// The objects that `query` asks for, in the order of their names.
    async fn list(&self, query: Query) -> Result<Answer<Vec<Object>>>;

    /// One object, by name, id or unique prefix of an id.
    async fn get(&self, kind: Kind, name: String, read: Read) -> Result<Answer<Object>>;

    /// Makes a service or a network. Acknowledged when it cannot be lost any more.
    async fn create(&self, what: Create) -> Result<Object>;

    /// Changes a service or a node.
    async fn update(&self, what: Update) -> Result<Object>;

    /// Removes an object: a service with its tasks, one task (its slot is then filled anew unless the service
    /// is done), an image, a network, a node that is down. With `force`, what still runs is killed first.
    async fn remove(&self, kind: Kind, name: String, force: bool) -> Result<()>;

    /// Stops a service's tasks (the service stays, scaled to 0) or one task (which is not replaced): its stop
    /// signal, and SIGKILL after `timeout` (its own stop timeout if none). Returns when it has ended.
    async fn stop(&self, name: String, timeout: Option<Duration>) -> Result<()>;

    /// Sends a signal (signal(7)) to a task's first process.
    async fn kill(&self, task: String, signal: i32) -> Result<()>;

    /// Waits for a task to end.
    async fn wait(&self, task: String) -> Result<ExitStatus>;

    /// The log of a task, or of all the tasks of a service.
    async fn logs(&self, name: String, options: LogOptions)
    -> Result<BoxStream<Result<LogRecord>>>;

    /// Joins a task's standard streams. Waits for a task that is about to start.
    async fn attach(
        &self,
        task: String,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>>;

    /// Runs a further process in a task's container.
    async fn exec(
        &self,
        task: String,
        spec: ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>>;

    /// What tasks use: all running ones if none is named. One round, or one round a second.
    async fn stats(
        &self,
        tasks: Vec<String>,
        follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>>;

    /// What happens from now on; or, where `since` is a log index that is still kept, all that came after it.
    /// A [`crate::Cursor`] says where to go on when the stream breaks off.
    async fn watch(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>>;

    /// The live tasks behind a service's, task's or node's name.
    async fn lookup(&self, name: String, read: Read) -> Result<Answer<Lookup>>;

    /// Makes an image of a root file system: a tar archive, plain or gzip. An image of that name is replaced
    /// for tasks to come.
    async fn import_image(
        &self,
        name: String,
        config: crate::model::ImageConfig,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Image>;

    /// Gets an image from its registry, and makes it known. Of a name without a registry (see
    /// [`crate::model::ImageReference`]) only where it is known, or where the agent has a default registry.
    async fn pull_image(
        &self,
        name: String,
        options: PullOptions,
    ) -> Result<BoxStream<Result<PullEvent>>> {
        let _ = options;
        Err(crate::Error::Unsupported(format!(
            "cannot pull the image {name}: this backend has no registries"
        )))
    }

    /// Takes in all images of an archive of `docker save` or an OCI image layout, plain or compressed. `name` is for an
    /// archive with one image, and goes before what that says.
    async fn load_images(
        &self,
        name: Option<String>,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<Vec<Image>> {
        let _ = (name, archive);
        Err(crate::Error::Unsupported(
            "this backend cannot load images".into(),
        ))
    }

    /// Images as one archive, an OCI image layout that Docker reads as well.
    async fn save_images(&self, names: Vec<String>) -> Result<BoxStream<Result<Bytes>>> {
        Err(crate::Error::Unsupported(format!(
            "cannot save {}: this backend cannot save images",
            names.join(", ")
        )))
    }

    /// The steps in which an image was made, newest first.
    async fn image_history(&self, name: String) -> Result<Vec<HistoryEntry>> {
        Err(crate::Error::Unsupported(format!(
            "cannot tell how the image {name} was made: this backend does not know"
        )))
    }

    /// Puts an image into its registry; or, under the name `to`, into that one's.
    async fn push_image(
        &self,
        name: String,
        to: Option<String>,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        let _ = to;
        Err(crate::Error::Unsupported(format!(
            "cannot push the image {name}: this backend has no registries"
        )))
    }

    /// Makes an image of what a task's container has changed in its own. An image of that name is replaced for tasks to
    /// come.
    async fn commit(&self, task: String, name: String, options: CommitOptions) -> Result<Image> {
        let _ = (name, options);
        Err(crate::Error::Unsupported(format!(
            "cannot make an image of {task}: this backend cannot do so"
        )))
    }

    /// Gives an image a further name. An image of that name is replaced for tasks to come.
    async fn tag_image(&self, name: String, to: String) -> Result<Image> {
        let _ = to;
        Err(crate::Error::Unsupported(format!(
            "cannot name the image {name}: this backend cannot do so"
        )))
    }

    /// What is at a path in the container of a task that runs or has ended. A symbolic link at its end is not followed,
    /// unless `/` or `/.` follow. Whatever links say, it is looked for in the container alone.
    async fn stat_path(&self, task: String, path: String) -> Result<FileStat> {
        Err(crate::Error::Unsupported(format!(
            "cannot look for {path} in {task}: this backend cannot do so"
        )))
    }

    /// A file, or a directory with all in it, out of a task's container: a tar archive. `path` is as for
    /// [`Backend::stat_path`]; the archive's names begin with its last part, with `.` where it ends with that or is the
    /// root.
    async fn copy_out(&self, task: String, path: String) -> Result<BoxStream<Result<Bytes>>> {
        Err(crate::Error::Unsupported(format!(
            "cannot copy {path} out of {task}: this backend cannot do so"
        )))
    }

    /// Unpacks a tar archive into the directory `path` in a task's container. A directory there is never replaced by
    /// something else, nor the other way round.
    async fn copy_in(
        &self,
        task: String,
        path: String,
        archive: BoxStream<Result<Bytes>>,
    ) -> Result<()> {
        let _ = archive;
        Err(crate::Error::Unsupported(format!(
            "cannot copy to {path} in {task}: this backend cannot do so"
        )))
    }

    /// What takes up the disk, host by host.
    async fn disk_usage(&self) -> Result<Vec<DiskUsage>> {
        Err(crate::Error::Unsupported(
            "this backend cannot tell what takes up the disk".into(),
        ))
    }

    /// One part of an image, by its digest, for peers: a layer as an uncompressed tar archive, or a document that
    /// describes it.
    async fn export_layer(&self, digest: String) -> Result<BoxStream<Result<Bytes>>>;
}
