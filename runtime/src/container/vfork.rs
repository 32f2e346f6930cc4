//! A child that uses this process's memory until it runs its program, as vfork(2) has it: nothing is copied, and this process sleeps
//! until then. Knows no container.
//!
//! Why unsafe: the child begins in the middle of the system call with another stack pointer, which takes an instruction of the
//! machine; libc's `clone` cannot put a process into a cgroup.
#![allow(unsafe_code)]

use super::sys;
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

/// How far below what this process uses of its stack the child begins: more than a function keeps there (the red zone).
#[cfg(target_arch = "x86_64")]
const BELOW: u64 = 4096;

/// What the child begins with.
#[cfg(target_arch = "x86_64")]
struct Start<'a> {
    main: &'a mut dyn FnMut(i32),
    /// Its number here. The kernel writes it before the child runs.
    pid: libc::pid_t,
}

/// Starts a child in new namespaces, and in a cgroup, that runs `main` (with its number as the caller's pid namespace has it) and does
/// not return from it unless it is to end with the code 127. Returns when it runs its program or has ended.
///
/// The child sees the caller's memory as it is and leaves in it what it writes; descriptors, directories, signal actions, credentials
/// and limits are its own. The caller may have other threads: they run on. Old kernels answer as with `sys::clone3`; other
/// machines with `ENOSYS`.
#[cfg(target_arch = "x86_64")]
pub(super) fn vfork(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    main: &mut dyn FnMut(i32),
) -> io::Result<(i32, OwnedFd)> {
    let mut start = Start { main, pid: 0 };
    let mut pidfd = -1;
    let mut args = sys::clone_args(flags, cgroup, &mut pidfd);
    args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.parent_tid = &raw mut start.pid as u64;
    let here: u64;
    // SAFETY: only reads a register.
    unsafe { std::arch::asm!("mov {}, rsp", out(reg) here, options(nomem, nostack)) };
    // The kernel wants the lowest address and a size, and only adds them.
    args.stack_size = BELOW;
    args.stack = (here & !0xfff) - 2 * BELOW;
    let mut result: i64 = libc::SYS_clone3;
    // SAFETY: clone_args with pointers that outlive the call, as CLONE_VFORK keeps this process from going on before the child has let
    // go of the memory. The child's stack is what lies below this process's own, which sleeps and needs no more of it meanwhile; it
    // grows as far as a call from here could. The child never comes back here: `enter` does not return. To the compiler all of it is
    // one call that may touch any memory that `start` leads to.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") result,
            in("rdi") &raw const args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") &raw mut start,
            in("r13") enter as extern "C" fn(*mut Start<'static>) -> !,
            out("rcx") _,
            out("r11") _,
        );
    }
    if result < 0 {
        let errno = i32::try_from(-result).unwrap_or(libc::EINVAL);
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok((
        i32::try_from(result).unwrap_or(-1),
        sys::new_descriptor(pidfd),
    ))
}

#[cfg(target_arch = "x86_64")]
extern "C" fn enter(start: *mut Start<'static>) -> ! {
    // SAFETY: `vfork` gives its own, which lives until this process is gone from its memory; it does not touch it meanwhile.
    let start = unsafe { &mut *start };
    (start.main)(start.pid);
    sys::exit(127)
}

/// See above.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn vfork(
    _flags: u64,
    _cgroup: Option<BorrowedFd<'_>>,
    _main: &mut dyn FnMut(i32),
) -> io::Result<(i32, OwnedFd)> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}
