//! The scheduler's view of a process (OCI config, "Scheduler" and "CPU affinity"). Must not know of cgroups.

use super::sys;
use crate::{Error, Result};
use oci_spec::runtime::{ExecCPUAffinity, LinuxSchedulerFlag, LinuxSchedulerPolicy, Scheduler};

/// What `sched_setattr(2)` is told.
pub(super) fn attributes(scheduler: &Scheduler) -> Result<sys::SchedAttr> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => {
            return Err(Error::Unsupported(
                "process.scheduler: Linux does not have SCHED_ISO".to_owned(),
            ));
        }
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let priority = scheduler.priority().unwrap_or(0);
    let mut attr = sys::SchedAttr {
        policy,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| {
            Error::Invalid(format!(
                "process.scheduler.priority must not be negative: {priority}"
            ))
        })?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..sys::SchedAttr::default()
    };
    for flag in scheduler.flags().iter().flatten() {
        attr.flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    Ok(attr)
}

/// The processors of a further process: at its start, and when it is in the container's cgroup.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    pub(super) initial: Option<Vec<u64>>,
    pub(super) last: Option<Vec<u64>>,
}

impl Affinity {
    pub(super) fn new(spec: Option<&ExecCPUAffinity>) -> Result<Self> {
        let set = |text: Option<&String>| {
            text.filter(|text| !text.trim().is_empty())
                .map(|text| processors(text))
                .transpose()
        };
        Ok(Self {
            initial: set(spec.and_then(|s| s.initial().as_ref()))?,
            last: set(spec.and_then(|s| s.cpu_affinity_final().as_ref()))?,
        })
    }
}

/// A list like `0-3,7` as a set of bits.
fn processors(list: &str) -> Result<Vec<u64>> {
    // The kernel has at most 8192 processors.
    const MOST: usize = 8192;
    let wrong = || Error::Invalid(format!("`{list}` is not a list of CPUs such as 0-3,7"));
    let number = |text: &str| {
        text.trim()
            .parse::<usize>()
            .ok()
            .filter(|&n| n < MOST)
            .ok_or_else(wrong)
    };
    let mut set = Vec::new();
    for part in list.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(wrong());
        }
        for cpu in first..=last {
            if set.len() <= cpu / 64 {
                set.resize(cpu / 64 + 1, 0u64);
            }
            if let Some(word) = set.get_mut(cpu / 64) {
                *word |= 1 << (cpu % 64);
            }
        }
    }
    Ok(set)
}

/// Does something with this thread's processors changed, and changes them back.
pub(super) fn on<T>(set: Option<&[u64]>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(set) = set else {
        return work();
    };
    let before = sys::affinity().map_err(|e| Error::io("read the CPU affinity", e))?;
    place(set)?;
    let done = work();
    place(&before)?;
    done
}

/// Sets this thread's processors.
pub(super) fn place(set: &[u64]) -> Result<()> {
    sys::set_affinity(set).map_err(|e| {
        Error::io(
            format!("set the CPU affinity to {set:x?} (are there these CPUs?)"),
            e,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_sets_of_bits() {
        assert_eq!(processors("0-3,7").unwrap(), [0x8f]);
        assert_eq!(processors("64").unwrap(), [0, 1]);
        for wrong in ["", "a", "3-1", "9000", "1,,2"] {
            assert!(processors(wrong).is_err(), "{wrong}");
        }
    }
}
