//! Has the kernel tell when a cgroup runs out of memory, so that nobody has to look again and again. What that came to says
//! `Cgroup::oom_kills`. It must not know whose cgroup it is.

use crate::{Error, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::fs::{Mode, OFlags, open};
use std::iter::{RepeatN, repeat_n};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// How often the count of v1 is looked at, and after which pauses, when it has told.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Readable whenever a cgroup may have run out of memory.
#[derive(Debug)]
pub struct OomEvents {
    fd: OwnedFd,
    early: bool,
}

impl OomEvents {
    /// v2: `memory.events` changes (Linux, Documentation/admin-guide/cgroup-v2.rst, "memory.events").
    pub(super) fn of_changes(events: &Path) -> Result<Self> {
        let failed = |e| Error::io(format!("watch {}", events.display()), e);
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let fd = inotify::init(flags).map_err(failed)?;
        inotify::add_watch(&fd, events, inotify::WatchFlags::MODIFY).map_err(failed)?;
        Ok(Self { fd, early: false })
    }

    /// v1: an eventfd that is registered for `memory.oom_control` (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
    pub(super) fn of_notices(memory: &Path) -> Result<Self> {
        let control = memory.join("memory.oom_control");
        let failed = |e| Error::io(format!("watch {}", control.display()), e);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = eventfd(0, flags).map_err(failed)?;
        let file =
            open(&control, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let line = format!("{} {}", fd.as_raw_fd(), file.as_raw_fd());
        let register = memory.join("cgroup.event_control");
        std::fs::write(&register, line)
            .map_err(|e| Error::io(format!("write to {}", register.display()), e))?;
        Ok(Self { fd, early: true })
    }

    /// After which pauses the count may have grown, though it had not when this became readable: v1 tells before it has counted
    /// what it kills. It kills at once or not at all; with `memory.disableOOMKiller` the processes wait instead.
    #[must_use]
    pub fn pauses(&self) -> RepeatN<Duration> {
        repeat_n(PAUSE, if self.early { LOOKS } else { 0 })
    }

    /// Takes what was told, so that it is readable again only when there is more.
    pub fn take(&self) {
        let mut buffer = [0; 1024];
        while rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffer))
            .is_ok_and(|n| n == buffer.len())
        {}
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OomEvents> for OwnedFd {
    fn from(events: OomEvents) -> Self {
        events.fd
    }
}
