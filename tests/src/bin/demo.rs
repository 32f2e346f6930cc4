//! `make demo`: three hosts, a workload, a look-up that finds it, and a host that is cut off. Every command is shown
//! as one would type it; the hosts are network namespaces of this machine, and nothing of them stays.

use anyhow::{Context, Result, ensure};
use std::io::IsTerminal;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use swarm_tests::host::{Host, SOON};
use swarm_tests::{Cluster, command, guard, http, images, wait_until};

/// The promise: under three minutes.
const LIMIT: Duration = Duration::from_secs(170);

fn main() -> ExitCode {
    guard::guarded(LIMIT, demo)
}

fn demo() -> Result<()> {
    let start = Instant::now();
    let show = Show {
        colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    show.say("Three hosts: network namespaces with addresses of their own, joined by a bridge.");
    let cluster = Cluster::builder().hosts(3).without_agents().start()?;
    let outcome = play(&show, &cluster);
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    let stopped = cluster.stop();
    outcome?;
    stopped?;
    show.say(&format!(
        "That was it, in {} s. The hosts are gone, and nothing is left behind.",
        start.elapsed().as_secs()
    ));
    Ok(())
}

fn play(show: &Show, cluster: &Cluster) -> Result<()> {
    let (one, two, three) = (cluster.host(1), cluster.host(2), cluster.host(3));
    for host in cluster.hosts() {
        show.typed(host, &format!("swarmd --advertise-addr {} &", host.address));
        host.start_agent()?;
    }

    show.say("The first host makes a cluster; the others join it with a token.");
    show.ctl(one, &["init"])?;
    show.ctl(one, &["token", "create", "--role", "manager"])?;
    let token = cluster.token("manager")?;
    for host in [two, three] {
        let args = ["join", "--token", &token, &cluster.entrance()];
        show.typed(
            host,
            &format!("swarmctl join --token $TOKEN {}", cluster.entrance()),
        );
        show.output(host.ctl(&args)?)?;
    }
    cluster.wait_ready()?;
    show.ctl(two, &["node", "ls"])?;

    show.say("A service of three tasks. The image whoami comes with the binary.");
    show.ctl(
        one,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--replicas",
            "3",
            "-p",
            "8080:80",
            "whoami",
        ],
    )?;
    let tasks = one.wait_running("web", 3, SOON)?;
    show.ctl(three, &["ps"])?;

    show.say("Where is it? Every host's own DNS server knows, and so does swarmctl.");
    for host in cluster.hosts() {
        wait_until("DNS knows all three", SOON, || {
            ensure!(host.dig(&["web.swarm"])?.len() == 3, "not yet");
            Ok(())
        })?;
    }
    show.dig(two, &["+short", "web.swarm"])?;
    show.dig(two, &["+short", "web.swarm", "SRV"])?;
    show.ctl(three, &["lookup", "web"])?;

    show.say("The container that was found answers, across hosts, and so does the published port of every host.");
    let far = tasks
        .iter()
        .find(|t| t.node != one.name)
        .context("all tasks are on host1")?;
    let page = show.curl(one, &format!("http://{}/", far.at(80)?))?;
    ensure!(
        http::field(&page, "Task")? == far.name,
        "another task answered"
    );
    show.curl(three, &format!("http://{}:8080/health", two.address))?;

    show.say(
        "A root file system becomes an image, and a command runs in a container on another host.",
    );
    let archive = images::busybox_tar(&one.scratch()?)?;
    let archive = archive.to_string_lossy();
    show.typed(one, "swarmctl image import busybox busybox.tar");
    show.output(one.ctl(&["image", "import", "busybox", &archive])?)?;
    show.ctl(
        one,
        &[
            "run",
            "-d",
            "--name",
            "box",
            "--constraint",
            "node.name==host2",
            "busybox",
            "sleep",
            "3600",
        ],
    )?;
    one.wait_running("box", 1, SOON)?;
    show.ctl(
        three,
        &[
            "exec",
            "box.1",
            "sh",
            "-c",
            r"printf 'GET / HTTP/1.0\r\n\r\n' | nc web 80",
        ],
    )?;

    let lost = cluster.named(&far.node)?;
    show.say(&format!("Now {} is cut off from the others.", lost.name));
    let cut = Instant::now();
    lost.cut()?;
    let seen_from = cluster
        .others(lost)
        .next()
        .context("there is no other host")?;
    seen_from.wait_moved("web", 3, lost, SOON)?;
    show.say(&format!(
        "After {:.1} s its task runs elsewhere, and the look-up has followed:",
        cut.elapsed().as_secs_f64()
    ));
    show.ctl(seen_from, &["ps", "web"])?;
    show.dig(seen_from, &["+short", "web.swarm"])?;
    show.ctl(seen_from, &["lookup", "web"])?;

    show.say("And back.");
    lost.heal()?;
    cluster.wait_ready()?;
    show.ctl(lost, &["node", "ls"])?;
    show.ctl(lost, &["service", "rm", "web", "box"])?;
    wait_until("all tasks are gone", SOON, || {
        let left = lost.tasks(None)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    for host in cluster.hosts().iter().rev() {
        show.ctl(host, &["leave", "--force"])?;
        host.stop_agent()?;
    }
    Ok(())
}

struct Show {
    colour: bool,
}

impl Show {
    fn say(&self, text: &str) {
        if self.colour {
            println!("\n\x1b[1m{text}\x1b[0m");
        } else {
            println!("\n{text}");
        }
    }

    fn typed(&self, host: &Host, line: &str) {
        if self.colour {
            println!("\x1b[32m{}$\x1b[36m {line}\x1b[0m", host.name);
        } else {
            println!("{}$ {line}", host.name);
        }
    }

    fn output(&self, output: command::Output) -> Result<String> {
        let done = output.ok()?;
        print!("{}", done.stdout);
        if !done.stdout.is_empty() && !done.stdout.ends_with('\n') {
            println!();
        }
        Ok(done.stdout)
    }

    fn ctl(&self, host: &Host, args: &[&str]) -> Result<String> {
        self.typed(host, &command::line(Command::new("swarmctl").args(args)));
        self.output(host.ctl(args)?)
    }

    fn dig(&self, host: &Host, args: &[&str]) -> Result<String> {
        let mut dig = Command::new("dig");
        dig.arg(format!("@{}", host.address)).args(args);
        self.typed(host, &command::line(&dig));
        self.output(host.run(&mut dig, SOON)?)
    }

    fn curl(&self, host: &Host, url: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        self.typed(host, &command::line(curl.arg(url)));
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "5"]);
        self.output(host.run(&mut curl, SOON)?)
    }
}
