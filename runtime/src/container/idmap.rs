//! Maps of users and groups, and namespaces that only hold such maps, for mounts. Must not know of mounts.

use super::{channel, spawn, sys};
use crate::{Error, Result};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags, open};
use std::{fs, os::fd::OwnedFd};

/// `/proc/PID/uid_map` and `gid_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maps {
    pub(super) uids: String,
    pub(super) gids: String,
}

impl Maps {
    /// Those of a spec; none must be empty.
    pub(super) fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Self {
        let text = |list: &[LinuxIdMapping]| {
            list.iter()
                .map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size()))
                .collect()
        };
        Self {
            uids: text(uids),
            gids: text(gids),
        }
    }

    /// Whom root inside is outside: user and group. None where it is nobody.
    pub(super) fn root(&self) -> Option<(u32, u32)> {
        let root = |map: &str| {
            map.lines().find_map(|line| {
                let mut words = line.split(' ');
                (words.next()? == "0").then(|| words.next()?.parse().ok())?
            })
        };
        Some((root(&self.uids)?, root(&self.gids)?))
    }

    /// Gives them to a process in a new user namespace.
    pub(super) fn write(&self, pid: i32) -> Result<()> {
        for (file, text) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            fs::write(format!("/proc/{pid}/{file}"), text).map_err(|e| {
                let map = text.trim().replace('\n', ", ");
                Error::io(format!("set the user namespace's {file} to `{map}`"), e)
            })?;
        }
        Ok(())
    }

    /// A user namespace with them, without a process. The caller must be single-threaded.
    pub(super) fn namespace(&self) -> Result<OwnedFd> {
        let (ours, theirs) = channel::pair()?;
        let forked = sys::clone(libc::CLONE_NEWUSER as u64, false)
            .map_err(|e| Error::io("make a user namespace for mounts", e))?;
        let sys::Forked::Parent { pid, .. } = forked else {
            drop(ours);
            let _ = theirs.recv();
            sys::exit(0)
        };
        drop(theirs);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = self.write(pid).and_then(|()| {
            open(format!("/proc/{pid}/ns/user"), flags, Mode::empty())
                .map_err(|e| Error::io("open a user namespace for mounts", e))
        });
        drop(ours);
        spawn::wait(pid);
        namespace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_in_maps() {
        let maps = |uids: &str| Maps {
            uids: uids.to_owned(),
            gids: "0 7 1\n".to_owned(),
        };
        assert_eq!(maps("5 1000 2\n0 100000 5\n").root(), Some((100_000, 7)));
        assert_eq!(maps("1 100000 5\n").root(), None);
    }
}
