//! The few calls of bpf(2) that put a program on a cgroup. Knows no rules.
//!
//! Why unsafe: raw `syscall(2)`, as no safe wrapper offers bpf. Every pointer passed points to a value that lives through the call,
//! with its right size.
#![allow(unsafe_code)]

use super::program::Instruction;
use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

// enum bpf_cmd
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`, and where such a program is attached: `BPF_CGROUP_DEVICE`.
const TYPE: u32 = 15;
const PLACE: u32 = 6;

const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// `union bpf_attr` for a program to load, its first fields: the kernel takes what is missing for zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The same for attaching and detaching.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    place: u32,
    flags: u32,
    replaced: u32,
}

/// The same for asking what is attached.
#[repr(C)]
struct Query {
    target: u32,
    place: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
}

fn call<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is one of the structs above with its size; the pointers in it are the caller's matter, who keeps what they lead to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn raw(fd: &impl AsRawFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// The kernel has just made this descriptor.
fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the kernel check and keep a program.
pub(super) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = Load {
        kind: TYPE,
        count: u32::try_from(program.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"swarm_devices\0\0\0",
    };
    own(call(PROG_LOAD, &mut attr)?)
}

/// Puts a program on a cgroup, beside those that are there or in place of one of them.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    program: &OwnedFd,
    replaced: Option<&OwnedFd>,
) -> io::Result<()> {
    let mut attr = Attach {
        target: raw(&cgroup),
        program: raw(program),
        place: PLACE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map_or(0, raw),
    };
    call(PROG_ATTACH, &mut attr).map(drop)
}

/// Takes a program off a cgroup.
pub(super) fn detach(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> io::Result<()> {
    let mut attr = Attach {
        target: raw(&cgroup),
        program: raw(program),
        place: PLACE,
        flags: 0,
        replaced: 0,
    };
    call(PROG_DETACH, &mut attr).map(drop)
}

/// The programs on a cgroup itself.
pub(super) fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut attr = Query {
        target: raw(&cgroup),
        place: PLACE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        reserved: 0,
    };
    call(PROG_QUERY, &mut attr)?;
    let count = usize::try_from(attr.count).unwrap_or(0);
    let mut programs = Vec::new();
    for &id in ids.iter().take(count) {
        #[repr(C)]
        struct ById {
            id: u32,
            next: u32,
            flags: u32,
        }
        let mut attr = ById {
            id,
            next: 0,
            flags: 0,
        };
        programs.push(own(call(PROG_GET_FD_BY_ID, &mut attr)?)?);
    }
    Ok(programs)
}
