//! The OCI command line of the runtime: what containerd, podman and Docker drive. One thread, no asynchronous runtime; every command
//! is short and leaves its knowledge in a file below `--root`. Must not know of clusters, tasks or images.

#![cfg_attr(not(test), no_main)]

mod args;
mod cgroups;
mod console;
mod control;
mod create;
#[cfg(not(test))]
mod entry;
mod exec;
mod features;
mod foreground;
mod process;
mod report;
mod spec;
mod stats;
mod store;
mod update;

use args::{Arg, Args, unknown};
use report::Log;
use std::path::PathBuf;
use store::Store;
use swarm_runtime::{Error, Result, container::rootless};

/// Where the state of containers is kept if nothing else is said.
const ROOT: &str = "/run/swarm-oci";

/// What this program is called in the user namespace that it makes for an ordinary user.
pub(crate) const ROOTLESS: &str = "swarm-oci-rootless";

const USAGE: &str = "\
The OCI command line of the runtime.

usage: swarm-oci [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] COMMAND …

  create  [--bundle DIR] [--console-socket SOCKET] [--pid-file FILE] [--preserve-fds N] [--no-new-keyring] ID
  start   ID
  run     as create; [--detach] [--keep] ID
  exec    [--process FILE] [--console-socket SOCKET] [--pid-file FILE] [--detach] [--tty] [--cwd DIR] [--env NAME=VALUE]
          [--user UID[:GID]] [--additional-gids GID] [--cap CAP] [--no-new-privs] [--preserve-fds N] [--ignore-paused] ID [PROGRAM …]
  state   ID
  list    [--format table|json] [--quiet]
  kill    [--all] ID [SIGNAL]
  delete  [--force] ID
  ps      [--format table|json] ID
  pause   ID
  resume  ID
  update  [--resources FILE|-] [--memory BYTES] [--memory-reservation BYTES] [--memory-swap BYTES] [--cpu-period MICROSECONDS]
          [--cpu-quota MICROSECONDS] [--cpu-share N] [--cpuset-cpus LIST] [--cpuset-mems LIST] [--pids-limit N] [--blkio-weight N] ID
  events  [--stats] [--interval DURATION] ID
  spec    [--bundle DIR] [--rootless] [--system]
  features

State is kept in /run/swarm-oci (of an ordinary user: in $XDG_RUNTIME_DIR/swarm-oci), or where --root says. An ordinary user's
containers are in a user namespace with the subordinate ids that /etc/subuid and /etc/subgid give to that user.

With --systemd-cgroup the spec's cgroupsPath is SLICE:PREFIX:NAME, and systemd makes the scope PREFIX-NAME.scope in that slice.
";

/// What stands before the command.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) root: PathBuf,
    pub(crate) systemd_cgroup: bool,
}

impl Global {
    pub(crate) fn store(&self) -> Store {
        Store::new(&self.root)
    }
}

/// Does what the command line says; returns the exit code.
#[cfg_attr(test, allow(dead_code))]
fn start() -> u8 {
    let mut args = Args::new(std::env::args_os().skip(1));
    let mut log = Log::default();
    match run(&mut args, &mut log) {
        Ok(code) => code,
        Err(Failure(error, code)) => {
            log.error(&error);
            code
        }
    }
}

/// An error with the exit code that tells of it.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Error, pub(crate) u8);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error, 1)
    }
}

fn run(args: &mut Args, log: &mut Log) -> Result<u8, Failure> {
    let mut root = None;
    let mut systemd_cgroup = false;
    let command = loop {
        match args.next()? {
            Some(Arg::Word(word)) => break word.to_string_lossy().into_owned(),
            Some(Arg::Option(name)) => match name.as_str() {
                "root" => root = Some(absolute(args.path("root")?)?),
                "log" => log.file = Some(args.path("log")?),
                "log-format" => log.set_format(&args.text("log-format")?)?,
                "systemd-cgroup" => systemd_cgroup = args.switch("systemd-cgroup")?,
                // This runtime finds out by itself.
                "rootless" => drop(args.value("rootless")?),
                "criu" => drop(args.value("criu")?),
                "debug" => drop(args.switch("debug")?),
                "help" | "h" => return say(USAGE),
                "version" | "v" => return say(&version()),
                other => unknown("swarm-oci", other)?,
            },
            None => return say(USAGE),
        }
    };
    let global = Global {
        root: match root {
            Some(root) => root,
            None => default_root()?,
        },
        systemd_cgroup,
    };
    if ["create", "run"].contains(&command.as_str()) && !rootless::is_root() {
        rootless::enter(ROOTLESS)?;
    }
    match command.as_str() {
        "create" => create::create(&global, args)?,
        "run" => return Ok(create::run(&global, args)?),
        "start" => create::start(&global, args)?,
        "exec" => return exec::exec(&global, args).map_err(|error| Failure(error, 255)),
        "state" => control::state(&global, args)?,
        "list" => control::list(&global, args)?,
        "kill" => control::kill(&global, args)?,
        "delete" => control::delete(&global, args)?,
        "ps" => control::ps(&global, args)?,
        "pause" => control::pause(&global, args, true)?,
        "resume" => control::pause(&global, args, false)?,
        "update" => update::update(&global, args)?,
        "events" => cgroups::events(&global, args)?,
        "spec" => spec::write(args)?,
        "features" => features::print(args)?,
        "help" => return say(USAGE),
        other => {
            return Err(Error::Invalid(format!(
                "there is no command `{other}`; `swarm-oci --help` lists them"
            ))
            .into());
        }
    }
    Ok(0)
}

/// Whether this is done for an ordinary user: also by an engine that has made a user namespace for its user (podman leaves `USER` out).
pub(crate) fn is_users() -> bool {
    let engine = || {
        rootless::in_user_namespace()
            && std::env::var_os("XDG_RUNTIME_DIR").is_some()
            && std::env::var_os("USER").is_none_or(|user| user != "root")
    };
    !rootless::is_root() || rootless::entered_as(ROOTLESS) || engine()
}

/// Where state is kept if nothing is said.
fn default_root() -> Result<PathBuf> {
    if !is_users() {
        return Ok(ROOT.into());
    }
    rootless::runtime_dir()
        .map(|folder| folder.join("swarm-oci"))
        .ok_or_else(|| {
            Error::Invalid(
                "there is no folder for the state of this user's containers: set XDG_RUNTIME_DIR, or give one with --root"
                    .to_owned(),
            )
        })
}

fn version() -> String {
    format!(
        "swarm-oci version {}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        features::NEWEST
    )
}

fn say(text: &str) -> Result<u8, Failure> {
    report::print(text)?;
    Ok(0)
}

/// A path that stays true when the working directory changes.
pub(crate) fn absolute(path: PathBuf) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(path);
    }
    std::env::current_dir()
        .map(|here| here.join(path).components().collect())
        .map_err(|e| Error::io("find the working directory", e))
}
