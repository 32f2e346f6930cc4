//! `exec`: a further process in a container.

use crate::{
    Global, ROOTLESS,
    args::{Arg, Args, unknown},
    console, create, foreground,
    process::Status,
    store,
};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxNamespaceType, Process, Spec,
};
use std::{fs, io::Read, path::PathBuf};
use swarm_runtime::{
    Error, Result,
    container::{self, ExecTarget, Options, Stdio, rootless},
};

#[derive(Debug, Default)]
struct Asked {
    process: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    detach: bool,
    tty: bool,
    cwd: Option<PathBuf>,
    env: Vec<String>,
    user: Option<String>,
    groups: Vec<u32>,
    caps: Vec<String>,
    no_new_privileges: bool,
    preserve_fds: u32,
    ignore_paused: bool,
    apparmor: Option<String>,
    label: Option<String>,
    id: String,
    program: Vec<String>,
}

fn parse(args: &mut Args) -> Result<Asked> {
    let mut asked = Asked::default();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Word(word) => {
                asked.id = word.to_string_lossy().into_owned();
                asked.program = args.rest();
                if asked.program.first().is_some_and(|word| word == "--") {
                    asked.program.remove(0);
                }
            }
            Arg::Option(name) => match name.as_str() {
                "process" | "p" => asked.process = Some(args.path(&name)?),
                "console-socket" => asked.console_socket = Some(args.path(&name)?),
                "pid-file" => asked.pid_file = Some(args.path(&name)?),
                "detach" | "d" => asked.detach = args.switch(&name)?,
                "tty" | "t" => asked.tty = args.switch(&name)?,
                "cwd" => asked.cwd = Some(args.path(&name)?),
                "env" | "e" => asked.env.push(args.text(&name)?),
                "user" | "u" => asked.user = Some(args.text(&name)?),
                "additional-gids" | "g" => asked.groups.push(args.number(&name)?),
                "cap" | "c" => asked.caps.push(args.text(&name)?),
                "no-new-privs" => asked.no_new_privileges = args.switch(&name)?,
                "preserve-fds" => asked.preserve_fds = args.number(&name)?,
                "ignore-paused" => asked.ignore_paused = args.switch(&name)?,
                "apparmor" => asked.apparmor = Some(args.text(&name)?),
                "process-label" => asked.label = Some(args.text(&name)?),
                "no-subreaper" => drop(args.switch(&name)?),
                other => unknown("exec", other)?,
            },
        }
    }
    if asked.id.is_empty() {
        return Err(Error::Invalid("`exec` needs a container's id".to_owned()));
    }
    Ok(asked)
}

/// `exec`. Returns the exit code, 0 if detached.
pub(crate) fn exec(global: &Global, args: &mut Args) -> Result<u8> {
    let asked = parse(args)?;
    let (place, record, spec) = global.store().read(&asked.id)?;
    match Status::of(&place, &record)? {
        Status::Stopped => {
            return Err(Error::Conflict(format!(
                "cannot exec in a stopped container: container not running: {}",
                asked.id
            )));
        }
        Status::Paused if !asked.ignore_paused => {
            return Err(Error::Conflict(format!(
                "cannot exec in a paused container ({}): resume it, or use --ignore-paused",
                asked.id
            )));
        }
        _ => {}
    }
    if !rootless::is_root() {
        // The namespace that `create` made for this user is the container's, or the one right above.
        let own = spec.linux().as_ref().is_some_and(|linux| {
            let mut list = linux.namespaces().iter().flatten();
            list.any(|namespace| {
                namespace.typ() == LinuxNamespaceType::User && namespace.path().is_none()
            })
        });
        rootless::join(ROOTLESS, record.pid, own, false)?;
    }
    let process = process(&asked, &spec)?;
    let terminal = process.terminal().unwrap_or(false);
    match (terminal, asked.detach, &asked.console_socket) {
        (true, true, None) => {
            return Err(Error::Invalid(
                "a detached process with a terminal needs --console-socket".to_owned(),
            ));
        }
        (false, _, Some(_)) => {
            return Err(Error::Invalid(
                "--console-socket is given, but the process has no terminal".to_owned(),
            ));
        }
        _ => {}
    }
    let socket = asked
        .console_socket
        .as_deref()
        .map(console::connect)
        .transpose()?;
    let stdio = if terminal {
        let size = process
            .console_size()
            .and_then(|size| create::window(size.height(), size.width()));
        Stdio::Terminal {
            size: size.or_else(foreground::size),
        }
    } else {
        Stdio::Inherit
    };
    let cgroup = record.cgroup()?;
    let target = ExecTarget {
        pid: record.pid,
        spec: &spec,
        cgroup: &cgroup,
    };
    let options = Options {
        preserve_fds: asked.preserve_fds,
        ..Options::default()
    };
    let signals = if asked.detach {
        None
    } else {
        Some(foreground::Signals::block()?)
    };
    let mut executed = container::exec_with(&target, &process, &stdio, &options)?;
    if let Some(socket) = &socket
        && let Some(terminal) = executed.terminal.take()
    {
        console::send(socket, &terminal)?;
    }
    if let Some(file) = &asked.pid_file {
        store::replace(file, executed.pid.to_string().as_bytes())?;
    }
    match signals {
        None => Ok(0),
        Some(signals) => foreground::wait(executed.pid, executed.terminal, signals),
    }
}

/// The process: as a file has it, or that of the container with what the command line says.
fn process(asked: &Asked, spec: &Spec) -> Result<Process> {
    if let Some(path) = &asked.process {
        let mut text = Vec::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().read_to_end(&mut text).map(drop)
        } else {
            fs::read(path).map(|read| text = read)
        };
        read.map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        return serde_json::from_slice(&text).map_err(|e| {
            Error::Invalid(format!("{} is no process of a spec: {e}", path.display()))
        });
    }
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| Error::Invalid("the spec has no `process`".to_owned()))?;
    if asked.program.is_empty() {
        return Err(Error::Invalid(
            "`exec` needs a program, or --process".to_owned(),
        ));
    }
    process.set_args(Some(asked.program.clone()));
    process.set_terminal(Some(asked.tty));
    process.set_console_size(None);
    if let Some(cwd) = &asked.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    for line in &asked.env {
        let name = line.split_once('=').map_or(line.as_str(), |(name, _)| name);
        env.retain(|old| old.split_once('=').is_none_or(|(old, _)| old != name));
        env.push(line.clone());
    }
    process.set_env(Some(env));
    if let Some(user) = &asked.user {
        let bad = || {
            Error::Invalid(format!(
                "the user `{user}` must be given as numbers, UID or UID:GID"
            ))
        };
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (user.as_str(), None),
        };
        process.user_mut().set_uid(uid.parse().map_err(|_| bad())?);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid.parse().map_err(|_| bad())?);
        }
    }
    if !asked.groups.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&asked.groups);
        process.user_mut().set_additional_gids(Some(groups));
    }
    if asked.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &asked.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &asked.label {
        process.set_selinux_label(Some(label.clone()));
    }
    if !asked.caps.is_empty() {
        let caps = process.capabilities().clone().unwrap_or_default();
        process.set_capabilities(Some(with_caps(caps, &asked.caps)?));
    }
    Ok(process)
}

/// Capabilities that are added to all sets but the inheritable one, which would not help the program.
fn with_caps(mut caps: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities> {
    let mut more = Capabilities::new();
    for name in names {
        let short = name.to_ascii_uppercase();
        let short = short.strip_prefix("CAP_").unwrap_or(&short);
        let cap: Capability = short
            .parse()
            .map_err(|_| Error::Invalid(format!("there is no capability `{name}`")))?;
        more.insert(cap);
    }
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(more.iter().copied());
        Some(set)
    };
    caps.set_bounding(with(caps.bounding()));
    caps.set_effective(with(caps.effective()));
    caps.set_permitted(with(caps.permitted()));
    Ok(caps)
}
