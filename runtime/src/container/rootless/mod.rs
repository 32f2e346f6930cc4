//! An ordinary user's stand-in for root: a user namespace in which the user is root and its subordinate ids are all others, with a mount
//! namespace of its own. A process enters it and executes itself anew there (so that the kernel counts its memory to that namespace);
//! everything else of this runtime then works as root's does, but for what the kernel keeps for the host's root. Must not know
//! of containers.

mod ids;

use super::{
    channel::{self, Word},
    mounts, spawn, sys,
};
use crate::{Error, Result};
use oci_spec::runtime::Spec;
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, PidfdFlags, getegid, geteuid, pidfd_open},
};
use std::{
    convert::Infallible,
    ffi::{CString, OsStr},
    fs,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The program that runs.
const OWN: &str = "/proc/self/exe";
const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

/// Whether this process is root, of the host or of a user namespace.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether this process is in a user namespace other than the host's: it has no rights over what belongs to the host.
#[must_use]
pub fn in_user_namespace() -> bool {
    static INSIDE: OnceLock<bool> = OnceLock::new();
    *INSIDE.get_or_init(|| {
        // In one piece, for every container begins with it: what is no single line of the whole range is longer or other.
        let mut text = [0; 256];
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let length = open("/proc/self/uid_map", flags, Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut text))
            .unwrap_or(0);
        let map = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
        match ids::rows(&map).as_slice() {
            [] => false,
            [row] => (row.inside, row.outside, row.count) != (0, 0, u32::MAX),
            _ => true,
        }
    })
}

/// Whether the user namespace has no ids but root's: owners cannot be told apart in it.
#[must_use]
pub fn has_one_id() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| {
        let one = |file| {
            let map = fs::read_to_string(file).unwrap_or_default();
            ids::rows(&map)
                .iter()
                .map(|row| u64::from(row.count))
                .sum::<u64>()
                == 1
        };
        one("/proc/self/uid_map") || one("/proc/self/gid_map")
    })
}

/// The attribute by which overlayfs knows that a directory hides the ones below it, and of which namespace it may be.
#[must_use]
pub fn opaque_attribute() -> &'static str {
    if in_user_namespace() {
        "user.overlay.opaque"
    } else {
        "trusted.overlay.opaque"
    }
}

/// Whether a group is one of this user namespace.
pub(super) fn has_group(gid: u32) -> bool {
    has_id(
        &fs::read_to_string("/proc/self/gid_map").unwrap_or_default(),
        gid,
    )
}

/// Whether an id is in a map like `/proc/PID/gid_map`.
pub(super) fn has_id(map: &str, id: u32) -> bool {
    ids::rows(map)
        .iter()
        .any(|row| id >= row.inside && id - row.inside < row.count)
}

/// The user outside of the user namespace, or in it if there is none.
#[must_use]
pub fn user() -> u32 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let own = geteuid().as_raw();
    ids::rows(&map)
        .iter()
        .find(|row| own >= row.inside && own - row.inside < row.count)
        .map_or(own, |row| row.outside.saturating_add(own - row.inside))
}

/// The folder for an ordinary user's sockets and the like, which a reboot empties: `XDG_RUNTIME_DIR`, or `/run/user/UID` where that is there.
#[must_use]
pub fn runtime_dir() -> Option<PathBuf> {
    let usual = || Some(PathBuf::from(format!("/run/user/{}", user()))).filter(|p| p.is_dir());
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(usual)
}

/// Whether this program was executed by `enter` or `join` with this name.
#[must_use]
pub fn entered_as(name: &str) -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|first| first == name)
}

/// Enters a new user namespace with this user's ids, and executes this program anew in it, with the same arguments and `name` in place
/// of its own name. The process stays the same one.
///
/// Without subordinate ids for this user, or without the programs `newuidmap` and `newgidmap`, which give them to the namespace, root is
/// the only id in it. The caller must be single-threaded.
pub fn enter(name: &str) -> Result<Infallible> {
    let maps = Maps::of_this_user();
    let (ours, theirs) = channel::pair()?;
    let owner = std::process::id();
    // Who gives the ids must stand outside of the namespace.
    let forked = sys::clone(0, false).map_err(|e| Error::io("start a process", e))?;
    let sys::Forked::Parent { pid, .. } = forked else {
        drop(ours);
        let word = match theirs.wait().and_then(|_| maps.give(owner)) {
            Ok(()) => Word::Done(None),
            Err(error) => Word::Failed(error),
        };
        let _ = theirs.send(&word);
        sys::exit(0)
    };
    drop(theirs);
    let new = libc::CLONE_NEWUSER as u64 | libc::CLONE_NEWNS as u64;
    let made = sys::unshare(new).map_err(|e| no_namespace(&e));
    let given = made
        .and_then(|()| ours.send(&Word::Go))
        .and_then(|()| ours.wait());
    drop(ours);
    spawn::wait(pid);
    given?;
    mounts::detach_host()?;
    again(name)
}

/// Enters the namespace that a process of `enter` has left behind, and executes this program anew in it, as `enter` does. `pid`: a process
/// in it, or (with `above`) in one right below it. With `mounts` its mount namespace is joined as well.
///
/// The caller must be single-threaded.
pub fn join(name: &str, pid: i32, above: bool, mounts: bool) -> Result<Infallible> {
    let gone = |e: rustix::io::Errno| Error::io(format!("look at process {pid}"), e);
    let pidfd = Pid::from_raw(pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(gone)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut namespace = open(format!("/proc/{pid}/ns/user"), flags, Mode::empty()).map_err(gone)?;
    if above {
        namespace = sys::parent_namespace(namespace.as_fd())
            .map_err(|e| Error::io(format!("find the user namespace around process {pid}"), e))?;
    }
    let failed =
        |e: std::io::Error| Error::io(format!("join the user namespace of process {pid}"), e);
    if mounts {
        let kinds = libc::CLONE_NEWUSER as u64 | libc::CLONE_NEWNS as u64;
        sys::setns(pidfd.as_fd(), kinds).map_err(failed)?;
    } else {
        sys::setns(namespace.as_fd(), libc::CLONE_NEWUSER as u64).map_err(failed)?;
    }
    again(name)
}

/// Puts a spec's mappings, whose host ids are those that the user knows, into those of the namespace that `enter` made.
pub fn translate(spec: &mut Spec) -> Result<()> {
    let read = |file: &str| {
        fs::read_to_string(file)
            .map(|text| ids::rows(&text))
            .map_err(|e| Error::io(format!("read {file}"), e))
    };
    let (uids, gids) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
    if let Some(linux) = spec.linux_mut() {
        if let Some(list) = linux.uid_mappings() {
            linux.set_uid_mappings(Some(ids::inside(list, &uids, SUBUID)?));
        }
        if let Some(list) = linux.gid_mappings() {
            linux.set_gid_mappings(Some(ids::inside(list, &gids, SUBGID)?));
        }
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        if let Some(list) = mount.uid_mappings() {
            mount.set_uid_mappings(Some(ids::inside(list, &uids, SUBUID)?));
        }
        if let Some(list) = mount.gid_mappings() {
            mount.set_gid_mappings(Some(ids::inside(list, &gids, SUBGID)?));
        }
    }
    Ok(())
}

/// What a namespace is given.
#[derive(Debug)]
struct Maps {
    uids: Vec<ids::Row>,
    gids: Vec<ids::Row>,
}

impl Maps {
    fn of_this_user() -> Self {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let users = read("/etc/passwd");
        // A user of a directory service is not in the file.
        let known = std::env::var("USER").ok();
        let name = ids::name(&users, uid).or(known.as_deref());
        let mut maps = Self {
            uids: ids::of_user(uid, uid, name, &read(SUBUID)),
            gids: ids::of_user(gid, uid, name, &read(SUBGID)),
        };
        // Both or none: half of the owners would be lost.
        if maps.uids.len() < 2
            || maps.gids.len() < 2
            || !has_program("newuidmap")
            || !has_program("newgidmap")
        {
            maps.uids.truncate(1);
            maps.gids.truncate(1);
        }
        maps
    }

    /// Gives the ids to a process in a new user namespace, from outside of it.
    fn give(&self, pid: u32) -> Result<()> {
        if self.uids.len() < 2 {
            let write = |file: &str, text: &str| {
                fs::write(format!("/proc/{pid}/{file}"), text)
                    .map_err(|e| Error::io(format!("write `{text}` to the namespace's {file}"), e))
            };
            let line = |rows: &[ids::Row]| {
                rows.iter()
                    .map(|row| format!("{} {} {}", row.inside, row.outside, row.count))
                    .collect::<String>()
            };
            // Who cannot change groups may map one without asking anybody (user_namespaces(7)).
            write("setgroups", "deny")?;
            write("uid_map", &line(&self.uids))?;
            return write("gid_map", &line(&self.gids));
        }
        for (program, rows, file) in [
            ("newuidmap", &self.uids, SUBUID),
            ("newgidmap", &self.gids, SUBGID),
        ] {
            let mut command = Command::new(program);
            command.arg(pid.to_string());
            for row in rows {
                command.args([row.inside, row.outside, row.count].map(|n| n.to_string()));
            }
            let done = command
                .output()
                .map_err(|e| Error::io(format!("run {program}"), e))?;
            if !done.status.success() {
                return Err(Error::Conflict(format!(
                    "{program} did not give this user the ids that {file} has for it: {}",
                    String::from_utf8_lossy(&done.stderr).trim()
                )));
            }
        }
        Ok(())
    }
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn no_namespace(e: &std::io::Error) -> Error {
    let why = match e.raw_os_error() {
        Some(libc::ENOSPC) => "the limit in /proc/sys/user/max_user_namespaces is reached",
        Some(libc::EPERM | libc::EACCES) => {
            "this host does not let ordinary users make user namespaces: see the sysctls kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns, or run it as root"
        }
        _ => "user namespaces are needed to run containers without being root",
    };
    Error::Unsupported(format!("cannot make a user namespace: {e} ({why})"))
}

/// Executes this program anew.
fn again(name: &str) -> Result<Infallible> {
    let text = |text: &OsStr| {
        CString::new(text.as_bytes())
            .map_err(|_| Error::Invalid("an argument has a zero byte".to_owned()))
    };
    let mut args = vec![text(OsStr::new(name))?];
    for arg in std::env::args_os().skip(1) {
        args.push(text(&arg)?);
    }
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        let mut line = name;
        line.push("=");
        line.push(value);
        env.push(text(&line)?);
    }
    // By its path, so that it comes from a mount of this namespace, of which copies can be made.
    let same = |path: &PathBuf| {
        let number = |found: rustix::fs::Stat| (found.st_dev, found.st_ino);
        let of = |path: &Path| rustix::fs::stat(path).map(number).ok();
        of(path).is_some() && of(path) == of(Path::new(OWN))
    };
    if let Some(path) = fs::read_link(OWN).ok().filter(same) {
        let _ = sys::execve(&text(path.as_os_str())?, &args, &env);
    }
    let error = sys::execve(&text(OsStr::new(OWN))?, &args, &env);
    Err(Error::io(
        "execute this program in the user namespace",
        error,
    ))
}
