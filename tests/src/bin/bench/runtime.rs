//! One container from nothing to nothing: this runtime beside others and beside the floor, in turn, with the same bundle.

use crate::sample::Samples;
use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use swarm_tests::host::SOON;
use swarm_tests::{command, images};

/// How often each is run.
pub(crate) const ROUNDS: usize = 120;
/// How many at a time.
pub(crate) const AT_ONCE: usize = 100;
/// How often so many.
const PARALLEL_ROUNDS: usize = 5;

/// Youki's `run` waits for ever when the container has ended before it waits (0.7.0, one run in ten here): by then the kernel has
/// thrown SIGCHLD away, which is kept where whoever starts it has blocked it.
const YOUKI: [&str; 3] = ["env", "--block-signal=CHLD", "youki"];

/// What the floor is made of, one part more each time (see `floor.c`).
const FLOORS: [(&str, &str); 5] = [
    ("fork, exec, wait", "-"),
    ("+ mount namespace, mounts, pivot_root", "m"),
    ("+ pid, ipc, uts namespaces", "mpiu"),
    ("+ network namespace: the floor", "mpiun"),
    ("+ cgroups", "mpiunc"),
];
/// Which of them is the floor.
const FLOOR: usize = 3;

/// One that was measured.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) version: String,
    /// One at a time, milliseconds.
    pub(crate) alone: Samples,
    /// All of [`AT_ONCE`], milliseconds.
    pub(crate) together: Samples,
}

/// What was found out.
#[derive(Debug)]
pub(crate) struct Figures {
    /// This runtime first.
    pub(crate) runtimes: Vec<Figure>,
    pub(crate) floors: Vec<Figure>,
    /// Those that could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

impl Figures {
    /// The median of the floor.
    pub(crate) fn floor(&self) -> Option<f64> {
        self.floors.get(FLOOR)?.alone.median()
    }
}

/// A folder that goes when this does.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = umount2(&self.0.join("state"), MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Measures everything. `swarm-oci` stands beside this program.
pub(crate) fn measure() -> Result<Figures> {
    // crun 1.8 refuses hosts with both kinds of cgroups: none of them sees cgroup v2 on such a host.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
                let unified = "/sys/fs/cgroup/unified";
                if Path::new(unified).exists() {
                    mount(Some("none"), unified, Some("tmpfs"), MsFlags::empty(), none)?;
                }
                measure_here()
            })
            .join()
            .map_err(|_| anyhow::anyhow!("the measurement broke off"))?
    })
}

fn measure_here() -> Result<Figures> {
    let scratch = Scratch(std::env::temp_dir().join(format!("bench-oci-{}", std::process::id())));
    std::fs::create_dir_all(&scratch.0)?;
    let ours = std::env::current_exe()?.with_file_name("swarm-oci");
    ensure!(
        ours.is_file(),
        "there is no {}: cargo build --release -p swarm-oci",
        ours.display()
    );
    let bundle = bundle(&scratch.0, &ours)?;
    // State on a tmpfs, as `/run` is.
    let state = scratch.0.join("state");
    std::fs::create_dir_all(&state)?;
    mount(
        Some("state"),
        &state,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let floor = scratch.0.join("floor");
    let source = scratch.0.join("floor.c");
    std::fs::write(&source, include_str!("floor.c"))?;
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-static", "-o"]).arg(&floor).arg(&source);
    command::run(&mut cc, SOON)?.ok()?;

    let mut figures = Figures {
        runtimes: Vec::new(),
        floors: Vec::new(),
        missing: Vec::new(),
    };
    let mut runtimes = Vec::new();
    for (name, words) in [
        ("swarm-oci", vec![ours.as_os_str()]),
        (
            "crun",
            vec!["crun".as_ref(), "--cgroup-manager=cgroupfs".as_ref()],
        ),
        ("runc", vec!["runc".as_ref()]),
        ("youki", YOUKI.map(AsRef::as_ref).to_vec()),
    ] {
        let runtime = Runtime {
            words: words.into_iter().map(OsStr::to_owned).collect(),
            root: state.join(name),
            bundle: bundle.clone(),
        };
        // Once before anything is measured, so that all of them are in the page cache.
        match runtime.version().and_then(|version| {
            wait(runtime.start("warm")?)?;
            Ok(version)
        }) {
            Ok(version) => {
                figures.runtimes.push(Figure::new(name, version));
                runtimes.push(runtime);
            }
            Err(e) if name == "swarm-oci" => return Err(e),
            Err(e) => figures.missing.push(format!("{name}: {e:#}")),
        }
    }
    let floor_of = |parts: &str| {
        let mut command = Command::new(&floor);
        command
            .arg(parts)
            .arg(bundle.join("rootfs"))
            .arg("/bin/true");
        spawn(&mut command)
    };
    for (name, _) in FLOORS {
        figures.floors.push(Figure::new(name, String::new()));
    }
    for round in 0..ROUNDS {
        for (runtime, figure) in runtimes.iter().zip(&mut figures.runtimes) {
            let begun = Instant::now();
            wait(runtime.start(&format!("c{round}"))?)?;
            figure.alone.push_time(begun.elapsed());
        }
        for ((_, parts), figure) in FLOORS.iter().zip(&mut figures.floors) {
            let begun = Instant::now();
            wait(floor_of(parts)?)?;
            figure.alone.push_time(begun.elapsed());
        }
    }
    println!("  one at a time: done");
    for round in 0..PARALLEL_ROUNDS {
        for (runtime, figure) in runtimes.iter().zip(&mut figures.runtimes) {
            let id = |n| format!("p{round}-{n}");
            figure
                .together
                .push_time(all((0..AT_ONCE).map(|n| runtime.start(&id(n))))?);
        }
        if let Some(figure) = figures.floors.get_mut(FLOOR) {
            let parts = FLOORS[FLOOR].1;
            figure
                .together
                .push_time(all((0..AT_ONCE).map(|_| floor_of(parts)))?);
        }
    }
    println!("  {AT_ONCE} at a time: done");
    Ok(figures)
}

impl Figure {
    fn new(name: &str, version: String) -> Self {
        Self {
            name: name.to_owned(),
            version,
            alone: Samples::default(),
            together: Samples::default(),
        }
    }
}

struct Runtime {
    /// Its program, and what else comes before the command.
    words: Vec<OsString>,
    root: PathBuf,
    bundle: PathBuf,
}

impl Runtime {
    fn version(&self) -> Result<String> {
        let said = command::run(self.command().arg("--version"), SOON)?
            .ok()?
            .stdout;
        let version = said.lines().next().unwrap_or_default();
        Ok(version
            .split_whitespace()
            .next_back()
            .unwrap_or_default()
            .to_owned())
    }

    /// `run` as all of them have it: create, start, wait, delete.
    fn start(&self, id: &str) -> Result<Child> {
        let mut command = self.command();
        command.arg("--root").arg(&self.root);
        command.args(["run", "--bundle"]).arg(&self.bundle).arg(id);
        spawn(&mut command)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command
    }
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command::line(command)))
}

fn wait(child: Child) -> Result<()> {
    let done = child.wait_with_output()?;
    if !done.status.success() {
        let text = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        bail!("{}: {text}", done.status);
    }
    Ok(())
}

fn all(children: impl Iterator<Item = Result<Child>>) -> Result<Duration> {
    let begun = Instant::now();
    let children = children.collect::<Result<Vec<_>>>()?;
    for child in children {
        wait(child)?;
    }
    Ok(begun.elapsed())
}

/// A bundle that all of them read: the spec that ours writes, of a version that old ones know.
fn bundle(folder: &Path, ours: &Path) -> Result<PathBuf> {
    images::busybox_tar(folder)?;
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(&bundle)?;
    let rootfs = bundle.join("rootfs");
    std::fs::rename(folder.join("busybox"), &rootfs)?;
    for mount_point in ["proc", "dev", "sys"] {
        std::fs::create_dir_all(rootfs.join(mount_point))?;
    }
    let mut write = Command::new(ours);
    command::run(write.args(["spec", "--bundle"]).arg(&bundle), SOON)?.ok()?;
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    spec["ociVersion"] = json!("1.0.2");
    spec["process"]["args"] = json!(["/bin/true"]);
    std::fs::write(config, spec.to_string())?;
    Ok(bundle)
}
