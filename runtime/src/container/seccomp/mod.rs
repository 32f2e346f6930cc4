//! The filter of system calls (OCI config-linux, "Seccomp"), compiled to classic BPF. Pure; must not know of processes.
//!
//! The filter is for this machine's own system calls. Those of another architecture that the kernel also offers (32-bit x86 and x32
//! on x86_64, 32-bit ARM on aarch64) end the process, also where the spec lists that architecture.

mod aarch64;
mod bpf;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod listener;
mod profile;
#[cfg(test)]
mod reference;
#[cfg(any(test, feature = "fuzzing"))]
mod run;
mod x86_64;

use super::sys::Instruction;
use crate::{Error, Result};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use std::path::PathBuf;

pub(super) use listener::Listener;
pub use profile::{default_seccomp, default_seccomp_for};

#[cfg(target_arch = "x86_64")]
const NATIVE: Native = Native {
    arch: Arch::ScmpArchX86_64,
    audit: 0xc000_003e,
    numbers: x86_64::X86_64,
    others: aarch64::AARCH64,
};
#[cfg(target_arch = "aarch64")]
const NATIVE: Native = Native {
    arch: Arch::ScmpArchAarch64,
    audit: 0xc000_00b7,
    numbers: aarch64::AARCH64,
    others: x86_64::X86_64,
};

/// This machine.
struct Native {
    arch: Arch,
    /// The kernel's `AUDIT_ARCH_…`.
    audit: u32,
    numbers: &'static [(&'static str, u32)],
    others: &'static [(&'static str, u32)],
}

/// System calls that only 32-bit architectures have: profiles name them.
const ELSEWHERE: &[&str] = &[
    "_llseek",
    "_newselect",
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "chown32",
    "clock_adjtime64",
    "clock_getres_time64",
    "clock_gettime64",
    "clock_nanosleep_time64",
    "clock_settime64",
    "fadvise64_64",
    "fchown32",
    "fcntl64",
    "fstat64",
    "fstatat64",
    "fstatfs64",
    "ftruncate64",
    "futex_time64",
    "getegid32",
    "geteuid32",
    "getgid32",
    "getgroups32",
    "getresgid32",
    "getresuid32",
    "getuid32",
    "io_pgetevents_time64",
    "ipc",
    "lchown32",
    "lstat64",
    "mmap2",
    "mq_timedreceive_time64",
    "mq_timedsend_time64",
    "nice",
    "oldfstat",
    "oldlstat",
    "oldolduname",
    "oldstat",
    "olduname",
    "ppoll_time64",
    "pselect6_time64",
    "recv",
    "recvmmsg_time64",
    "rt_sigtimedwait_time64",
    "sched_rr_get_interval_time64",
    "semtimedop_time64",
    "send",
    "sendfile64",
    "set_tls",
    "setfsgid32",
    "setfsuid32",
    "setgid32",
    "setgroups32",
    "setregid32",
    "setresgid32",
    "setresuid32",
    "setreuid32",
    "setuid32",
    "sgetmask",
    "sigaction",
    "signal",
    "sigpending",
    "sigprocmask",
    "sigreturn",
    "sigsuspend",
    "socketcall",
    "ssetmask",
    "stat64",
    "statfs64",
    "stime",
    "sync_file_range2",
    "timer_gettime64",
    "timer_settime64",
    "timerfd_gettime64",
    "timerfd_settime64",
    "truncate64",
    "ugetrlimit",
    "umount",
    "usr26",
    "usr32",
    "utimensat_time64",
    "vm86",
    "vm86old",
    "waitpid",
];

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_…`.
    pub(super) flags: u64,
    /// Whom the kernel asks about calls: the path of a socket, and what is said there.
    pub(super) listener: Option<(PathBuf, String)>,
}

/// What is done about a call where all conditions hold.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    conditions: Vec<bpf::Condition>,
    action: u32,
}

/// Compiles a spec's filter.
pub(super) fn compile(spec: &LinuxSeccomp) -> Result<Filter> {
    let architectures = spec.architectures().as_deref().unwrap_or_default();
    let ours = |arch: &Arch| [NATIVE.arch, Arch::ScmpArchNative].contains(arch);
    if !architectures.is_empty() && !architectures.iter().any(ours) {
        return Err(Error::Invalid(format!(
            "the seccomp filter is for {architectures:?}, not for this machine's {:?}",
            NATIVE.arch
        )));
    }
    let listener = listener::wanted(spec)?;
    let default = action(spec.default_action(), spec.default_errno_ret())?;
    let denies = default != action(LinuxSeccompAction::ScmpActAllow, None)?;
    let listed = spec.syscalls().as_deref().unwrap_or_default();
    let mut rules = Vec::with_capacity(listed.len());
    // Numbers, each with the place of its rule.
    let mut calls: Vec<(u32, usize)> = Vec::with_capacity(NATIVE.numbers.len());
    for rule in listed {
        // Names are sorted in most profiles: the next one is not far.
        let mut near = 0;
        for name in rule.names() {
            // Where the default denies, a call that is not known here is denied whatever the rule says.
            if let Some(number) = number_near(name, denies, &mut near)? {
                calls.push((number, rules.len()));
            }
        }
        rules.push(Rule {
            conditions: conditions(rule)?,
            action: action(rule.action(), rule.errno_ret())?,
        });
    }
    // Of one call's rules the first that holds wins.
    calls.sort_unstable();
    let newest = calls.last().map_or(0, |(number, _)| *number);
    // A call newer than all that the filter's author knew is answered as by a kernel that does not have it, so that programs
    // fall back to what they know; libraries do not understand EPERM there.
    let unknown = match spec.default_action() {
        LinuxSeccompAction::ScmpActErrno if denies && newest > 300 => {
            bpf::errno(libc::ENOSYS as u32)
        }
        _ => default,
    };
    let mut flags = 0;
    for flag in spec.flags().iter().flatten() {
        flags |= match flag {
            // There is one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                if listener.is_none() {
                    return Err(Error::Invalid(
                        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY"
                            .to_owned(),
                    ));
                }
                0x20
            }
        };
    }
    if listener.is_some() {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    }
    let program = bpf::program(NATIVE.audit, &rules, &calls, default, unknown)?;
    Ok(Filter {
        program,
        flags,
        listener,
    })
}

/// A system call's number here; none for one that this machine does not have, where that may be passed over.
#[cfg(any(test, feature = "fuzzing"))]
fn number(name: &str, harmless: bool) -> Result<Option<u32>> {
    number_near(name, harmless, &mut 0)
}

/// The same, looked for first at a place in the table, which becomes that behind the one found.
fn number_near(name: &str, harmless: bool, near: &mut usize) -> Result<Option<u32>> {
    const STEPS: usize = 4;
    let ahead = NATIVE.numbers.get(*near..).unwrap_or_default();
    if let Some(at) = ahead.iter().take(STEPS).position(|(at, _)| *at == name) {
        *near += at + 1;
        return Ok(ahead.get(at).map(|(_, number)| *number));
    }
    let place = |table: &[(&str, u32)]| table.binary_search_by_key(&name, |(name, _)| name);
    match place(NATIVE.numbers) {
        Ok(at) => {
            *near = at + 1;
            return Ok(NATIVE.numbers.get(at).map(|(_, number)| *number));
        }
        Err(at) => *near = at,
    }
    if harmless || place(NATIVE.others).is_ok() || ELSEWHERE.contains(&name) {
        return Ok(None);
    }
    Err(Error::Invalid(format!(
        "the seccomp filter names an unknown system call `{name}`"
    )))
}

fn conditions(rule: &LinuxSyscall) -> Result<Vec<bpf::Condition>> {
    let mut conditions = Vec::new();
    for arg in rule.args().iter().flatten() {
        let index = u8::try_from(arg.index())
            .ok()
            .filter(|&index| index < 6)
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "the seccomp filter tests argument {} of {:?}: there are six, from 0",
                    arg.index(),
                    rule.names()
                ))
            })?;
        let value = arg.value();
        let test = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => bpf::Test::Equal(value),
            LinuxSeccompOperator::ScmpCmpNe => bpf::Test::NotEqual(value),
            LinuxSeccompOperator::ScmpCmpLt => bpf::Test::Below(value),
            LinuxSeccompOperator::ScmpCmpLe => bpf::Test::AtMost(value),
            LinuxSeccompOperator::ScmpCmpGe => bpf::Test::AtLeast(value),
            LinuxSeccompOperator::ScmpCmpGt => bpf::Test::Above(value),
            LinuxSeccompOperator::ScmpCmpMaskedEq => bpf::Test::Masked {
                mask: value,
                value: arg.value_two().unwrap_or(0),
            },
        };
        conditions.push(bpf::Condition { index, test });
    }
    Ok(conditions)
}

fn action(action: LinuxSeccompAction, data: Option<u32>) -> Result<u32> {
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => bpf::KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => bpf::errno(data.unwrap_or(libc::EPERM as u32)),
        LinuxSeccompAction::ScmpActTrace => {
            0x7ff0_0000 | (data.unwrap_or(libc::EPERM as u32) & 0xffff)
        }
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
    })
}

#[cfg(test)]
mod tests;
