//! The system calls that no safe wrapper offers, each behind a safe function. Knows no container.
//!
//! Why unsafe: raw `syscall(2)`. Every pointer passed points to a value that lives through the call, with its right size.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// libc's constant of this name is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a fork left: the parent's or the child's side.
#[derive(Debug)]
pub(super) enum Forked {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `clone3(2)` as a fork with new namespaces, a pidfd, and (v2) a cgroup from the start. On kernels without clone3 or
/// without clone into a cgroup the caller gets `ENOSYS`, `EINVAL` or `E2BIG` and uses `clone`.
///
/// The child is a copy of the calling process with this thread alone: the caller must be single-threaded, or some
/// other thread's lock (the allocator's) may be held for ever in the child.
pub(super) fn clone3(
    flags: u64,
    sibling: bool,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut args = clone_args(flags, cgroup, &mut pidfd);
    if sibling {
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    // SAFETY: no CLONE_VM: the child has its own copy of the memory, so this is a fork; see the doc comment.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    })?;
    Ok(forked(pid, pidfd))
}

/// What clone3 takes: these flags, a cgroup, and a place for the new process's pidfd.
pub(super) fn clone_args(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    pidfd: &mut RawFd,
) -> libc::clone_args {
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = ptr::from_mut(pidfd) as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    args
}

/// Takes a descriptor that the kernel has just made for this process.
pub(super) fn new_descriptor(fd: RawFd) -> OwnedFd {
    // SAFETY: for callers that have it from the kernel and keep no other copy of the number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The same by `clone(2)`, without a cgroup.
pub(super) fn clone(flags: u64, sibling: bool) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut flags = flags | libc::CLONE_PIDFD as u64 | libc::SIGCHLD as u64;
    if sibling {
        flags |= libc::CLONE_PARENT as u64;
    }
    let slot = &raw mut pidfd;
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: as `clone3`; a null stack keeps the caller's, of which the child has a copy. The third argument is
    // the place of the pidfd on both architectures (parent_tid).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, none, slot, none, none) })?;
    Ok(forked(pid, pidfd))
}

fn forked(pid: libc::c_long, pidfd: RawFd) -> Forked {
    if pid == 0 {
        return Forked::Child;
    }
    Forked::Parent {
        pid: i32::try_from(pid).unwrap_or(-1),
        pidfd: new_descriptor(pidfd),
    }
}

/// Ends this process at once, without the clean-up that belongs to the process it was copied from.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: _exit takes any code and does not return.
    unsafe { libc::_exit(code) }
}

/// `setns(2)`, with a namespace or (several kinds at once) a pidfd.
pub(super) fn setns(fd: BorrowedFd<'_>, kinds: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kinds) }).map(drop)
}

/// `struct mount_attr` of mount_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct MountAttr {
    pub(super) set: u64,
    pub(super) clear: u64,
    pub(super) propagation: u64,
    pub(super) user_namespace: u64,
}

/// `mount_setattr(2)` on the mount a descriptor stands for.
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attr: &MountAttr,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string, and a struct with its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// `close_range(2)`: everything from `first` on closes at exec.
pub(super) fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers. Only a flag of the descriptors changes, none is closed.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// `execve(2)`. Returns only if it failed.
pub(super) fn execve(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: null-terminated arrays of C strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// All signals as a new program expects them: none blocked, none ignored or handled.
pub(super) fn reset_signals() {
    // SAFETY: sigset and sigaction structs of our own; signals without a settable action just fail.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=libc::SIGRTMAX() {
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// `prctl(2)` with integers.
pub(super) fn prctl(option: i32, a: u64, b: u64) -> io::Result<()> {
    // SAFETY: used only with options whose arguments are integers.
    check(libc::c_long::from(unsafe {
        libc::prctl(option, a, b, 0u64, 0u64)
    }))
    .map(drop)
}

/// `capset(2)` on this thread: effective, permitted, inheritable as bit sets.
pub(super) fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let word = |set: u64, high: bool| (if high { set >> 32 } else { set & 0xffff_ffff }) as u32;
    let data: [[u32; 3]; 2] = [false, true].map(|high| {
        [
            word(effective, high),
            word(permitted, high),
            word(inheritable, high),
        ]
    });
    // SAFETY: header and data as capability version 3 lays them out.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// `setresuid`, `setresgid` and `setgroups` of this thread alone (glibc's would want the other threads of the
/// process this one was copied from).
pub(super) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: a slice with its length.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// See `set_groups`.
pub(super) fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// See `set_groups`.
pub(super) fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// One instruction of a classic BPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

/// Puts this thread under a filter of system calls. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` the listener's descriptor comes back.
pub(super) fn seccomp(program: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let program = Program {
        len: u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: program.as_ptr(),
    };
    // SAFETY: struct sock_fprog over an array of struct sock_filter that outlive the call.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Makes a terminal this session's controlling one.
pub(super) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0)
    }))
    .map(drop)
}

/// Puts a copy of `fd` at 0, 1 or 2, open across exec.
pub(super) fn place(fd: BorrowedFd<'_>, at: RawFd) -> io::Result<()> {
    // SAFETY: no pointers. What was at `at` belonged to the process this one was copied from.
    check(libc::c_long::from(unsafe {
        libc::dup2(fd.as_raw_fd(), at)
    }))?;
    // dup2 leaves the flag alone where both are the same.
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe {
        libc::fcntl(at, libc::F_SETFD, 0)
    }))
    .map(drop)
}

/// `prlimit(2)` on another process: soft and hard limit.
pub(super) fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: a struct that outlives the call; no old value asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            ptr::null_mut::<u8>(),
        )
    })
    .map(drop)
}

/// `umask(2)`.
pub(super) fn umask(mask: u32) {
    // SAFETY: always succeeds.
    unsafe { libc::umask(mask) };
}

/// A block or character device's node.
pub(super) fn mknod(
    directory: BorrowedFd<'_>,
    name: &CStr,
    mode: u32,
    device: u64,
) -> io::Result<()> {
    // SAFETY: a C string that outlives the call.
    check(libc::c_long::from(unsafe {
        libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, device)
    }))
    .map(drop)
}

/// `pivot_root(".", ".")`: the working directory becomes the root, and the old root lies on top of it.
pub(super) fn pivot_here() -> io::Result<()> {
    // SAFETY: C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// `personality(2)`.
pub(super) fn personality(persona: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

/// `ioprio_set(2)` of this process.
pub(super) fn io_priority(class: u32, level: u32) -> io::Result<()> {
    // SAFETY: no pointers. 1: IOPRIO_WHO_PROCESS; 0: this one; the class stands above bit 13.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, class << 13 | level) }).map(drop)
}

/// `getcwd(2)` as the kernel says it: outside of the root it does not begin with a slash.
pub(super) fn getcwd() -> io::Result<Vec<u8>> {
    let mut path = vec![0u8; 4096];
    // SAFETY: a buffer with its length.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    path.truncate(usize::try_from(length).unwrap_or(0).saturating_sub(1));
    Ok(path)
}

/// A session keyring of this process's own, in place of the one it has from its parent. A kernel without keys, or a host where the
/// user has too many of them, is no failure.
pub(super) fn new_session_keyring(id: &str) -> crate::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = CString::new(format!("_ses.{id}")).unwrap_or_default();
    // SAFETY: a C string that outlives the call.
    let joined =
        check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) });
    match joined {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EDQUOT)) => Err(
            crate::Error::io("make a session keyring for the container", e),
        ),
        _ => Ok(()),
    }
}

/// `unshare(2)` of this thread.
pub(super) fn unshare(kinds: u64) -> io::Result<()> {
    // SAFETY: used for namespaces only.
    check(unsafe { libc::syscall(libc::SYS_unshare, kinds) }).map(drop)
}

/// The user namespace around another one (ioctl_ns(2)).
pub(super) fn parent_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: an ioctl without an argument, on any descriptor.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_ioctl, namespace.as_raw_fd(), NS_GET_PARENT, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// `struct sched_attr` of sched_setattr(2), in its first version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct SchedAttr {
    pub(super) size: u32,
    pub(super) policy: u32,
    pub(super) flags: u64,
    pub(super) nice: i32,
    pub(super) priority: u32,
    pub(super) runtime: u64,
    pub(super) deadline: u64,
    pub(super) period: u64,
}

/// `sched_setattr(2)` of this thread.
pub(super) fn set_scheduler(attr: &SchedAttr) -> io::Result<()> {
    let attr = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        ..*attr
    };
    // SAFETY: a struct that says its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// `set_mempolicy(2)`: mode and flags, and nodes as a set of bits.
pub(super) fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() {
        0
    } else {
        nodes.len() * 64 + 1
    };
    // SAFETY: a set with its length in bits; the kernel reads no more than that many, in whole words.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.as_ptr(), bits) }).map(drop)
}

/// The processors that this thread may run on, as a set of bits.
pub(super) fn affinity() -> io::Result<Vec<u64>> {
    let mut set = vec![0u64; 128];
    // SAFETY: a buffer with its length in bytes.
    let bytes = check(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            set.len() * size_of::<u64>(),
            set.as_mut_ptr(),
        )
    })?;
    set.truncate(
        usize::try_from(bytes)
            .unwrap_or(0)
            .div_ceil(size_of::<u64>()),
    );
    Ok(set)
}

/// Sets them.
pub(super) fn set_affinity(set: &[u64]) -> io::Result<()> {
    // SAFETY: a buffer with its length in bytes.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(set),
            set.as_ptr(),
        )
    })
    .map(drop)
}
