//! `run`: flags in, the service's specification out.

use super::values;
use clap::Args;
use std::time::Duration;
use swarm_api::model::{
    Constraint, Cpus, HealthCheck, Mount, MountSource, NetworkMode, Port, Resources, Restart,
    RestartPolicy, ServiceSpec, TaskSpec, parse_bytes, parse_duration,
};

/// Where the flags of health checks stand in the help.
const HEALTH: &str = "Health";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  swarmctl run --rm busybox echo hello             one task; its output and exit code
  swarmctl run -it --rm busybox sh                 a shell; ctrl-p ctrl-q detaches
  swarmctl run -d --name web --replicas 3 -p 8080:80 whoami
  swarmctl run -d --name web --health-http 80/ready --health-interval 5s team/web
  swarmctl run -d --constraint node.labels.disk==ssd -v data:/var/lib db

Without -d, one task is run and its streams are joined; swarmctl ends with its exit code, and it is not
restarted unless --restart says so. More than one replica need -d. ctrl-c is sent to the task; a second
one kills it, a third one ends swarmctl. Exit codes: 125 where the agent cannot run it, 126 where its
program cannot be executed, 127 where there is no such program.")]
pub(crate) struct RunArgs {
    /// Do not wait: print the service's name
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep the input open, and pass it on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// With a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Remove it when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// The service's name: a DNS label; made up if not given
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// NAME=VALUE, after the image's; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// [PUBLISHED:]TARGET[/tcp|udp]: a port of every node that leads to it, and its own
    #[arg(short, long, value_name = "PORT")]
    pub(crate) publish: Vec<Port>,
    /// SOURCE:TARGET[:ro]: a path of the host, or a volume's name, and where it is mounted
    #[arg(short, long, value_name = "MOUNT")]
    pub(crate) volume: Vec<Mount>,
    /// A path where memory is mounted
    #[arg(long, value_name = "PATH")]
    pub(crate) tmpfs: Vec<String>,
    /// Memory at most, such as 64m
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// Processors at most, such as 0.5
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<Cpus>,
    /// Processes and threads at most
    #[arg(long, value_name = "N")]
    pub(crate) pids: Option<u32>,
    /// Bytes at most that it writes outside of volumes, such as 1g; needs a disk with project quotas
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) storage_size: Option<u64>,
    /// What its node must meet: KEY==VALUE or KEY!=VALUE, such as node.labels.disk==ssd
    #[arg(long, value_name = "CONSTRAINT")]
    pub(crate) constraint: Vec<Constraint>,
    /// How many tasks
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) replicas: u32,
    /// never, on-failure or always [default: on-failure with -d, else never]
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<Restart>,
    /// In place of the image's user
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// In place of the image's working directory
    #[arg(short, long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// In place of the image's entrypoint: words, or a JSON array; empty for none
    #[arg(long, value_parser = values::words)]
    pub(crate) entrypoint: Option<values::Words>,
    /// The host name
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Its root file system cannot be written
    #[arg(long)]
    pub(crate) read_only: bool,
    /// In a user namespace of its own
    #[arg(long)]
    pub(crate) user_namespace: bool,
    /// A network's name, `none` or `host`
    #[arg(long, default_value = "default")]
    pub(crate) network: String,
    /// For people and for filters
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub(crate) label: Vec<(String, String)>,
    /// In place of the image's stop signal
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) stop_timeout: Option<Duration>,
    /// A line for the container's shell that ends with 0 while the task does its work
    #[arg(long, value_name = "LINE", group = "health_test", help_heading = HEALTH)]
    pub(crate) health_cmd: Option<String>,
    /// PORT[/PATH]: a GET there is answered with a status of 200 to 399 while the task does its work
    #[arg(long, value_name = "PORT[/PATH]", value_parser = values::health_http, group = "health_test", help_heading = HEALTH)]
    pub(crate) health_http: Option<values::Words>,
    /// A connection to this port is accepted while the task does its work
    #[arg(long, value_name = "PORT", group = "health_test", help_heading = HEALTH)]
    pub(crate) health_tcp: Option<std::num::NonZeroU16>,
    /// Not checked, whatever its image says
    #[arg(long, group = "health_test", help_heading = HEALTH)]
    pub(crate) no_healthcheck: bool,
    /// Time between two checks [default: the image's, else 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HEALTH)]
    pub(crate) health_interval: Option<Duration>,
    /// Time that one check may take [default: the image's, else 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HEALTH)]
    pub(crate) health_timeout: Option<Duration>,
    /// Time after the start in which failures do not count [default: the image's, else 0s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HEALTH)]
    pub(crate) health_start_period: Option<Duration>,
    /// Time between two checks until one has passed [default: the image's, else 250ms at first, 5s at last]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = HEALTH)]
    pub(crate) health_start_interval: Option<Duration>,
    /// Failures in a row that make it unhealthy: it is ended then, and replaced as --restart says [default: the image's,
    /// else 3]
    #[arg(long, value_name = "N", help_heading = HEALTH)]
    pub(crate) health_retries: Option<u32>,
    /// When the image is pulled from its registry: missing (where it is not known), always or never
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = Pull::Missing)]
    pub(crate) pull: Pull,
    /// The image: NAME or NAME:TAG, with the registry to pull it from in front or without
    pub(crate) image: String,
    /// In place of the image's command
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub(crate) command: Vec<String>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pull {
    Missing,
    Always,
    Never,
}

impl RunArgs {
    /// The service asked for. `random` makes up its name where none is given.
    pub(crate) fn into_spec(self, random: u64) -> ServiceSpec {
        let health = self.health();
        let name = self.name.unwrap_or_else(|| made_up(&self.image, random));
        let restart = self.restart.unwrap_or(if self.detach && !self.rm {
            Restart::default()
        } else {
            Restart::Never
        });
        let tmpfs = self.tmpfs.into_iter().map(|target| Mount {
            source: MountSource::Tmpfs,
            target,
            read_only: false,
        });
        ServiceSpec {
            name,
            labels: self.label.into_iter().collect(),
            task: TaskSpec {
                image: self.image,
                entrypoint: self.entrypoint.map(|w| w.0),
                args: self.command,
                env: values::environment(self.env),
                user: self.user,
                working_dir: self.workdir,
                hostname: self.hostname,
                tty: self.tty,
                stdin: self.interactive,
                read_only: self.read_only,
                user_namespace: self.user_namespace,
                mounts: self.volume.into_iter().chain(tmpfs).collect(),
                resources: Resources {
                    memory: self.memory,
                    cpus: self.cpus,
                    pids: self.pids,
                    storage: self.storage_size,
                },
                constraints: self.constraint,
                network: match self.network.as_str() {
                    "none" => NetworkMode::None,
                    "host" => NetworkMode::Host,
                    name => NetworkMode::Cluster(name.into()),
                },
                stop_signal: self.stop_signal,
                stop_timeout_ms: self.stop_timeout.map(values::milliseconds),
                health,
            },
            replicas: self.replicas,
            ports: self.publish,
            restart: RestartPolicy::with(restart),
            auto_remove: self.rm,
        }
    }
}

impl RunArgs {
    fn health(&self) -> Option<HealthCheck> {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        let test = match (&self.health_cmd, &self.health_http, self.health_tcp) {
            _ if self.no_healthcheck => words(&["NONE"]),
            (Some(line), ..) => words(&["CMD-SHELL", line]),
            (_, Some(http), _) => http.0.clone(),
            (_, _, Some(port)) => words(&["TCP", &port.to_string()]),
            _ => Vec::new(),
        };
        let check = HealthCheck {
            test,
            interval_ms: self.health_interval.map(values::milliseconds),
            timeout_ms: self.health_timeout.map(values::milliseconds),
            start_period_ms: self.health_start_period.map(values::milliseconds),
            start_interval_ms: self.health_start_interval.map(values::milliseconds),
            retries: self.health_retries,
        };
        (check != HealthCheck::default()).then_some(check)
    }
}

/// The image's name, made a DNS label, and something random.
fn made_up(image: &str, random: u64) -> String {
    const LONGEST: usize = 40;
    let last = image.rsplit('/').next().unwrap_or_default();
    let base = last.split(':').next().unwrap_or_default();
    let mut name = String::new();
    for c in base.to_lowercase().chars().take(LONGEST) {
        let plain = c.is_ascii_lowercase() || c.is_ascii_digit();
        name.push(if plain { c } else { '-' });
    }
    let name = match name.trim_matches('-') {
        "" => "service",
        name => name,
    };
    let id = swarm_api::model::Id::from_u64(random).to_string();
    format!("{name}-{}", &id[id.len() - 6..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_name_is_a_dns_label_with_the_image_s_name_in_it() {
        for (image, start) in [
            ("whoami", "whoami-"),
            ("team/Web_App:1.2", "web-app-"),
            ("reg:5000/a/b", "b-"),
            ("...", "service-"),
            (&"x".repeat(200), "xxx"),
        ] {
            let name = made_up(image, 7);
            assert!(name.starts_with(start), "{name}");
            swarm_api::model::validate_name("service", &name).unwrap();
        }
        assert_ne!(made_up("a", 1), made_up("a", 2));
    }
}
