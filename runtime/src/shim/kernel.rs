//! System calls of the shim that the safe bindings do not have.
#![allow(unsafe_code)] // They are made through libc, each with its reason.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Closes what an agent may have left open by mistake, so that nothing of it lives as long as the container. Only
/// before this process has opened anything itself.
pub(super) fn close_inherited() {
    // SAFETY: nothing owns a descriptor above standard error yet; a kernel without the call leaves all open.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
}

/// Gives memory that was freed back to the kernel: what making the container took is not needed again.
pub(super) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no other thread uses the allocator, and it would not matter if one did.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sends a signal, realtime ones included, to the process of that pidfd.
pub(super) fn send(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: pidfd_send_signal(2) with no siginfo and no flags reads no memory of ours.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
