//! The commands for a container that is there: `state`, `list`, `kill`, `delete`, `ps`, `pause`, `resume`.

use crate::{
    Global,
    args::{Arg, Args, Id, unknown},
    process::{self, Stat, Status},
    report,
    store::{Place, Record},
};
use nix::sys::signal::Signal;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::json;
use std::{fmt::Write, fs, path::Path, str::FromStr};
use swarm_runtime::{
    Error, Result,
    container::{self, Cgroup},
};

/// How long a killed container may take to end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// The id, for commands without options.
pub(crate) fn only_id(command: &str, args: &mut Args) -> Result<String> {
    let mut id = Id::default();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Word(word) => id.take(&word)?,
            Arg::Option(name) => unknown(command, &name)?,
        }
    }
    id.get(command)
}

/// `state`: the state as the specification has it, and what runc adds.
pub(crate) fn state(global: &Global, args: &mut Args) -> Result<()> {
    let id = only_id("state", args)?;
    let (place, record, spec) = global.store().read(&id)?;
    let state = describe(&place, &record, &spec)?;
    report::print(&format!("{state:#}\n"))
}

fn describe(place: &Place, record: &Record, spec: &Spec) -> Result<serde_json::Value> {
    let status = Status::of(place, record)?;
    Ok(json!({
        "ociVersion": spec.version(),
        "id": record.id,
        "status": status.word(),
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": spec.annotations().clone().unwrap_or_default(),
        "owner": "",
    }))
}

/// `list`.
pub(crate) fn list(global: &Global, args: &mut Args) -> Result<()> {
    let (mut as_json, mut quiet) = (false, false);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Option(name) if name == "format" || name == "f" => as_json = format(args, &name)?,
            Arg::Option(name) if name == "quiet" || name == "q" => quiet = args.switch(&name)?,
            Arg::Option(name) => unknown("list", &name)?,
            Arg::Word(word) => Id::default().take(&word)?,
        }
    }
    let store = global.store();
    let mut all = Vec::new();
    for id in store.ids()? {
        // One that goes in this moment is not listed.
        if let Ok((place, record, spec)) = store.read(&id) {
            all.push(describe(&place, &record, &spec)?);
        }
    }
    let word = |state: &serde_json::Value, name: &str| match &state[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = String::new();
    if as_json {
        let _ = writeln!(text, "{}", json!(all));
    } else if quiet {
        all.iter().for_each(|state| {
            let _ = writeln!(text, "{}", word(state, "id"));
        });
    } else {
        let names = ["id", "pid", "status", "bundle", "created"];
        let _ = writeln!(
            text,
            "{:<24} {:<10} {:<10} {:<40} CREATED",
            "ID", "PID", "STATUS", "BUNDLE"
        );
        for state in &all {
            let [id, pid, status, bundle, created] = names.map(|name| word(state, name));
            let _ = writeln!(
                text,
                "{id:<24} {pid:<10} {status:<10} {bundle:<40} {created}"
            );
        }
    }
    report::print(&text)
}

fn format(args: &mut Args, name: &str) -> Result<bool> {
    match args.text(name)?.as_str() {
        "json" => Ok(true),
        "table" => Ok(false),
        other => Err(Error::Invalid(format!(
            "the format is either table or json, not `{other}`"
        ))),
    }
}

/// `kill`.
pub(crate) fn kill(global: &Global, args: &mut Args) -> Result<()> {
    let mut id = Id::default();
    let (mut all, mut signal) = (false, None);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Word(word) if id.is_there() && signal.is_none() => {
                signal = Some(word.to_string_lossy().into_owned());
            }
            Arg::Word(word) => id.take(&word)?,
            Arg::Option(name) if name == "all" || name == "a" => all = args.switch(&name)?,
            Arg::Option(name) => unknown("kill", &name)?,
        }
    }
    let id = id.get("kill")?;
    let signal = number(signal.as_deref().unwrap_or("TERM"))?;
    let (place, record, spec) = global.store().read(&id)?;
    let own_pids = spec
        .linux()
        .iter()
        .filter_map(|linux| linux.namespaces().as_ref())
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none());
    // Without a pid namespace of its own the others do not end with the first.
    if record.cgroup.as_os_str().is_empty() && all {
        for pid in process::pids(&record)? {
            let pidfd =
                Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            if let Some(pidfd) = pidfd {
                send(&pidfd, signal)
                    .map_err(|e| Error::io(format!("send signal {signal} to process {pid}"), e))?;
            }
        }
        return Ok(());
    }
    let cgroup = !record.cgroup.as_os_str().is_empty();
    if cgroup && (all || (signal == libc::SIGKILL && !own_pids)) {
        return record.cgroup()?.signal_all(signal);
    }
    let gone = || Error::Conflict(format!("container not running: {id}"));
    if Status::of(&place, &record)? == Status::Stopped {
        return Err(gone());
    }
    let pid = Pid::from_raw(record.pid).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    // Now the number cannot come to another one any more.
    if Stat::read(record.pid).is_none_or(|stat| stat.begun != record.begun) {
        return Err(gone());
    }
    send(&pidfd, signal).map_err(|e| match e.raw_os_error() {
        Some(libc::ESRCH) => gone(),
        _ => Error::io(format!("send signal {signal} to the container {id}"), e),
    })
}

/// The signals that have no name go too, the real-time ones.
#[allow(unsafe_code)]
fn send(pidfd: &std::os::fd::OwnedFd, signal: i32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: a descriptor and integers; no siginfo is given.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    if sent < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// A signal by its number, or its name with or without `SIG`.
fn number(name: &str) -> Result<i32> {
    let unknown = || Error::Invalid(format!("there is no signal `{name}`"));
    if let Ok(number) = name.parse::<i32>() {
        return if (0..=64).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(rest) = full.strip_prefix("SIGRTMIN") {
        let more: i32 = if rest.is_empty() {
            Ok(0)
        } else {
            rest.trim_start_matches('+').parse()
        }
        .map_err(|_| unknown())?;
        return Ok(libc::SIGRTMIN() + more);
    }
    Signal::from_str(&full)
        .map(|signal| signal as i32)
        .map_err(|_| unknown())
}

/// `delete`.
pub(crate) fn delete(global: &Global, args: &mut Args) -> Result<()> {
    let mut id = Id::default();
    let mut force = false;
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Word(word) => id.take(&word)?,
            Arg::Option(name) if name == "force" || name == "f" => force = args.switch(&name)?,
            Arg::Option(name) => unknown("delete", &name)?,
        }
    }
    let id = id.get("delete")?;
    let store = global.store();
    let (place, record, spec) = match store.read(&id) {
        Ok(found) => found,
        // What is left of one that was never finished, or nothing.
        Err(_) if force => return store.place(&id)?.remove(),
        Err(error) => return Err(error),
    };
    let status = Status::of(&place, &record)?;
    let runs = matches!(status, Status::Running | Status::Paused);
    if runs && !force {
        return Err(Error::Conflict(format!(
            "cannot delete container {id} that is not stopped: {}",
            status.word()
        )));
    }
    let cgroup = record.cgroup()?;
    if status != Status::Stopped {
        end(&record, &cgroup)?;
    }
    clear(&place, &cgroup, &spec, &id, &record.bundle, true)
}

/// Kills a container's first process and waits until it has ended, whoever its parent is.
fn end(record: &Record, cgroup: &Cgroup) -> Result<()> {
    let pidfd = Pid::from_raw(record.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    if let Some(Ok(pidfd)) = pidfd
        && Stat::read(record.pid).is_some_and(|stat| stat.begun == record.begun)
    {
        let _ = send(&pidfd, libc::SIGKILL);
        if cgroup.is_frozen().unwrap_or(false) {
            let _ = cgroup.thaw();
        }
        // It is not gone before the parents of all others in its pid namespace have collected them, which may never be.
        let ended = rustix::io::retry_on_intr(|| {
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&PATIENCE))
        })
        .map_err(|e| Error::io("wait for the container's process", e))?;
        if ended == 0 {
            return Err(Error::Conflict(format!(
                "container {} was killed, but does not end within {} s: a process in it is not collected by its parent",
                record.id, PATIENCE.tv_sec
            )));
        }
    }
    Ok(())
}

/// Removes what is left of a container whose first process has ended. `open`: somebody else may have made it.
pub(crate) fn clear(
    place: &Place,
    cgroup: &Cgroup,
    spec: &Spec,
    id: &str,
    bundle: &Path,
    force: bool,
) -> Result<()> {
    // Usually nothing is in it any more: then this is all.
    if force || cgroup.remove_now().is_err() {
        cgroup.signal_all(libc::SIGKILL)?;
        cgroup.remove()?;
    }
    place.remove()?;
    container::poststop(spec, id, bundle)
}

/// `ps`.
pub(crate) fn ps(global: &Global, args: &mut Args) -> Result<()> {
    let mut id = Id::default();
    let mut as_json = false;
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Option(name) if name == "format" || name == "f" => as_json = format(args, &name)?,
            Arg::Option(name) => unknown("ps", &name)?,
            // What follows are options for ps(1), which is not asked here.
            Arg::Word(_) if id.is_there() => drop(args.rest()),
            Arg::Word(word) => id.take(&word)?,
        }
    }
    let (_, record, _) = global.store().read(&id.get("ps")?)?;
    let pids = process::pids(&record)?;
    if as_json {
        return report::print(&format!("{}\n", json!(pids)));
    }
    let mut text = format!("{:<8} {:>8} {:>8} CMD\n", "UID", "PID", "PPID");
    for pid in pids {
        let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = String::from_utf8_lossy(&file("status")).into_owned();
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next())
            .unwrap_or("?");
        let parent = Stat::read(pid).map_or(0, |stat| stat.parent);
        let mut line = String::from_utf8_lossy(&file("cmdline")).replace('\0', " ");
        if line.is_empty() {
            line = format!("[{}]", String::from_utf8_lossy(&file("comm")).trim());
        }
        let _ = writeln!(text, "{uid:<8} {pid:>8} {parent:>8} {}", line.trim_end());
    }
    report::print(&text)
}

/// `pause` and `resume`.
pub(crate) fn pause(global: &Global, args: &mut Args, pause: bool) -> Result<()> {
    let id = only_id(if pause { "pause" } else { "resume" }, args)?;
    let (place, record, _) = global.store().read(&id)?;
    let status = Status::of(&place, &record)?;
    let wrong = |what: &str| {
        Err(Error::Conflict(format!(
            "container {id} cannot be {what}: it is {}",
            status.word()
        )))
    };
    let cgroup = record.cgroup()?;
    match (pause, status) {
        (true, Status::Running | Status::Created) => cgroup.freeze(),
        (true, _) => wrong("paused"),
        (false, Status::Paused) => cgroup.thaw(),
        (false, _) => wrong("resumed"),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_signal_is_known_by_number_and_by_name() {
        assert_eq!(number("9").unwrap(), 9);
        assert_eq!(number("KILL").unwrap(), 9);
        assert_eq!(number("sigterm").unwrap(), 15);
        assert_eq!(number("SIGRTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert!(number("SIGNOTHING").is_err());
        assert!(number("65").is_err());
    }
}
