//! What this host has to give, as the kernel says it.

use swarm_api::model::{Capacity, Cpus};

/// The processors that this process may run on (sched_getaffinity(2)), and the host's memory (`MemTotal` of
/// proc_meminfo(5)); 0 where the kernel does not say.
#[must_use]
pub fn capacity() -> Capacity {
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_memory(&text))
        .unwrap_or_default();
    Capacity {
        cpus: Cpus::whole(u64::from(cpus.max(1))),
        memory,
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       16303428 kB\nMemFree:        1 kB\n";
        assert_eq!(total_memory(text), Some(16_303_428 << 10));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn a_host_has_something_to_give() {
        let capacity = capacity();
        assert!(capacity.cpus >= Cpus::whole(1) && capacity.memory > 0);
    }
}
