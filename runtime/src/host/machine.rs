//! This host as a node: what it has to give, and what is wrong with it.

use super::types::HostConfig;
use swarm_api::model::{Capacity, Cpus, Node};

/// This host.
pub(super) fn node(config: &HostConfig) -> Node {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    Node {
        name: config.node_name.clone(),
        version: config.version.clone(),
        capacity: Capacity {
            cpus: Cpus::whole(cpus),
            memory: memory(),
        },
        arch: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .into(),
        os: std::env::consts::OS.into(),
        ..Node::default()
    }
}

/// Bytes of memory, of meminfo(5).
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// The most open files that this process may let others have: more than its own limit needs a right that it may lack.
pub(super) fn open_files() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX)
}

/// What is wrong now.
pub(super) fn warnings(config: &HostConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Ok(disk) = rustix::fs::statvfs(&config.data_dir)
        && disk.f_bavail.saturating_mul(20) < disk.f_blocks
    {
        warnings.push(format!(
            "the disk of {} has less than 5 % of its space left",
            config.data_dir.display()
        ));
    }
    warnings
}

/// Bytes received and sent by the network namespace of `pid`, loopback aside (proc_pid_net(5)).
pub(super) fn network_bytes(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let (mut received, mut sent) = (0u64, 0u64);
    for line in text.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counter = |n| {
            let field = counters.split_whitespace().nth(n);
            field.and_then(|f| f.parse::<u64>().ok()).unwrap_or(0)
        };
        received = received.saturating_add(counter(0));
        sent = sent.saturating_add(counter(8));
    }
    (received, sent)
}
