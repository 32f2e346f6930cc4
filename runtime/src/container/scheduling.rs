//! The scheduler's view of a process (OCI config, "Scheduler" and "CPU affinity"). Must not know of cgroups.

use super::sys;
use crate::{Error, Result};
use oci_spec::runtime::{
    ExecCPUAffinity, LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Scheduler,
};

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
                .map(|text| numbers(text, "CPUs"))
                .transpose()
        };
        Ok(Self {
            initial: set(spec.and_then(|s| s.initial().as_ref()))?,
            last: set(spec.and_then(|s| s.cpu_affinity_final().as_ref()))?,
        })
    }
}

/// What `set_mempolicy(2)` is told: the mode with its flags, and the nodes as a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemoryPolicy {
    mode: u32,
    nodes: Vec<u64>,
}

impl MemoryPolicy {
    /// That of a spec.
    pub(super) fn new(spec: &LinuxMemoryPolicy) -> Result<Self> {
        use MemoryPolicyModeType as Mode;
        let nodes = match spec.nodes().as_deref().map(str::trim) {
            None | Some("") => Vec::new(),
            Some(list) => numbers(list, "memory nodes")?,
        };
        let (mode, wants_nodes) = match spec.mode() {
            Mode::MpolDefault => (0, Some(false)),
            // Without nodes it is the local one.
            Mode::MpolPreferred => (1, None),
            Mode::MpolBind => (2, Some(true)),
            Mode::MpolInterleave => (3, Some(true)),
            Mode::MpolLocal => (4, Some(false)),
            Mode::MpolPreferredMany => (5, Some(true)),
            Mode::MpolWeightedInterleave => (6, Some(true)),
        };
        if wants_nodes.is_some_and(|wants| wants == nodes.is_empty()) {
            return Err(Error::Invalid(format!(
                "linux.memoryPolicy: {} takes {} nodes",
                spec.mode(),
                if nodes.is_empty() { "a list of" } else { "no" }
            )));
        }
        let flags = spec.flags().iter().flatten().map(|flag| match flag {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        });
        Ok(Self {
            mode: flags.fold(mode, |mode: u32, flag: u32| mode | flag),
            nodes,
        })
    }

    /// Sets it for this thread and the program that it runs.
    pub(super) fn set(&self) -> Result<()> {
        sys::set_memory_policy(self.mode, &self.nodes).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOSYS) => Error::Unsupported(
                "linux.memoryPolicy: this kernel has no memory policies (CONFIG_NUMA)".to_owned(),
            ),
            _ => Error::io(
                format!(
                    "set the memory policy {self:x?} (does the host have these nodes, and do the flags go together?)"
                ),
                e,
            ),
        })
    }
}

/// A list like `0-3,7` as a set of bits.
fn numbers(list: &str, what: &str) -> Result<Vec<u64>> {
    // The kernel has at most 8192 processors, and fewer nodes.
    const MOST: usize = 8192;
    let wrong = || Error::Invalid(format!("`{list}` is not a list of {what} such as 0-3,7"));
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
        assert_eq!(numbers("0-3,7", "CPUs").unwrap(), [0x8f]);
        assert_eq!(numbers("64", "CPUs").unwrap(), [0, 1]);
        for wrong in ["", "a", "3-1", "9000", "1,,2"] {
            assert!(numbers(wrong, "CPUs").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_memory_policy_has_nodes_where_its_mode_takes_some() {
        let policy = |json: &str| MemoryPolicy::new(&serde_json::from_str(json).unwrap());
        let bind = r#"{"mode":"MPOL_BIND","nodes":"0,2","flags":["MPOL_F_STATIC_NODES"]}"#;
        assert_eq!(
            policy(bind).unwrap(),
            MemoryPolicy {
                mode: 2 | 1 << 15,
                nodes: vec![5]
            }
        );
        assert!(policy(r#"{"mode":"MPOL_PREFERRED"}"#).is_ok());
        for wrong in [
            r#"{"mode":"MPOL_BIND"}"#,
            r#"{"mode":"MPOL_DEFAULT","nodes":"0"}"#,
            r#"{"mode":"MPOL_INTERLEAVE","nodes":"x"}"#,
        ] {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
    }
}
