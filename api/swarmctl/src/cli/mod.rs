//! The command line: commands, flags, help. Only what is typed; nothing is done here.

mod run;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use run::{Pull, RunArgs};
pub(crate) use values::environment;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use swarm_api::model::{Availability, NodeRole, Timestamp, parse_duration};

/// Runs containers on a cluster of hosts, from any one of them.
#[derive(Debug, Parser)]
#[command(
    name = "swarmctl",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  swarmctl init                                    make a cluster of this host
  swarmctl token create --role manager             how other hosts join it
  swarmctl run -d --name web --replicas 3 -p 8080:80 whoami
  swarmctl ps                                      what runs, and where
  swarmctl --host local ps                         what runs on this host alone"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The agent to ask: unix:///PATH, http://HOST:PORT, or `local` for this host's own runtime [default:
    /// unix:///run/swarmd/cluster.sock, or that of this user's own agent]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SWARM_HOST",
        default_value_t = crate::context::default_agent(),
        hide_default_value = true
    )]
    pub(crate) host: String,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// Take what the node knows, without asking a quorum
    #[arg(long, global = true)]
    pub(crate) stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a cluster of this host
    #[command(after_help = "Example:\n  swarmctl init --advertise-addr 192.168.1.10")]
    Init {
        /// The IP address that other hosts reach this one at; chosen by the agent if not given
        #[arg(long, value_name = "IP")]
        advertise_addr: Option<IpAddr>,
    },
    /// Join the cluster of another host
    #[command(
        after_help = "Example, with a token from `swarmctl token create`:\n  swarmctl join --token TOKEN 192.168.1.10:7946"
    )]
    Join {
        /// A token of that cluster
        #[arg(long)]
        token: String,
        /// The IP address that other hosts reach this one at; chosen by the agent if not given
        #[arg(long, value_name = "IP")]
        advertise_addr: Option<IpAddr>,
        /// A host of the cluster: HOST:PORT, or HOST with the default port
        address: String,
    },
    /// Leave the cluster; this host's tasks run elsewhere
    Leave {
        /// Also where the cluster cannot be reached
        #[arg(long, short)]
        force: bool,
    },
    /// Show how the cluster is
    Status,
    /// Show the versions of client and agent
    Version,
    /// Tokens that let hosts join
    #[command(subcommand)]
    Token(TokenCommand),
    /// The cluster's hosts
    #[command(subcommand)]
    Node(NodeCommand),
    /// Run containers of an image: a service
    Run(Box<RunArgs>),
    /// List tasks
    #[command(
        after_help = "Examples:\n  swarmctl ps -a web\n  swarmctl ps --node host2\n  swarmctl -o json ps"
    )]
    Ps {
        /// Ended ones as well
        #[arg(short, long)]
        all: bool,
        /// On this node only
        #[arg(long)]
        node: Option<String>,
        /// Of this service only
        service: Option<String>,
    },
    /// Show everything about a service, task, node, network or image, as JSON
    Inspect {
        /// A name, an id, or the start of an id
        name: String,
    },
    /// Show what a task, or a service's tasks, have put out
    #[command(
        after_help = "Examples:\n  swarmctl logs -f --tail 10 web\n  swarmctl logs --since 5m web.1"
    )]
    Logs {
        /// Wait for more, until the tasks have ended
        #[arg(short, long)]
        follow: bool,
        /// The last so many lines only
        #[arg(long, short = 'n', value_name = "LINES")]
        tail: Option<u64>,
        /// From then on only: a time such as 2026-01-31T12:00:00Z, or 10m for ten minutes ago
        #[arg(long, value_parser = values::since, value_name = "TIME")]
        since: Option<Timestamp>,
        /// Put the time in front of each line
        #[arg(short, long)]
        timestamps: bool,
        /// A task or a service
        name: String,
    },
    /// Run a further process in a task's container
    #[command(after_help = "\
Examples:
  swarmctl exec web.1 ps
  swarmctl exec -it web.1 sh

The exit code is the process's; 127 where there is no such program, 126 where it cannot be executed.
With a terminal, ctrl-p ctrl-q leaves it running.")]
    Exec(ExecArgs),
    /// Copy files out of a task's container or into it, also where it has ended
    #[command(after_help = "\
Examples:
  swarmctl cp web.1:/etc/nginx.conf .              a file, under its own name
  swarmctl cp site/. web.1:/srv/www                what is in a folder, into one that is there
  swarmctl cp web.1:/var/log - | tar -t            as a tar archive; `- TASK:FOLDER` is the other way round

A folder that is copied to where nothing is gets that name; to where a folder is, it goes into it, or what is in it
does if the path ends with /. of its own. A folder is never replaced by a file, nor a file by a folder. Files belong
to root in the container, and to you here, unless -a says otherwise. A name here with a colon is written ./a:b.")]
    Cp {
        /// Keep owners by their numbers
        #[arg(short, long)]
        archive: bool,
        /// Copy what the source leads to if it is a symbolic link
        #[arg(short = 'L', long)]
        follow_link: bool,
        /// TASK:PATH, a path here, or - for a tar archive from standard input
        source: String,
        /// TASK:PATH, a path here, or - for a tar archive to standard output
        target: String,
    },
    /// Join a task's input and output
    #[command(after_help = "\
The end of the input here does not end the task's. With a terminal, ctrl-p ctrl-q detaches. Otherwise
ctrl-c is sent to the task; a second one kills it, a third one ends swarmctl.")]
    Attach {
        /// Show first what was put out before
        #[arg(long)]
        replay: bool,
        /// Do not pass the input on
        #[arg(long)]
        no_stdin: bool,
        /// The task
        task: String,
    },
    /// Stop services (they stay, scaled to 0) or tasks (which are not replaced)
    Stop {
        /// Time between the stop signal and SIGKILL, such as 30s; the task's own if not given
        #[arg(short, long, value_parser = parse_duration, value_name = "DURATION")]
        time: Option<Duration>,
        /// Services or tasks
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Send a signal to tasks
    Kill {
        /// Its name or number
        #[arg(short, long, default_value = "KILL", value_parser = crate::signals::parse)]
        signal: i32,
        /// Tasks
        #[arg(required = true)]
        tasks: Vec<String>,
    },
    /// Remove services with their tasks, or tasks
    Rm {
        /// Kill what runs
        #[arg(short, long)]
        force: bool,
        /// Services or tasks
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Wait for tasks to end and print their exit codes
    Wait {
        /// Tasks
        #[arg(required = true)]
        tasks: Vec<String>,
    },
    /// Show what tasks use, each second
    Stats {
        /// Once only
        #[arg(long)]
        no_stream: bool,
        /// Tasks; all that run if none is named
        tasks: Vec<String>,
    },
    /// Show what happens
    Events {
        /// All after this log index, as far as they are kept; from now on if not given
        #[arg(long, value_name = "INDEX")]
        since: Option<u64>,
    },
    /// Services: names and the tasks that run for them
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Make an image of what a task's container has changed in its own
    #[command(after_help = "\
Examples:
  swarmctl commit web.1 team/web:patched -m 'a hot fix'
  swarmctl commit shell.1 tools -c 'CMD [\"/bin/sh\"]' -c 'ENV LANG=C.UTF-8'

The configuration is that of its image with these changes; what the task itself was given (arguments, environment)
and what is in volumes is not in it.")]
    Commit(CommitArgs),
    /// Show what takes up the disks: images, containers, volumes
    Df {
        /// Each image, container and volume
        #[arg(short, long)]
        verbose: bool,
    },
    /// Networks that span the hosts
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Find the live tasks behind a service's, task's or node's name
    Lookup {
        /// The name
        name: String,
    },
    /// Print a completion script
    #[command(
        after_help = "Example:\n  swarmctl completion bash > /etc/bash_completion.d/swarmctl"
    )]
    Completion {
        /// For this shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass the input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// With a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// NAME=VALUE, after the container's; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// In place of the container's user
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// In place of the container's working directory
    #[arg(short, long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// The task
    pub(crate) task: String,
    /// Program and arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print the command that joins with it
    Create {
        /// What the hosts that join with it may be: manager (may vote) or worker
        #[arg(long, default_value = "worker", value_parser = values::role)]
        role: NodeRole,
        /// How long it is valid
        #[arg(long, default_value = "24h", value_parser = parse_duration, value_name = "DURATION")]
        ttl: Duration,
    },
    /// List the tokens that are valid
    Ls,
    /// Make tokens invalid
    Rm {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the hosts
    Ls,
    /// Show everything about hosts, as JSON
    Inspect {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change a host's availability or labels
    #[command(
        after_help = "Examples:\n  swarmctl node update --availability drain host2\n  swarmctl node update --label disk=ssd --label-rm old host3"
    )]
    Update {
        /// active, pause (no new tasks) or drain (tasks move away)
        #[arg(long, value_parser = values::availability)]
        availability: Option<Availability>,
        /// Set a label
        #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
        label: Vec<(String, String)>,
        /// Take a label away
        #[arg(long, value_name = "NAME")]
        label_rm: Vec<String>,
        /// The host's name or id
        name: String,
    },
    /// Remove hosts that are down from the cluster
    Rm {
        /// Also hosts that are not down
        #[arg(short, long)]
        force: bool,
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List services
    Ls,
    /// Show everything about services, as JSON
    Inspect {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change how many tasks services have
    #[command(after_help = "Example:\n  swarmctl service scale web=5 db=1")]
    Scale {
        /// The service and its number of tasks
        #[arg(required = true, value_name = "NAME=N", value_parser = values::scale)]
        scales: Vec<(String, u32)>,
    },
    /// Remove services with their tasks, also those that run
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image of a root file system: a tar archive, plain or gzip
    #[command(after_help = "\
Examples:
  swarmctl image import busybox busybox.tar
  docker export CONTAINER | swarmctl image import team/web:1.2 - --entrypoint /bin/web --expose 80/tcp")]
    Import(ImportArgs),
    /// Get images from their registries, on the agent's node; all nodes can run them then
    #[command(after_help = "\
Examples:
  swarmctl image pull docker.io/library/nginx:1.27
  swarmctl image pull localhost:5000/team/web@sha256:DIGEST

Credentials are those of Docker's file on the agent's node (`docker login`, `skopeo login`).")]
    Pull {
        /// Onto every node that is ready, so that tasks start at once wherever they come to run
        #[arg(long)]
        all_nodes: bool,
        /// REGISTRY/NAME, REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Take images in from an archive of `docker save`, `skopeo copy`, `image save`, or an OCI image layout as tar
    #[command(after_help = "Example:\n  docker save nginx:1.27 | swarmctl image load")]
    Load {
        /// Call its only image so
        #[arg(long)]
        name: Option<String>,
        /// The archive, plain or compressed; - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Write images to an archive that `docker load`, `skopeo` and `image load` read (an OCI image layout)
    #[command(after_help = "Example:\n  swarmctl image save -f web.tar team/web:1.2")]
    Save {
        /// Where to write it; - is standard output
        #[arg(short, long, default_value = "-")]
        file: PathBuf,
        /// NAME or NAME:TAG
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Put an image into its registry, or under another name into that one's
    #[command(after_help = "\
Examples:
  swarmctl image push registry.example/team/web:1.2
  swarmctl image push web registry.example/team/web:1.2

Credentials are those of Docker's file on the agent's node (`docker login`, `skopeo login`). What the registry has already
is not sent.")]
    Push {
        /// NAME or NAME:TAG
        name: String,
        /// REGISTRY/NAME or REGISTRY/NAME:TAG; the image's own name if not given
        #[arg(value_name = "AS")]
        to: Option<String>,
    },
    /// Give an image a further name
    #[command(after_help = "Example:\n  swarmctl image tag web registry.example/team/web:1.2")]
    Tag {
        /// NAME or NAME:TAG
        name: String,
        /// The further one
        #[arg(value_name = "NEW")]
        to: String,
    },
    /// Show the steps in which an image was made, newest first
    History {
        /// Cut nothing off
        #[arg(long)]
        no_trunc: bool,
        /// NAME or NAME:TAG
        name: String,
    },
    /// Remove all images that no service and no task uses
    Prune {
        /// Do so; without it, say which those are
        #[arg(short, long)]
        force: bool,
    },
    /// List images
    Ls,
    /// Show everything about images, as JSON
    Inspect {
        /// NAME or NAME:TAG
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove images that no task uses
    Rm {
        /// NAME or NAME:TAG
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// A line of a Dockerfile that changes the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, STOPSIGNAL,
    /// USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// What the history says of it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) message: String,
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(crate) author: String,
    /// Let the container go on meanwhile; its files may then be of different moments
    #[arg(long)]
    pub(crate) no_pause: bool,
    /// The task
    pub(crate) task: String,
    /// The image's name: NAME or NAME:TAG
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Program and arguments that always come first: words, or a JSON array
    #[arg(long, value_parser = values::words)]
    pub(crate) entrypoint: Option<values::Words>,
    /// Arguments where the user gives none: words, or a JSON array
    #[arg(long, value_parser = values::words)]
    pub(crate) cmd: Option<values::Words>,
    /// NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "PATH", default_value = "")]
    pub(crate) workdir: String,
    /// user, uid, user:group or uid:gid
    #[arg(short, long, default_value = "")]
    pub(crate) user: String,
    /// A port that it listens on, such as 80/tcp
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    /// The signal that stops it
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// The image's name: NAME or NAME:TAG
    pub(crate) name: String,
    /// The archive; - is standard input
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// List networks
    Ls,
    /// Show everything about networks, as JSON
    Inspect {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make a network
    Create {
        /// Its IPv4 subnet, such as 10.50.0.0/16; chosen if not given
        #[arg(long, value_name = "CIDR")]
        subnet: Option<String>,
        /// Its name
        name: String,
    },
    /// Remove networks that no service uses
    Rm {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}
