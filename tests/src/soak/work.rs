//! A spell of work: users who start, scale, watch, enter and remove services with real containers, while faults befall.
//! Whether they succeed is not looked at; that they are answered at all, and that the cluster gets over it, is.

use crate::histories::dice::Dice;
use crate::histories::faults::Faults;
use crate::{Cluster, Host};
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Users at once.
const USERS: usize = 3;
/// What an action is given; one that waits for a quorum, or for a task that never comes, is ended then.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn work(
    cluster: &Cluster,
    faults: &mut Faults<'_>,
    dice: &mut Dice,
    time: Duration,
    archive: &str,
    say: &dyn Fn(&str),
) -> Result<()> {
    let stop = AtomicBool::new(false);
    let users: Vec<Dice> = (0..USERS).map(|_| dice.fork()).collect();
    std::thread::scope(|scope| {
        for mut dice in users {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let host = dice.one(cluster.hosts());
                    act(host, &mut dice, archive);
                    std::thread::sleep(
                        dice.time(Duration::from_millis(20), Duration::from_millis(600)),
                    );
                }
            });
        }
        let befell = faults.befall(time, say);
        let healed = faults.heal_all();
        stop.store(true, Ordering::SeqCst);
        befell.and(healed)
    })
}

fn act(host: &Host, dice: &mut Dice, archive: &str) {
    let service = format!("work-{}", dice.below(6));
    let other = format!("work-{}", dice.below(6));
    let network = format!("net-{}", dice.below(2));
    let replicas = (1 + dice.below(3)).to_string();
    let port = format!("{}:80", 8000 + dice.below(20));
    let image = format!("tmp{}", dice.below(2));
    let words = |text: &[&str]| -> Vec<String> { text.iter().map(ToString::to_string).collect() };
    let run = |more: &[&str]| {
        let first = ["run", "-d", "--name", &service, "--replicas", &replicas];
        words(&[&first[..], more].concat())
    };
    let script = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done; sleep 1; exit $((RANDOM % 2))";
    let line = match dice.below(20) {
        0..3 => run(&["whoami"]),
        3 => run(&["-p", &port, "whoami"]),
        4 => run(&[
            "--network",
            &network,
            "-m",
            "64M",
            "busybox",
            "sleep",
            "600",
        ]),
        5 => run(&["--restart", "always", "busybox", "sh", "-c", script]),
        6 => run(&["--no-such-flag", "whoami"]),
        7 => run(&["busybox", "no-such-program"]),
        8..10 => words(&["service", "scale", &format!("{service}={replicas}")]),
        10..13 => words(&["rm", "-f", &service]),
        13 => words(&["stop", &other]),
        14 => words(&["exec", &format!("{service}.1"), "echo", "hi"]),
        15 => words(&["kill", &format!("{service}.1")]),
        16 => words(&["stats", "--no-stream"]),
        17 => words(&["network", "create", &network]),
        18 => words(&["network", "rm", &network]),
        _ => words(&["image", "import", &image, archive]),
    };
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    // A refusal, or no answer, is as good as any here.
    host.ctl_within(PATIENCE, &line).ok();
    if dice.percent(20) {
        // One who looks for a moment and goes away in the middle.
        let looks: [&[&str]; 4] = [
            &["events"],
            &["logs", "-f", &service],
            &["stats"],
            &["attach", &format!("{service}.1")],
        ];
        let look: &[&str] = dice.one::<&[&str]>(&looks);
        if let Ok(mut look) = host.ctl_stream(look) {
            look.end(dice.time(Duration::from_millis(50), Duration::from_secs(2)))
                .ok();
        }
    }
}
