//! The shim's signal handlers. A signal meant for the agent's group does nothing here; a child's end wakes the
//! loop. Handlers, not `SIG_IGN` or a blocked mask, because those would be inherited by the container's program.
#![allow(unsafe_code)] // A signal handler is installed by `sigaction`, which cannot check what it runs.

use crate::{Error, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

static WAKE: AtomicI32 = AtomicI32::new(-1);

const UNHEEDED: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

extern "C" fn nothing(_signal: libc::c_int) {}

extern "C" fn child_ended(_signal: libc::c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) may be called from a signal handler; the buffer lives on this stack. errno is put back,
    // since the code that was interrupted may be about to look at it.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(WAKE.load(Ordering::Relaxed), one.as_ptr().cast(), one.len());
        *errno = before;
    }
}

/// Installs the handlers. What comes back is readable once a child has ended; it must live as long as the process.
pub(super) fn install() -> Result<OwnedFd> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|e| Error::io("make an eventfd", e))?;
    WAKE.store(wake.as_raw_fd(), Ordering::Relaxed);
    let handle = |signal: Signal, handler: extern "C" fn(libc::c_int), flags: SaFlags| {
        let action = SigAction::new(
            SigHandler::Handler(handler),
            flags | SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: both handlers do only what a signal handler may do.
        unsafe { sigaction(signal, &action) }
            .map_err(|e| Error::io(format!("handle signal {signal}"), e))
    };
    for signal in UNHEEDED {
        handle(signal, nothing, SaFlags::empty())?;
    }
    handle(Signal::SIGCHLD, child_ended, SaFlags::SA_NOCLDSTOP)?;
    SigSet::empty()
        .thread_set_mask()
        .map_err(|e| Error::io("unblock the signals", e))?;
    Ok(wake)
}
