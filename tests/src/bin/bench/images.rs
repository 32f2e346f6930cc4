//! Images: one pulled and unpacked from a registry on the same host, beside Docker and podman, in turn; and by ten nodes
//! at once.

use crate::docker;
use crate::sample::Samples;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use swarm_tests::host::Host;
use swarm_tests::{Cluster, wait_until};

/// Bytes of the image's files, and its layers.
pub(crate) const SIZE: usize = 300_000_000;
pub(crate) const LAYERS: usize = 10;
/// How often each engine pulls it.
pub(crate) const ROUNDS: usize = 5;
/// Nodes that pull it at once, and how often.
pub(crate) const NODES: usize = 10;
const TOGETHER: usize = 3;
/// The registry's link, where the network is to be what takes the time.
pub(crate) const LINK: &str = "100mbit";
const LONG: Duration = Duration::from_secs(300);
const NAME: &str = "bench/image:1";

/// One engine that pulls.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Milliseconds.
    pub(crate) pull: Samples,
}

/// One node and all of them, over one kind of link to the registry; milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) link: String,
    pub(crate) one: Samples,
    pub(crate) all: Samples,
    /// How often the registry was asked for a blob when all pulled: the highest of all blobs and rounds.
    pub(crate) fetched: usize,
}

/// What was found out.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) engines: Vec<Engine>,
    pub(crate) nodes: Vec<Nodes>,
    /// The most that an agent held while it pulled, in MiB: alone, and among ten.
    pub(crate) memory: Samples,
    pub(crate) memory_among: Samples,
    /// Bytes of the image as the registry has it.
    pub(crate) compressed: u64,
    pub(crate) missing: Vec<String>,
}

pub(crate) fn measure() -> Result<Figures> {
    let mut figures = Figures::default();
    let store = Store::new()?;
    figures.compressed = store.fill()?;
    println!("  the image is made");
    alone(&store, &mut figures)?;
    println!("  engines in turn: done");
    for link in [None, Some(LINK)] {
        figures
            .nodes
            .push(together(&store, link, &mut figures.memory_among)?);
        println!("  {NODES} nodes at once: done");
    }
    Ok(figures)
}

/// swarmd on one host, Docker and podman on another, each with a registry of the same content on its loopback.
fn alone(store: &Store, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::builder().hosts(2).without_agents().start()?;
    let mut children = Vec::new();
    let outcome = alone_on(store, &cluster, &mut children, figures);
    for host in cluster.hosts() {
        host.kill_all()?;
    }
    for mut child in children {
        let _ = child.wait();
    }
    cluster.stop()?;
    outcome
}

fn alone_on(
    store: &Store,
    c: &Cluster,
    children: &mut Vec<Child>,
    figures: &mut Figures,
) -> Result<()> {
    let (ours, theirs) = (c.host(1), c.host(2));
    for host in c.hosts() {
        children.push(store.serve(host, "127.0.0.1", &host.scratch()?.join("access.log"))?);
    }
    ours.start_agent()?;
    ours.ok(&["init"])?;
    let image = format!("127.0.0.1:5000/{NAME}");
    let pull = |host: &Host| -> Result<()> {
        host.ctl_within(LONG, &["image", "pull", &image])?.ok()?;
        Ok(())
    };
    let remove = |host: &Host| -> Result<()> {
        host.ctl_within(LONG, &["image", "rm", &image])?.ok()?;
        Ok(())
    };
    let mut engines: Vec<(Engine, Pair<'_>)> = vec![(
        Engine::new("swarmd", ours.ok(&["--version"]).unwrap_or_default()),
        (Box::new(|| pull(ours)), Box::new(|| remove(ours))),
    )];
    if docker::is_there() {
        children.push(docker::start(theirs)?);
        wait_until("dockerd answers", LONG, || {
            docker::docker(theirs, &["info"]).map(drop)
        })?;
        let version = docker::docker(theirs, &["version", "--format", "{{.Server.Version}}"])?;
        engines.push((
            Engine::new("Docker", version),
            (
                Box::new(|| docker::docker(theirs, &["pull", "-q", &image]).map(drop)),
                Box::new(|| docker::docker(theirs, &["rmi", &image]).map(drop)),
            ),
        ));
    } else {
        figures
            .missing
            .push("Docker: install docker.io and iptables".into());
    }
    match podman(theirs, &["version", "--format", "{{.Client.Version}}"]) {
        Ok(version) => engines.push((
            Engine::new("podman", version),
            (
                Box::new(|| {
                    podman(theirs, &["pull", "-q", "--tls-verify=false", &image]).map(drop)
                }),
                Box::new(|| podman(theirs, &["rmi", &image]).map(drop)),
            ),
        )),
        Err(why) => figures.missing.push(format!("podman: {why:#}")),
    }
    // The first round is not counted: programs and blobs come into the page cache.
    for round in 0..=ROUNDS {
        for (engine, (pull, remove)) in &mut engines {
            settle();
            if engine.name == "swarmd" {
                forget_peak(ours)?;
            }
            let begun = Instant::now();
            pull()?;
            let took = begun.elapsed();
            if engine.name == "swarmd" {
                figures.memory.push(peak(ours)?);
            }
            if round > 0 {
                engine.pull.push_time(took);
            }
            remove()?;
        }
    }
    figures.engines = engines.into_iter().map(|(engine, _)| engine).collect();
    Ok(())
}

/// Pulls and removes.
type Pair<'a> = (
    Box<dyn Fn() -> Result<()> + 'a>,
    Box<dyn Fn() -> Result<()> + 'a>,
);

impl Engine {
    fn new(name: &str, version: String) -> Self {
        Self {
            name: name.to_owned(),
            version: version.trim().trim_start_matches("swarmctl ").to_owned(),
            pull: Samples::default(),
        }
    }
}

fn podman(host: &Host, args: &[&str]) -> Result<String> {
    let mut podman = Command::new("podman");
    podman
        .arg("--root")
        .arg(host.data_dir().join("podman"))
        .arg("--runroot")
        .arg(host.run_dir().join("podman"))
        .args(["--storage-driver", "overlay", "--log-level", "error"])
        .args(args);
    Ok(host.run(&mut podman, LONG)?.ok()?.stdout.trim().to_owned())
}

/// One node, and ten at once, with the registry on a host of its own.
fn together(store: &Store, link: Option<&str>, memory: &mut Samples) -> Result<Nodes> {
    let builder = Cluster::builder().hosts(NODES + 1).without_agents();
    let cluster = builder
        .argument("--insecure-registries=10.0.0.0/8")
        .start()?;
    let mut children = Vec::new();
    let outcome = together_on(store, &cluster, link, &mut children, memory);
    if let Err(why) = &outcome {
        eprintln!("{why:#}\n{}", cluster.logs());
    }
    for host in cluster.hosts() {
        host.kill_all()?;
    }
    for mut child in children {
        let _ = child.wait();
    }
    cluster.stop()?;
    outcome
}

fn together_on(
    store: &Store,
    c: &Cluster,
    link: Option<&str>,
    children: &mut Vec<Child>,
    memory: &mut Samples,
) -> Result<Nodes> {
    let source = c.host(NODES + 1);
    let nodes = &c.hosts()[..NODES];
    let log = source.scratch()?.join("access.log");
    children.push(store.serve(source, &source.address.to_string(), &log)?);
    if let Some(link) = link {
        let mut tc = Command::new("tc");
        tc.args([
            "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", link,
        ]);
        tc.args(["burst", "256kb", "latency", "100ms"]);
        source.run(&mut tc, LONG)?.ok()?;
    }
    for node in nodes {
        node.start_agent()?;
    }
    c.host(1).ok(&["init"])?;
    let token = c.token("manager")?;
    for node in &nodes[1..] {
        node.ok(&["join", "--token", &token, &c.entrance()])?;
    }
    let image = format!("{}:5000/{NAME}", source.address);
    let mut found = Nodes {
        link: link.unwrap_or("not limited").to_owned(),
        ..Nodes::default()
    };
    for round in 0..TOGETHER {
        let node = &nodes[1 + round];
        settle();
        let begun = Instant::now();
        node.ctl_within(LONG, &["image", "pull", &image])?.ok()?;
        found.one.push_time(begun.elapsed());
        gone(nodes, node, &image)?;
        let before = fetched(&log)?;
        for node in nodes {
            forget_peak(node)?;
        }
        settle();
        let begun = Instant::now();
        node.ctl_within(LONG, &["image", "pull", "--all-nodes", &image])?
            .ok()?;
        found.all.push_time(begun.elapsed());
        for node in nodes {
            memory.push(peak(node)?);
        }
        for (digest, count) in fetched(&log)? {
            let more = count - before.get(&digest).copied().unwrap_or(0);
            found.fetched = found.fetched.max(more);
        }
        gone(nodes, node, &image)?;
    }
    Ok(found)
}

/// Removes the image, everywhere.
fn gone(nodes: &[Host], through: &Host, image: &str) -> Result<()> {
    through.ctl_within(LONG, &["image", "rm", image])?.ok()?;
    for node in nodes {
        wait_until("its layers are gone", LONG, || {
            let layers = std::fs::read_dir(node.data_dir().join("layers"))?.count();
            // That of the built-in image stays.
            ensure!(layers <= 1, "{} has {layers} layers", node.name);
            Ok(())
        })?;
    }
    Ok(())
}

/// What was written before is on the disk, so that nobody waits for another's.
fn settle() {
    rustix::fs::sync();
}

/// The kernel counts an agent's highest resident memory from now on.
fn forget_peak(host: &Host) -> Result<()> {
    let pid = host.agent_pid().context("the agent does not run")?;
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak")
}

/// The highest resident memory since, in MiB.
fn peak(host: &Host) -> Result<f64> {
    let pid = host.agent_pid().context("the agent does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("the kernel tells no peak")? / 1024.0)
}

/// How often each blob was given, from the registry's access log.
fn fetched(log: &Path) -> Result<BTreeMap<String, usize>> {
    let mut fetched = BTreeMap::new();
    let text = std::fs::read_to_string(log)?;
    for line in text.lines().filter(|l| l.contains("\"GET /v2/")) {
        let digest = line
            .split_once("/blobs/")
            .and_then(|(_, rest)| rest.split(' ').next());
        if let Some(digest) = digest {
            *fetched.entry(digest.to_owned()).or_default() += 1;
        }
    }
    Ok(fetched)
}

/// A registry's content on the disk.
struct Store(PathBuf);

impl Drop for Store {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Store {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("bench-images-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// A registry with this content.
    fn serve(&self, host: &Host, address: &str, log: &Path) -> Result<Child> {
        let config = host.scratch()?.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}:5000\"}}\n",
            self.0.join("registry").display(),
        );
        std::fs::write(&config, text)?;
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(&config).stdin(Stdio::null());
        registry.stdout(File::create(log)?).stderr(Stdio::null());
        let child = host
            .spawn_inside(&mut registry)
            .context("is docker-registry installed?")?;
        let at = format!("{address}:5000").parse()?;
        wait_until("the registry answers", LONG, || host.http(at, "/v2/"))?;
        Ok(child)
    }

    /// Makes the image and puts it there; the bytes that it takes there.
    fn fill(&self) -> Result<u64> {
        let layout = self.0.join("layout");
        let at = layout.display();
        run("umoci", &["init", "--layout", &at.to_string()])?;
        run("umoci", &["new", "--image", &format!("{at}:1")])?;
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for layer in 0..LAYERS {
            let files = self.0.join("files");
            tree(&files, SIZE / LAYERS, &mut dice)?;
            let (image, from) = (format!("{at}:1"), files.display().to_string());
            run(
                "umoci",
                &["insert", "--image", &image, &from, &format!("/usr/{layer}")],
            )?;
            std::fs::remove_dir_all(&files)?;
        }
        let cluster = Cluster::builder().hosts(1).without_agents().start()?;
        let host = cluster.host(1);
        let mut registry = self.serve(host, "127.0.0.1", &host.scratch()?.join("access.log"))?;
        let mut copy = Command::new("skopeo");
        copy.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]);
        copy.arg(format!("oci:{at}:1"));
        copy.arg(format!("docker://127.0.0.1:5000/{NAME}"));
        let copied = host
            .run(&mut copy, LONG)
            .and_then(swarm_tests::command::Output::ok);
        registry.kill()?;
        registry.wait()?;
        cluster.stop()?;
        copied?;
        let mut bytes = 0;
        for blob in std::fs::read_dir(layout.join("blobs/sha256"))? {
            bytes += blob?.metadata()?.len();
        }
        std::fs::remove_dir_all(&layout)?;
        Ok(bytes)
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    swarm_tests::command::run(command.args(args), LONG)?.ok()?;
    Ok(())
}

/// Numbers that are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % most.max(1)
    }
}

/// Files of `bytes` in all, as images have them: most of them small, most bytes in large ones; a third of it text, a third
/// like programs, a third that does not compress.
fn tree(folder: &Path, bytes: usize, dice: &mut Dice) -> Result<()> {
    let mut left = bytes;
    for number in 0.. {
        let size = match dice.below(100) {
            0..70 => 500 + dice.below(16_000),
            70..95 => 16_000 + dice.below(200_000),
            _ => 200_000 + dice.below(3_000_000),
        }
        .min(left);
        left -= size;
        let folder = folder.join(format!("{}", number % 40));
        std::fs::create_dir_all(&folder)?;
        let mut file = std::io::BufWriter::new(File::create(folder.join(format!("{number}")))?);
        let mut done = 0;
        let kind = dice.below(3);
        let mut piece = String::new();
        while done < size {
            let block: Vec<u8> = match kind {
                0 => {
                    piece.clear();
                    let words = ["the", "image", "of", "swarm", "licence", "define", "return"];
                    let _ = write!(piece, "{} {} ", words[dice.below(7)], dice.below(5000));
                    piece.bytes().collect()
                }
                // Eight bytes of which few differ, as instructions and tables do.
                1 => (dice.next() & 0x0000_3f00_00ff_ff0f).to_le_bytes().to_vec(),
                _ => dice.next().to_le_bytes().to_vec(),
            };
            let take = block.len().min(size - done);
            file.write_all(&block[..take])?;
            done += take;
        }
        file.flush()?;
        if left == 0 {
            return Ok(());
        }
    }
    bail!("there are no more numbers")
}
