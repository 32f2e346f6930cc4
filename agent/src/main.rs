//! `swarmd`: reads what the operator says and runs the agent, or becomes the keeper of one container.

use anyhow::{Context, Result};
use clap::Parser;
use std::path::Path;
use std::process::ExitCode;
use swarm_agent::config::{Cli, Command, Config};
use swarm_agent::{daemon, rootless};
use tracing_subscriber::EnvFilter;

/// Threads that carry the agent's work; more would only cost memory.
const MOST_THREADS: usize = 4;
/// Threads for what blocks: files, fsync. They end when idle.
const BLOCKING_THREADS: usize = 32;

fn main() -> ExitCode {
    // A shim is started for each container: nothing may come before it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|a| a == "shim")
        && arguments.next().is_some_and(|a| a == "--dir")
        && let Some(dir) = arguments.next()
    {
        return swarm_runtime::shim::shim_main(Path::new(&dir));
    }
    let cli = Cli::parse();
    let settings = match cli.command {
        Some(Command::Run(settings)) => settings,
        Some(Command::Unshare { program }) => {
            let why = rootless::run(&program);
            eprintln!("swarmd: {why:#}");
            return ExitCode::FAILURE;
        }
        Some(Command::Shim { dir }) => return swarm_runtime::shim::shim_main(&dir),
        None => cli.settings,
    };
    match settings.complete().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("swarmd: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut config: Config) -> Result<()> {
    rootless::enter(&config.data_dir)?;
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("\"{}\" is not a log filter; try info or debug", config.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    rootless::settle(&mut config)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(MOST_THREADS))
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    runtime.block_on(daemon::run(config))
}
