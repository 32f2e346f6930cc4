//! A new network namespace, made in a thread beside: the kernel takes about as long for it as for the cgroups, and neither needs the other.
//! Must not know of specs.

use super::sys;
use rustix::fs::{Mode, OFlags, open};
use std::{
    io,
    os::fd::OwnedFd,
    thread::{Builder, JoinHandle},
};

const STACK: usize = 64 << 10;

/// One that is being made. Dropped it waits for its thread: whoever starts a process must be alone in this one.
#[derive(Debug)]
pub(super) struct Network(Option<JoinHandle<io::Result<OwnedFd>>>);

impl Network {
    /// Begins to make one that belongs to this process's user namespace.
    pub(super) fn begin() -> io::Result<Self> {
        Builder::new()
            .stack_size(STACK)
            .spawn(make)
            .map(Some)
            .map(Self)
    }

    /// Waits for it.
    pub(super) fn finish(mut self) -> io::Result<OwnedFd> {
        let thread = self.0.take();
        thread
            .and_then(|thread| thread.join().ok())
            .unwrap_or_else(|| Err(io::Error::other("its thread ended")))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.take().map(JoinHandle::join);
    }
}

/// The thread is in it until it ends, which is at once.
fn make() -> io::Result<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNET as u64)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(open("/proc/thread-self/ns/net", flags, Mode::empty())?)
}
