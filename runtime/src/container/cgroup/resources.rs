//! The spec's resources as values for the kernel's files (OCI config-linux, "Control groups"). Pure; what a hierarchy cannot
//! limit is an error.

use super::{
    devices::{self, Kind, Rule},
    files,
};
use crate::{Error, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use std::{fs, path::Path};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
    /// The limit only says that there shall be no swap: where the kernel has none, so be it.
    no_swap: bool,
    /// File and value in its place where the kernel does not have the file.
    otherwise: Option<(String, String)>,
}

impl Limit {
    fn new(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Self {
        Self {
            controller,
            file: file.into(),
            value: value.to_string(),
            no_swap: false,
            otherwise: None,
        }
    }

    /// Whether it allows a single process.
    pub(super) fn leaves_one(&self) -> bool {
        self.file == "pids.max" && self.value == "1"
    }

    /// Sets it in a cgroup.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        match files::write(&directory.join(&self.file), &self.value) {
            Err(Error::NotFound(_)) if self.no_swap && !host_has_swap() => Ok(()),
            Err(Error::NotFound(_)) if self.otherwise.is_some() => {
                let (file, value) = self.otherwise.clone().unwrap_or_default();
                Self::new(self.controller, file, value).write(directory)
            }
            Err(Error::NotFound(_)) => Err(Error::Unsupported(format!(
                "cannot set {} of the container: this kernel does not have it",
                self.file
            ))),
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                Err(Error::Invalid(format!(
                    "the kernel does not accept `{}` for {}",
                    self.value, self.file
                )))
            }
            other => other,
        }
    }
}

fn host_has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// For the v2 hierarchy.
pub(super) fn v2(resources: &LinuxResources) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_v2(memory, &mut limits)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_v2(cpu, &mut limits)?;
    }
    if let Some(pids) = resources.pids() {
        limits.push(Limit::new("pids", "pids.max", count(pids.limit())));
    }
    if let Some(io) = resources.block_io() {
        io_v2(io, &mut limits)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", file_part(page.page_size())?);
        limits.push(Limit::new("hugetlb", file, count(page.limit())));
    }
    if let Some(network) = resources.network() {
        refuse(network.class_id().is_some(), "network.classID", "v2")?;
        refuse(
            network.priorities().as_ref().is_some_and(|p| !p.is_empty()),
            "network.priorities",
            "v2",
        )?;
    }
    rdma(resources, &mut limits)?;
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        let file = file_part(file)?;
        let controller = match file.split('.').next() {
            Some("memory") => "memory",
            Some("cpu") => "cpu",
            Some("cpuset") => "cpuset",
            Some("pids") => "pids",
            Some("io") => "io",
            Some("hugetlb") => "hugetlb",
            Some("rdma") => "rdma",
            Some("misc") => "misc",
            Some("cgroup") => "cgroup",
            _ => {
                return Err(Error::Invalid(format!(
                    "resources.unified: there is no cgroup v2 file {file}"
                )));
            }
        };
        limits.push(Limit::new(controller, file, value));
    }
    Ok(limits)
}

/// For the v1 hierarchies, but for the devices.
pub(super) fn v1(resources: &LinuxResources) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_v1(memory, &mut limits)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_v1(cpu, &mut limits);
    }
    if let Some(pids) = resources.pids() {
        limits.push(Limit::new("pids", "pids.max", count(pids.limit())));
    }
    if let Some(io) = resources.block_io() {
        io_v1(io, &mut limits)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", file_part(page.page_size())?);
        limits.push(Limit::new("hugetlb", file, page.limit()));
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            limits.push(Limit::new("net_cls", "net_cls.classid", class));
        }
        for entry in network.priorities().iter().flatten() {
            let value = format!("{} {}", entry.name(), entry.priority());
            limits.push(Limit::new("net_prio", "net_prio.ifpriomap", value));
        }
    }
    rdma(resources, &mut limits)?;
    refuse(
        resources.unified().as_ref().is_some_and(|u| !u.is_empty()),
        "unified",
        "v1",
    )?;
    Ok(limits)
}

fn memory_v2(memory: &LinuxMemory, limits: &mut Vec<Limit>) -> Result<()> {
    if let Some(swap) = memory.swap() {
        // The spec's figure is memory and swap together, v2 wants swap alone.
        let (value, none) = match (swap, memory.limit()) {
            (swap, _) if swap < 0 => ("max".to_owned(), false),
            (swap, Some(limit)) if limit >= 0 && swap >= limit => {
                ((swap - limit).to_string(), swap == limit)
            }
            (_, Some(limit)) if limit >= 0 => {
                return Err(Error::Invalid(
                    "memory.swap is memory and swap together: it cannot be below memory.limit"
                        .to_owned(),
                ));
            }
            _ => {
                return Err(Error::Invalid(
                    "memory.swap needs memory.limit beside it".to_owned(),
                ));
            }
        };
        let mut limit = Limit::new("memory", "memory.swap.max", value);
        limit.no_swap = none;
        limits.push(limit);
    }
    if let Some(limit) = memory.limit() {
        limits.push(Limit::new("memory", "memory.max", bytes_v2(limit)));
    }
    if let Some(low) = memory.reservation() {
        limits.push(Limit::new("memory", "memory.low", bytes_v2(low)));
    }
    refuse(memory.kernel().is_some(), "memory.kernel", "v2")?;
    refuse(memory.kernel_tcp().is_some(), "memory.kernelTCP", "v2")?;
    refuse(memory.swappiness().is_some(), "memory.swappiness", "v2")?;
    refuse(
        memory.disable_oom_killer() == Some(true),
        "memory.disableOOMKiller",
        "v2",
    )
}

fn memory_v1(memory: &LinuxMemory, limits: &mut Vec<Limit>) -> Result<()> {
    if memory.use_hierarchy() == Some(true) {
        limits.push(Limit::new("memory", "memory.use_hierarchy", 1));
    }
    if let Some(limit) = memory.limit() {
        limits.push(Limit::new("memory", "memory.limit_in_bytes", limit.max(-1)));
    }
    // After the limit: the kernel wants memsw at or above it at every moment.
    if let Some(swap) = memory.swap() {
        if let Some(limit) = memory.limit()
            && limit >= 0
            && (0..limit).contains(&swap)
        {
            return Err(Error::Invalid(
                "memory.swap is memory and swap together: it cannot be below memory.limit"
                    .to_owned(),
            ));
        }
        let mut limit = Limit::new("memory", "memory.memsw.limit_in_bytes", swap.max(-1));
        limit.no_swap = memory.limit() == Some(swap);
        limits.push(limit);
    }
    if let Some(low) = memory.reservation() {
        limits.push(Limit::new(
            "memory",
            "memory.soft_limit_in_bytes",
            low.max(-1),
        ));
    }
    if let Some(kernel) = memory.kernel() {
        limits.push(Limit::new("memory", "memory.kmem.limit_in_bytes", kernel));
    }
    if let Some(tcp) = memory.kernel_tcp() {
        limits.push(Limit::new("memory", "memory.kmem.tcp.limit_in_bytes", tcp));
    }
    if let Some(swappiness) = memory.swappiness() {
        limits.push(Limit::new("memory", "memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        limits.push(Limit::new("memory", "memory.oom_control", 1));
    }
    Ok(())
}

fn cpu_v2(cpu: &LinuxCpu, limits: &mut Vec<Limit>) -> Result<()> {
    if let Some(idle) = cpu.idle() {
        limits.push(Limit::new("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        limits.push(Limit::new("cpu", "cpu.weight", weight(shares)));
    }
    if cpu.quota().is_some() || cpu.period().is_some() {
        let quota = cpu
            .quota()
            .filter(|&quota| quota > 0)
            .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let value = format!("{quota} {}", cpu.period().unwrap_or(100_000));
        limits.push(Limit::new("cpu", "cpu.max", value));
    }
    if let Some(burst) = cpu.burst() {
        limits.push(Limit::new("cpu", "cpu.max.burst", burst));
    }
    if let Some(cpus) = cpu.cpus() {
        limits.push(Limit::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems() {
        limits.push(Limit::new("cpuset", "cpuset.mems", mems));
    }
    refuse(
        cpu.realtime_runtime().is_some(),
        "cpu.realtimeRuntime",
        "v2",
    )?;
    refuse(cpu.realtime_period().is_some(), "cpu.realtimePeriod", "v2")
}

fn cpu_v1(cpu: &LinuxCpu, limits: &mut Vec<Limit>) {
    if let Some(idle) = cpu.idle() {
        limits.push(Limit::new("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        limits.push(Limit::new("cpu", "cpu.shares", shares));
    }
    if let Some(period) = cpu.period() {
        limits.push(Limit::new("cpu", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = cpu.quota() {
        limits.push(Limit::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(burst) = cpu.burst() {
        limits.push(Limit::new("cpu", "cpu.cfs_burst_us", burst));
    }
    if let Some(period) = cpu.realtime_period() {
        limits.push(Limit::new("cpu", "cpu.rt_period_us", period));
    }
    if let Some(runtime) = cpu.realtime_runtime() {
        limits.push(Limit::new("cpu", "cpu.rt_runtime_us", runtime));
    }
    if let Some(cpus) = cpu.cpus() {
        limits.push(Limit::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems() {
        limits.push(Limit::new("cpuset", "cpuset.mems", mems));
    }
}

type Throttles<'a> = [(&'static str, &'a Option<Vec<LinuxThrottleDevice>>); 4];

fn io_v2(io: &LinuxBlockIo, limits: &mut Vec<Limit>) -> Result<()> {
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        limits.push(io_weight("default", weight));
    }
    for device in io.weight_device().iter().flatten() {
        refuse(
            device.leaf_weight().is_some(),
            "blockIO.weightDevice.leafWeight",
            "v2",
        )?;
        if let Some(weight) = device.weight() {
            let device = format!("{}:{}", device.major(), device.minor());
            limits.push(io_weight(&device, weight));
        }
    }
    refuse(io.leaf_weight().is_some(), "blockIO.leafWeight", "v2")?;
    let throttles: Throttles<'_> = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            let value = format!(
                "{}:{} {key}={}",
                device.major(),
                device.minor(),
                device.rate()
            );
            limits.push(Limit::new("io", "io.max", value));
        }
    }
    Ok(())
}

/// The spec's weight (10 to 1000) for the BFQ scheduler, or for the kernel's cost model (1 to 10000) by the formula that other runtimes use.
fn io_weight(device: &str, weight: u16) -> Limit {
    let cost = 1 + (u32::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
    let mut limit = Limit::new("io", "io.bfq.weight", format!("{device} {weight}"));
    limit.otherwise = Some(("io.weight".to_owned(), format!("{device} {cost}")));
    limit
}

fn io_v1(io: &LinuxBlockIo, limits: &mut Vec<Limit>) -> Result<()> {
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        limits.push(Limit::new("blkio", "blkio.bfq.weight", weight));
    }
    for device in io.weight_device().iter().flatten() {
        refuse(
            device.leaf_weight().is_some(),
            "blockIO.weightDevice.leafWeight",
            "v1",
        )?;
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            limits.push(Limit::new("blkio", "blkio.bfq.weight_device", value));
        }
    }
    refuse(io.leaf_weight().is_some(), "blockIO.leafWeight", "v1")?;
    let throttles: Throttles<'_> = [
        (
            "blkio.throttle.read_bps_device",
            io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            limits.push(Limit::new("blkio", file, value));
        }
    }
    Ok(())
}

fn rdma(resources: &LinuxResources, limits: &mut Vec<Limit>) -> Result<()> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, limit) in devices {
        let mut value = file_part(name)?.to_owned();
        if let Some(handles) = limit.hca_handles() {
            value += &format!(" hca_handle={handles}");
        }
        if let Some(objects) = limit.hca_objects() {
            value += &format!(" hca_object={objects}");
        }
        limits.push(Limit::new("rdma", "rdma.max", value));
    }
    Ok(())
}

/// Device rules as the v1 controller takes them. A program of the v2 hierarchy does the same.
pub(super) fn devices_v1(rules: &[Rule]) -> Vec<Limit> {
    let mut limits = Vec::new();
    for rule in rules {
        let file = if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        if rule.is_about_all() {
            limits.push(Limit::new("devices", file, "a"));
            continue;
        }
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let access: String = [
            ('r', devices::READ),
            ('w', devices::WRITE),
            ('m', devices::MKNOD),
        ]
        .iter()
        .filter(|(_, bit)| rule.access & bit != 0)
        .map(|(letter, _)| letter)
        .collect();
        let kinds: &[char] = match rule.kind {
            None => &['b', 'c'],
            Some(Kind::Block) => &['b'],
            Some(Kind::Character) => &['c'],
        };
        for kind in kinds {
            let value = format!(
                "{kind} {}:{} {access}",
                number(rule.major),
                number(rule.minor)
            );
            limits.push(Limit::new("devices", file, value));
        }
    }
    limits
}

/// v1 shares (2 to 262144, usually 1024) as v2 weight (1 to 10000, usually 100), by the formula that other runtimes use.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn bytes_v2(bytes: i64) -> String {
    if bytes < 0 {
        "max".to_owned()
    } else {
        bytes.to_string()
    }
}

fn count(limit: i64) -> String {
    if limit <= 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

fn file_part(name: &str) -> Result<&str> {
    if name.is_empty() || name.contains(['/', '\n', ' ']) {
        Err(Error::Invalid(format!(
            "`{name}` cannot be part of a cgroup file's name"
        )))
    } else {
        Ok(name)
    }
}

fn refuse(asked: bool, what: &str, version: &str) -> Result<()> {
    if asked {
        Err(Error::Unsupported(format!(
            "resources.{what} does not exist on cgroup {version}"
        )))
    } else {
        Ok(())
    }
}
