//! Torture for as long as one likes: `swarm-torture histories` judges what users and watchers are told while faults
//! befall the hosts, round after round; `swarm-torture soak` looks for what is not given back.

mod arguments;
mod soak;

use anyhow::{Context, Result};
use arguments::{Arguments, What};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use swarm_tests::Cluster;
use swarm_tests::guard::guarded;
use swarm_tests::histories::{self, Plan, dice::Dice, faults};

/// How long one cluster is used; then comes a new one.
const ROUND: Duration = Duration::from_secs(90);
/// Each host's disk: enough for the built-in image and a log.
const DISK: u64 = 128 << 20;

/// For what begins before the time is up.
const REST: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    guarded(arguments.time + REST, || match arguments.what {
        What::Histories => all_histories(&arguments),
        What::Soak => soak::soak(&arguments),
    })
}

fn all_histories(arguments: &Arguments) -> Result<()> {
    let until = Instant::now() + arguments.time;
    let mut dice = Dice::new(arguments.seed);
    let mut seed = arguments.seed;
    for round in 1.. {
        let left = until.saturating_duration_since(Instant::now());
        if left < Duration::from_secs(5) {
            break;
        }
        eprintln!("round {round}, {} s to go", left.as_secs());
        let cluster = Cluster::builder()
            .hosts(arguments.hosts)
            .disk(DISK)
            .start()?;
        let plan = Plan {
            seed,
            time: left.min(ROUND),
            users: 2 * arguments.hosts + 2,
            faults: faults::Kind::ALL.to_vec(),
        };
        let judged = cluster
            .form()
            .and_then(|()| histories::run(&cluster, &plan));
        match judged {
            Ok(report) => println!("round {round}: {report}"),
            Err(why) => {
                eprintln!("{}", cluster.logs());
                return Err(why).context(format!("round {round}"));
            }
        }
        cluster.stop()?;
        seed = dice.below(u64::MAX);
    }
    Ok(())
}
