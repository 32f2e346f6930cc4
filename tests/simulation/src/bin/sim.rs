//! Runs histories by seed: many at once, one again, or one with a deliberate bug; a failure is shortened and printed so that
//! it can be run again.

use anyhow::{Result, bail};
use clap::Parser;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use swarm_simulation::history::{self, Failure};
use swarm_simulation::plan::Plan;
use swarm_simulation::sabotage::Bug;
use swarm_simulation::scale::{self, Figures, Row, Scale};
use swarm_simulation::shrink::shrink;

/// Counts what is on the heap, for the figures of `--scale`.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs whole clusters of agents by seed, with faults, and checks what must be so.
#[derive(Parser)]
#[command(name = "swarm-sim")]
struct Options {
    /// Run this seed only, twice, and say whether both runs were the same.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// End after this many seconds, whatever is left.
    #[arg(long, default_value_t = 600)]
    time: u64,
    /// How many at once; as many as there are processors if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// A deliberate bug: some seed must fail then.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Show that each deliberate bug is seen, within 60 seeds.
    #[arg(long)]
    bugs: bool,
    /// Measure clusters of these numbers of hosts instead, and print a table.
    #[arg(long, value_delimiter = ',')]
    scale: Vec<usize>,
    /// Tasks on each host, with `--scale`.
    #[arg(long, default_value_t = 30)]
    tasks: usize,
    /// With `--scale`: the file that figures are kept in. Those of other numbers of hosts stay. A plot is put beside it, and
    /// the table is printed.
    #[arg(long)]
    figures: Option<PathBuf>,
    /// Do not shorten a failing history.
    #[arg(long)]
    no_shrink: bool,
    /// Of the seed's history only these events, by number.
    #[arg(long, value_delimiter = ',', requires = "seed")]
    only: Option<Vec<usize>>,
    /// Print what is planned.
    #[arg(long)]
    print: bool,
}

fn main() -> Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "off".into()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .init();
    let options = Options::parse();
    match options.seed {
        Some(seed) => again(seed, &options),
        None if options.bugs => bugs(),
        None if !options.scale.is_empty() => measure(&options),
        None => many(&options),
    }
}

fn measure(options: &Options) -> Result<ExitCode> {
    let mut figures = match &options.figures {
        Some(path) => Figures::read(path)?,
        None => Figures::default(),
    };
    for hosts in &options.scale {
        let scale = Scale {
            hosts: *hosts,
            tasks_per_host: options.tasks,
            heap: || {
                let stats = ALLOCATOR.stats();
                stats
                    .bytes_allocated
                    .saturating_sub(stats.bytes_deallocated)
            },
        };
        scale::run(scale, &mut |rows: &[Row]| {
            if let Some(row) = rows.last() {
                eprintln!(
                    "{} hosts, {}: {:.2} s, which took {:.1} s; {} MB",
                    row.hosts,
                    row.title(),
                    row.took,
                    row.real,
                    row.resident >> 20
                );
            }
            figures.put(rows.to_vec());
            if let Some(path) = &options.figures {
                std::fs::write(path, figures.text())?;
                std::fs::write(path.with_extension("svg"), scale::draw(&figures))?;
            }
            Ok(())
        })?;
    }
    print!("{}", scale::table(&figures));
    Ok(ExitCode::SUCCESS)
}

fn bugs() -> Result<ExitCode> {
    for (bug, said) in Bug::ALL {
        let seen = (1..=60).find_map(|seed| {
            let failure = history::run(&Plan::draw(seed), Some(*bug)).err()?;
            said.iter()
                .any(|s| failure.what.contains(s))
                .then_some((seed, failure))
        });
        match seen {
            Some((seed, failure)) => println!("{bug:?} is seen: seed {seed} {failure}"),
            None => bail!("{bug:?} is not seen"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn again(seed: u64, options: &Options) -> Result<ExitCode> {
    let mut plan = Plan::draw(seed);
    if let Some(only) = &options.only {
        plan = plan.only(|number| only.contains(&number));
    }
    if options.print {
        println!("{plan:#?}");
    }
    let (first, second) = (
        history::run(&plan, options.bug),
        history::run(&plan, options.bug),
    );
    if first != second {
        bail!(
            "two runs of seed {seed} differ: {first:?}, {second:?}; is this built with --cfg tokio_unstable (make sim)?"
        );
    }
    match first {
        Ok(outcome) => {
            println!("seed {seed}: all is well, and the same again: {outcome:?}");
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            tell(seed, &plan, failure, options);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn many(options: &Options) -> Result<ExitCode> {
    let start = Instant::now();
    let limit = Duration::from_secs(options.time);
    let (next, failed) = (AtomicU64::new(options.from), AtomicU64::new(0));
    let (done, virtual_seconds) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or(processors);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && start.elapsed() < limit {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.from.saturating_add(options.seeds) {
                        return;
                    }
                    let plan = Plan::draw(seed);
                    let ended = match history::run(&plan, options.bug) {
                        Ok(outcome) => outcome.ended,
                        Err(failure) => {
                            let at = failure.at;
                            failed.fetch_add(1, Ordering::Relaxed);
                            tell(seed, &plan, failure, options);
                            if options.bug.is_some() {
                                stop.store(true, Ordering::Relaxed);
                            }
                            at
                        }
                    };
                    done.fetch_add(1, Ordering::Relaxed);
                    virtual_seconds.fetch_add(ended.as_secs(), Ordering::Relaxed);
                }
            });
        }
    });
    let (done, failed) = (done.into_inner(), failed.into_inner());
    let hours = virtual_seconds.into_inner() / 3600;
    println!(
        "{done} histories, {hours} h of virtual time, in {:.0} s: {failed} failed",
        start.elapsed().as_secs_f64()
    );
    let good = match options.bug {
        None => failed == 0 && done > 0,
        Some(_) => failed > 0,
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell(seed: u64, plan: &Plan, failure: Failure, options: &Options) {
    println!("seed {seed} FAILED {failure}");
    if options.no_shrink {
        return;
    }
    let (short, failure) = shrink(plan, failure, options.bug);
    let kept: Vec<String> = short.events.iter().map(|e| e.number.to_string()).collect();
    println!(
        "seed {seed} shortened from {} events to {}: {failure}",
        plan.events.len(),
        short.events.len(),
    );
    for planned in &short.events {
        println!("  {:8.3} s  {:?}", planned.at.as_secs_f64(), planned.event);
    }
    println!("again: swarm-sim --seed {seed} --only {}", kept.join(","));
}
