//! A process's terminal: a pair out of the container's own devpts, every part of it checked by descriptor and opened by no path of the
//! image (CVE-2025-52565). Runs in the container, with its root as the root.

use super::{WindowSize, mounts, sys};
use crate::{Error, Result};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fstatfs, open, openat2},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Both sides of a terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Makes one.
pub(super) fn make(size: Option<WindowSize>) -> Result<Terminal> {
    let failed = |e: rustix::io::Errno| Error::io("open a terminal in the container", e);
    let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let master = openat2(&root, "/dev/pts/ptmx", flags, Mode::empty(), resolve).map_err(|e| match e {
        rustix::io::Errno::NOENT => Error::Invalid(
            "a terminal is asked for, but the container has no devpts on /dev/pts; add that mount".to_owned(),
        ),
        e => failed(e),
    })?;
    if !is_devpts(master.as_fd()) || !mounts::is_device(&master, 5, 2) {
        return Err(Error::Invalid(
            "/dev/pts/ptmx in the container is not that of a devpts file system: no terminal can be made from it".to_owned(),
        ));
    }
    unlockpt(&master).map_err(failed)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
    if !is_devpts(slave.as_fd()) {
        return Err(Error::Invalid(
            "the container's terminal is not of a devpts file system".to_owned(),
        ));
    }
    if let Some(size) = size {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).map_err(|e| Error::io("set the terminal's size", e))?;
    }
    Ok(Terminal { master, slave })
}

/// Makes it this session's terminal and its standard streams.
pub(super) fn take(slave: BorrowedFd<'_>) -> Result<()> {
    sys::set_controlling_terminal(slave)
        .map_err(|e| Error::io("make the terminal the session's own", e))?;
    for at in 0..3 {
        sys::place(slave, at).map_err(|e| Error::io("put the terminal at a standard stream", e))?;
    }
    Ok(())
}

fn is_devpts(fd: BorrowedFd<'_>) -> bool {
    fstatfs(fd).is_ok_and(|found| u64::try_from(found.f_type) == Ok(DEVPTS_MAGIC))
}
