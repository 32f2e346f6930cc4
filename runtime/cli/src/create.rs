//! `create`, `start` and `run`: a container from its bundle.

use crate::{
    Global, ROOTLESS, absolute,
    args::{Arg, Args, Id, unknown},
    console, control, foreground, is_users,
    process::{Stat, Status},
    store::{self, Place, Record},
};
use oci_spec::runtime::Spec;
use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};
use swarm_runtime::{
    Error, Result,
    container::{
        self, Cgroup, Created, Manager, Options, Rootfs, Setup, Stdio, Unit, WindowSize, rootless,
    },
};

#[derive(Debug, Default)]
struct Asked {
    id: String,
    bundle: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    preserve_fds: u32,
    no_new_keyring: bool,
    detach: bool,
    keep: bool,
    /// It is `run`.
    at_once: bool,
}

fn parse(command: &str, args: &mut Args) -> Result<Asked> {
    let mut asked = Asked::default();
    let mut id = Id::default();
    let run = command == "run";
    asked.at_once = run;
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Word(word) => id.take(&word)?,
            Arg::Option(name) => match name.as_str() {
                "bundle" | "b" => asked.bundle = Some(args.path(&name)?),
                "console-socket" => asked.console_socket = Some(args.path(&name)?),
                "pid-file" => asked.pid_file = Some(args.path(&name)?),
                "preserve-fds" => asked.preserve_fds = args.number(&name)?,
                "no-new-keyring" => asked.no_new_keyring = args.switch(&name)?,
                "detach" | "d" if run => asked.detach = args.switch(&name)?,
                "keep" if run => asked.keep = args.switch(&name)?,
                "no-subreaper" if run => drop(args.switch(&name)?),
                "no-pivot" => {
                    if args.switch(&name)? {
                        return Err(Error::Unsupported(
                            "--no-pivot is not supported: the container could leave its root; use a root that is not the initial \
                             ram file system"
                                .to_owned(),
                        ));
                    }
                }
                other => unknown(command, other)?,
            },
        }
    }
    asked.id = id.get(command)?;
    Ok(asked)
}

/// `create`: everything up to the program, which waits for `start`.
pub(crate) fn create(global: &Global, args: &mut Args) -> Result<()> {
    let asked = parse("create", args)?;
    let bundle = Bundle::read(&asked)?;
    if bundle.terminal() && asked.console_socket.is_none() {
        return Err(Error::Invalid(
            "the spec asks for a terminal: `create` needs --console-socket for it".to_owned(),
        ));
    }
    let (place, unit) = prepare(global, &asked, &bundle)?;
    let made = place
        .gate()
        .and_then(|gate| container::gate(&gate))
        .and_then(|gate| make(&asked, bundle, &place, unit, Some(gate)));
    undo_unless(made, &place).map(drop)
}

/// `start`.
pub(crate) fn start(global: &Global, args: &mut Args) -> Result<()> {
    let id = control::only_id("start", args)?;
    let (place, record, spec) = global.store().read(&id)?;
    match Status::of(&place, &record)? {
        Status::Created => {}
        Status::Stopped => {
            return Err(Error::Conflict(format!(
                "cannot start a container that has stopped: {id}"
            )));
        }
        Status::Running | Status::Paused => {
            return Err(Error::Conflict(format!(
                "cannot start an already running container: {id}"
            )));
        }
    }
    let gate = place.gate()?;
    let started = container::start_at(&gate, &spec, &id, &record.bundle, record.pid);
    // With the socket the status `created` goes.
    let _ = fs::remove_file(&gate);
    started
}

/// `run`: create and start, and (unless detached) wait and delete. Returns the exit code.
pub(crate) fn run(global: &Global, args: &mut Args) -> Result<u8> {
    let asked = parse("run", args)?;
    let bundle = Bundle::read(&asked)?;
    let terminal = bundle.terminal();
    if asked.detach && terminal && asked.console_socket.is_none() {
        return Err(Error::Invalid(
            "the spec asks for a terminal: a detached `run` needs --console-socket for it"
                .to_owned(),
        ));
    }
    if !asked.detach && asked.console_socket.is_some() {
        return Err(Error::Invalid(
            "--console-socket is for `create` and for a detached `run`".to_owned(),
        ));
    }
    let (place, unit) = prepare(global, &asked, &bundle)?;
    // Signals that come from now on wait for the container.
    let signals = if asked.detach {
        None
    } else {
        Some(foreground::Signals::block()?)
    };
    let made = make(&asked, bundle, &place, unit, None);
    let mut made = undo_unless(made, &place)?;
    if let Err(error) = made.created.start() {
        undo(&made.created, &place);
        return Err(error);
    }
    let Some(signals) = signals else {
        return Ok(0);
    };
    let code = foreground::wait(made.created.pid(), made.terminal.take(), signals);
    if !asked.keep {
        let setup = &made.setup;
        control::clear(
            &place,
            made.created.cgroup(),
            &setup.spec,
            &setup.id,
            &setup.bundle,
            false,
        )?;
    }
    // This process ends now: to take it apart piece by piece would be for nothing.
    std::mem::forget(made);
    code
}

/// A container that was made, and of what.
#[derive(Debug)]
struct Made {
    created: Created,
    terminal: Option<OwnedFd>,
    setup: Setup,
}

/// The bundle's directory and spec.
#[derive(Debug)]
struct Bundle {
    directory: PathBuf,
    text: Vec<u8>,
    spec: Spec,
}

impl Bundle {
    fn read(asked: &Asked) -> Result<Self> {
        let directory = absolute(asked.bundle.clone().unwrap_or_else(|| PathBuf::from(".")))?;
        let path = directory.join("config.json");
        let text = fs::read(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        let wrong = |e: &dyn std::fmt::Display| {
            Error::Invalid(format!("{} is no runtime spec: {e}", path.display()))
        };
        // Checked as a whole, it need not be string by string.
        let words = std::str::from_utf8(&text).map_err(|e| wrong(&e))?;
        let mut spec = serde_json::from_str(words).map_err(|e| wrong(&e))?;
        if rootless::entered_as(ROOTLESS) {
            rootless::translate(&mut spec)?;
        }
        Ok(Self {
            directory,
            text,
            spec,
        })
    }

    fn terminal(&self) -> bool {
        self.spec
            .process()
            .as_ref()
            .and_then(oci_spec::runtime::Process::terminal)
            .unwrap_or(false)
    }

    fn size(&self) -> Option<WindowSize> {
        let size = self.spec.process().as_ref()?.console_size()?;
        window(size.height(), size.width())
    }
}

/// A terminal's size, unless it is that of none.
pub(crate) fn window(height: u64, width: u64) -> Option<WindowSize> {
    let size = WindowSize {
        rows: u16::try_from(height).ok()?,
        columns: u16::try_from(width).ok()?,
    };
    (size.rows > 0 && size.columns > 0).then_some(size)
}

/// The container's cgroup, as its spec names it.
pub(crate) fn cgroup_path(id: &str, spec: &Spec) -> PathBuf {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().clone())
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("/swarm").join(id))
}

fn prepare(global: &Global, asked: &Asked, bundle: &Bundle) -> Result<(Place, Option<Unit>)> {
    let unit = unit(global, &asked.id, &bundle.spec)?;
    Ok((global.store().add(&asked.id)?, unit))
}

/// The unit of systemd that is the container's cgroup, where that is asked for.
fn unit(global: &Global, id: &str, spec: &Spec) -> Result<Option<Unit>> {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().clone())
        .unwrap_or_default();
    if global.systemd_cgroup {
        let manager = if is_users() {
            Manager::User
        } else {
            Manager::System
        };
        return Unit::parse(&path, id, manager).map(Some);
    }
    if path.to_string_lossy().matches(':').count() == 2 {
        return Err(Error::Invalid(format!(
            "cgroupsPath `{}` is one for the systemd driver: it needs --systemd-cgroup before the command; the cgroupfs driver takes a \
             path",
            path.display()
        )));
    }
    Ok(None)
}

/// Makes the container and writes down what is known of it. Nothing of it is left if that fails, but for its place.
fn make(
    asked: &Asked,
    bundle: Bundle,
    place: &Place,
    unit: Option<Unit>,
    gate: Option<OwnedFd>,
) -> Result<Made> {
    let root = bundle
        .spec
        .root()
        .as_ref()
        .map(|root| bundle.directory.join(root.path()))
        .ok_or_else(|| Error::Invalid("the spec has no `root`".to_owned()))?;
    let socket = asked
        .console_socket
        .as_deref()
        .map(console::connect)
        .transpose()?;
    let stdio = if bundle.terminal() {
        Stdio::Terminal {
            size: bundle.size().or_else(foreground::size),
        }
    } else {
        Stdio::Inherit
    };
    let mut spec = bundle.spec;
    if unit.is_none()
        && rootless::entered_as(ROOTLESS)
        && let Some(base) = container::delegated()?
    {
        let path = cgroup_path(&asked.id, &spec);
        let path = base.join(path.strip_prefix("/").unwrap_or(&path));
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(path));
        }
    }
    let setup = Setup {
        id: asked.id.clone(),
        spec,
        bundle: bundle.directory,
        rootfs: Rootfs::Path(root.clone()),
        stdio,
    };
    let options = Options {
        gate,
        preserve_fds: asked.preserve_fds,
        session_keyring: !asked.no_new_keyring,
        at_once: asked.at_once,
        unit,
    };
    // Written while the container's process makes its mounts.
    let born = |pid: i32, cgroup: &Cgroup| {
        let record = Record {
            id: asked.id.clone(),
            pid,
            begun: Stat::read(pid).map_or(0, |stat| stat.begun),
            bundle: setup.bundle.clone(),
            rootfs: root,
            cgroup: cgroup.path().to_owned(),
            unit: options.unit.clone(),
            created: jiff::Timestamp::now().to_string(),
        };
        place.write(&record, &bundle.text)
    };
    let mut created = container::create_with(&setup, &options, born)?;
    let mut terminal = created.take_terminal();
    let told = (|| {
        if let (Some(socket), Some(terminal)) = (&socket, terminal.take_if(|_| socket.is_some())) {
            console::send(socket, &terminal)?;
        }
        match &asked.pid_file {
            Some(file) => store::replace(file, created.pid().to_string().as_bytes()),
            None => Ok(()),
        }
    })();
    match told {
        Ok(()) => Ok(Made {
            created,
            terminal,
            setup,
        }),
        Err(error) => {
            kill(&created);
            Err(error)
        }
    }
}

fn undo_unless<T>(made: Result<T>, place: &Place) -> Result<T> {
    if made.is_err() {
        let _ = place.remove();
    }
    made
}

fn undo(created: &Created, place: &Place) {
    kill(created);
    let _ = place.remove();
}

/// Ends a container of this very command.
fn kill(created: &Created) {
    let _ = rustix::process::pidfd_send_signal(created.pidfd(), rustix::process::Signal::KILL);
    let _ = created.cgroup().signal_all(libc::SIGKILL);
    foreground::reap(created.pid());
    let _ = created.cgroup().remove();
}
