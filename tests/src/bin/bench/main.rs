//! `make bench`: measures the figures of `docs/benchmarks.md`, side by side with Docker Swarm in one run where that
//! can be installed, and writes them there. Machines are noisy: read the ratios.

mod docker;
mod idle;
mod images;
mod report;
mod runtime;
mod sample;
mod shim;
mod swarm;

use anyhow::{Context, Result, bail};
use report::Section;
use sample::Samples;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use swarm_tests::guard;

/// All of it, building left out.
const LIMIT: Duration = Duration::from_secs(1500);
/// How often a start is measured.
const STARTS: usize = 30;
/// How often a host is lost.
const LOSSES: usize = 3;
/// How long an idle cluster is watched.
const IDLE: Duration = Duration::from_secs(30);

/// What both sides are measured by.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// From the acknowledgement of a detached run to the start of its process.
    pub(crate) ack_to_running: Samples,
    /// From the command's start to the start of the process.
    pub(crate) typed_to_running: Samples,
    /// From the death of a host to its task's running elsewhere, DNS included where the side has a server to ask.
    pub(crate) host_lost: Samples,
    /// From the death of the leader's host to the next accepted write.
    pub(crate) leader_lost: Samples,
    /// Resident memory of each idle agent, in MiB.
    pub(crate) memory: Samples,
    /// Share of one CPU that each idle agent takes, in percent.
    pub(crate) cpu: Samples,
    /// Bytes that each idle agent has written to disk.
    pub(crate) written: Samples,
}

fn main() -> ExitCode {
    guard::guarded(LIMIT, bench)
}

fn bench() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let usage = "usage: swarm-bench FILE [cluster|runtime|shim|images …]; the figures are written into FILE";
    let file = args.next().map(PathBuf::from).context(usage)?;
    let mut parts: Vec<String> = args
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.is_empty() {
        parts = ["cluster", "runtime", "shim", "images"]
            .map(str::to_owned)
            .to_vec();
    }
    for part in parts {
        let section = match part.as_str() {
            "cluster" => cluster()?,
            "runtime" => {
                println!("measuring runtimes: one container from nothing to nothing");
                Section::runtime(&runtime::measure()?)
            }
            "images" => {
                println!("measuring images: one host, and ten at once");
                Section::images(&images::measure()?)
            }
            "shim" => {
                println!("measuring shims: {} containers at rest", shim::CONTAINERS);
                Section::shim(&shim::measure()?)
            }
            _ => bail!("there is no part `{part}`; {usage}"),
        };
        println!("\n{}", section.text());
        section.write(&file)?;
    }
    Ok(())
}

fn cluster() -> Result<Section> {
    println!("measuring swarmd: three hosts");
    let ours = swarm::measure()?;
    let theirs = if docker::is_there() {
        println!("measuring Docker Swarm: three hosts");
        match docker::measure() {
            Ok(figures) => Some(figures),
            Err(e) => {
                eprintln!("Docker Swarm was not measured: {e:#}");
                None
            }
        }
    } else {
        eprintln!("Docker Swarm was not measured: install docker.io and iptables for that");
        None
    };
    Ok(Section::cluster(&ours, theirs.as_ref()))
}
