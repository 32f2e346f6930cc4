//! All that the controllers of a cgroup count, for who asks for it by itself: many small files. What is looked at every second is
//! `CgroupStats`.
//!
//! It knows both versions' files (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/); it must not know where they are.

use super::files;
use super::v1::UNLIMITED;
use std::collections::BTreeMap;
use std::path::Path;

/// Where v1's clock ticks (`USER_HZ`) are a hundredth of a second on every architecture that is built for.
const TICK_NS: u64 = 10_000_000;

/// What the controllers count. What this kernel does not tell is none, or not listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Processors.
    pub cpu: Option<CpuFigures>,
    /// Memory.
    pub memory: Option<MemoryFigures>,
    /// Processes and threads.
    pub pids: Option<Amount>,
    /// Block devices.
    pub io: Vec<IoFigures>,
    /// Huge pages, by their size as the kernel writes it, such as `2MB`.
    pub hugetlb: BTreeMap<String, Amount>,
}

/// What was used of processors, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuFigures {
    /// All in all.
    pub total: u64,
    /// By the processes themselves.
    pub user: u64,
    /// By the kernel for them.
    pub system: u64,
    /// By processor, where that is told (v1).
    pub each: Vec<u64>,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// In how many of them the processes had to wait.
    pub throttled_periods: u64,
    /// For how long.
    pub throttled: u64,
}

/// What is used of memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryFigures {
    /// Memory, page cache included.
    pub all: Amount,
    /// Swap (v2), or memory and swap together (v1).
    pub swap: Option<Amount>,
    /// Memory of the kernel for the processes, where it is counted by itself (v1).
    pub kernel: Option<Amount>,
    /// Page cache.
    pub cache: u64,
    /// The kernel's own list: `memory.stat`.
    pub raw: BTreeMap<String, u64>,
}

/// How much is used of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Now.
    pub usage: u64,
    /// The limit; none if unlimited.
    pub limit: Option<u64>,
    /// The most that ever was, where that is told.
    pub max: Option<u64>,
    /// How often the limit was met.
    pub failures: u64,
}

/// What was read from one device and written to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoFigures {
    /// The device's numbers.
    pub device: (u32, u32),
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Requests.
    pub reads: u64,
    /// Requests.
    pub writes: u64,
}

/// Of a cgroup of v2.
pub(super) fn unified(group: &Path) -> Figures {
    let text = |file: &str| files::read(&group.join(file)).ok();
    let cpu = text("cpu.stat").map(|text| {
        let of = |key| files::value(&text, key).unwrap_or_default();
        CpuFigures {
            total: of("usage_usec") * 1000,
            user: of("user_usec") * 1000,
            system: of("system_usec") * 1000,
            each: Vec::new(),
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled: of("throttled_usec") * 1000,
        }
    });
    let amount = |name: &str| unified_amount(group, name);
    let memory = amount("memory").map(|all| {
        let raw = keyed(&text("memory.stat").unwrap_or_default());
        MemoryFigures {
            all,
            swap: amount("memory.swap"),
            kernel: None,
            cache: raw.get("file").copied().unwrap_or_default(),
            raw,
        }
    });
    Figures {
        cpu,
        memory,
        pids: amount("pids"),
        io: io_stat(&text("io.stat").unwrap_or_default()),
        hugetlb: hugetlb(group, ".current", unified_amount),
    }
}

fn unified_amount(group: &Path, name: &str) -> Option<Amount> {
    let number = |what: &str| files::number(&group.join(format!("{name}.{what}"))).ok();
    Some(Amount {
        usage: number("current")?,
        // `max` is no number.
        limit: number("max"),
        max: number("peak"),
        failures: files::keyed(&group.join(format!("{name}.events")), "max").unwrap_or_default(),
    })
}

/// Of the cgroups of v1; `group` is the one with a controller.
pub(super) fn legacy<'a>(group: impl Fn(&str) -> Option<&'a Path>) -> Figures {
    let read =
        |directory: &Path, file: &str| files::read(&directory.join(file)).unwrap_or_default();
    let cpu = group("cpuacct").and_then(|cpuacct| {
        let used = read(cpuacct, "cpuacct.stat");
        let used = |key| files::value(&used, key).unwrap_or_default();
        let quota = group("cpu").map(|cpu| read(cpu, "cpu.stat"));
        let quota = |key| files::value(quota.as_deref()?, key);
        let each = read(cpuacct, "cpuacct.usage_percpu");
        Some(CpuFigures {
            total: files::number(&cpuacct.join("cpuacct.usage")).ok()?,
            user: used("user") * TICK_NS,
            system: used("system") * TICK_NS,
            each: each.split_whitespace().flat_map(str::parse).collect(),
            periods: quota("nr_periods").unwrap_or_default(),
            throttled_periods: quota("nr_throttled").unwrap_or_default(),
            throttled: quota("throttled_time").unwrap_or_default(),
        })
    });
    let memory = group("memory").and_then(|memory| {
        let raw = keyed(&read(memory, "memory.stat"));
        Some(MemoryFigures {
            all: legacy_amount(memory, "memory")?,
            swap: legacy_amount(memory, "memory.memsw"),
            kernel: legacy_amount(memory, "memory.kmem"),
            cache: raw.get("total_cache").copied().unwrap_or_default(),
            raw,
        })
    });
    let pids = group("pids").and_then(|pids| unified_amount(pids, "pids"));
    let io = group("blkio").map(|blkio| {
        let of = |what: &str| {
            let all = read(blkio, &format!("blkio.throttle.{what}_recursive"));
            // Before 5.1 the ones with their children are not there.
            if all.is_empty() {
                read(blkio, &format!("blkio.throttle.{what}"))
            } else {
                all
            }
        };
        throttle(&of("io_service_bytes"), &of("io_serviced"))
    });
    let hugetlb = group("hugetlb").map(|group| hugetlb(group, ".usage_in_bytes", legacy_amount));
    Figures {
        cpu,
        memory,
        pids,
        io: io.unwrap_or_default(),
        hugetlb: hugetlb.unwrap_or_default(),
    }
}

fn legacy_amount(group: &Path, name: &str) -> Option<Amount> {
    let number = |what: &str| files::number(&group.join(format!("{name}.{what}"))).ok();
    Some(Amount {
        usage: number("usage_in_bytes")?,
        limit: number("limit_in_bytes").filter(|limit| *limit < UNLIMITED),
        max: number("max_usage_in_bytes"),
        failures: number("failcnt").unwrap_or_default(),
    })
}

/// Huge pages of each size that a cgroup has a file with this ending for.
fn hugetlb(
    group: &Path,
    ending: &str,
    amount: impl Fn(&Path, &str) -> Option<Amount>,
) -> BTreeMap<String, Amount> {
    let entries = std::fs::read_dir(group).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let sizes = names.filter_map(|name| {
        let name = name.strip_suffix(ending)?;
        let size = name.strip_prefix("hugetlb.")?;
        // `hugetlb.2MB.rsvd.current` counts what was only reserved.
        let counts = !size.contains('.');
        Some((size.to_owned(), counts.then(|| amount(group, name))??))
    });
    sizes.collect()
}

/// A text of `key number` lines.
fn keyed(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// `MAJOR:MINOR` at the beginning of a line, and the rest.
fn device(line: &str) -> Option<((u32, u32), &str)> {
    let (numbers, rest) = line.split_once(' ')?;
    let (major, minor) = numbers.split_once(':')?;
    Some(((major.parse().ok()?, minor.parse().ok()?), rest))
}

/// v2: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn io_stat(text: &str) -> Vec<IoFigures> {
    let lines = text.lines().filter_map(device);
    let figures = lines.map(|(device, rest)| {
        let mut figures = IoFigures {
            device,
            ..IoFigures::default()
        };
        for (key, value) in rest
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
        {
            let value = value.parse().unwrap_or_default();
            match key {
                "rbytes" => figures.read_bytes = value,
                "wbytes" => figures.written_bytes = value,
                "rios" => figures.reads = value,
                "wios" => figures.writes = value,
                _ => {}
            }
        }
        figures
    });
    figures.collect()
}

/// v1: `8:0 Read 1`, in one text for bytes and in one for requests.
fn throttle(bytes: &str, requests: &str) -> Vec<IoFigures> {
    let mut all: BTreeMap<(u32, u32), IoFigures> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (requests, false)] {
        for (device, rest) in text.lines().filter_map(device) {
            let figures = all.entry(device).or_default();
            figures.device = device;
            let Some((what, value)) = rest.split_once(' ') else {
                continue;
            };
            let value = value.trim().parse().unwrap_or_default();
            match (what, is_bytes) {
                ("Read", true) => figures.read_bytes = value,
                ("Write", true) => figures.written_bytes = value,
                ("Read", false) => figures.reads = value,
                ("Write", false) => figures.writes = value,
                _ => {}
            }
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    const DISK: IoFigures = IoFigures {
        device: (8, 16),
        read_bytes: 4096,
        written_bytes: 8192,
        reads: 1,
        writes: 2,
    };

    #[test]
    fn all_that_v2_counts_is_read() {
        let group = folder(&[
            (
                "cpu.stat",
                "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 4\n",
            ),
            ("memory.current", "100\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "200\n"),
            ("memory.events", "low 0\nmax 3\n"),
            ("memory.stat", "anon 60\nfile 40\n"),
            ("memory.swap.current", "1\n"),
            ("memory.swap.max", "10\n"),
            ("pids.current", "2\n"),
            ("pids.max", "32\n"),
            ("pids.events", "max 9\n"),
            (
                "io.stat",
                "8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
            ),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "4194304\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ]);
        let figures = unified(group.path());
        let cpu = figures.cpu.unwrap();
        assert_eq!((cpu.total, cpu.user, cpu.system), (5_000, 3_000, 2_000));
        assert_eq!(
            (cpu.periods, cpu.throttled_periods, cpu.throttled),
            (7, 1, 4_000)
        );
        let memory = figures.memory.unwrap();
        let amount = |usage, limit, max, failures| Amount {
            usage,
            limit,
            max,
            failures,
        };
        assert_eq!(memory.all, amount(100, None, Some(200), 3));
        assert_eq!(memory.swap, Some(amount(1, Some(10), None, 0)));
        assert_eq!((memory.cache, memory.raw["anon"]), (40, 60));
        assert_eq!(figures.pids, Some(amount(2, Some(32), None, 9)));
        assert_eq!(figures.io, [DISK]);
        assert_eq!(
            figures.hugetlb,
            BTreeMap::from([("2MB".to_owned(), amount(0, Some(4 << 20), None, 0))])
        );
    }

    #[test]
    fn all_that_v1_counts_is_read() {
        let group = folder(&[
            ("cpuacct.usage", "30000000\n"),
            ("cpuacct.usage_percpu", "10000000 20000000 \n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            (
                "cpu.stat",
                "nr_periods 7\nnr_throttled 1\nthrottled_time 4\n",
            ),
            ("memory.usage_in_bytes", "100\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.max_usage_in_bytes", "200\n"),
            ("memory.failcnt", "3\n"),
            ("memory.stat", "cache 1\ntotal_cache 40\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:16 Read 4096\n8:16 Write 8192\n8:16 Total 12288\nTotal 12288\n",
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "8:16 Read 1\n8:16 Write 2\nTotal 3\n",
            ),
            ("hugetlb.2MB.usage_in_bytes", "0\n"),
            ("hugetlb.2MB.limit_in_bytes", "4194304\n"),
        ]);
        let figures = legacy(|_| Some(group.path()));
        let cpu = figures.cpu.unwrap();
        assert_eq!(
            (cpu.total, cpu.user, cpu.system),
            (30_000_000, 20_000_000, 10_000_000)
        );
        assert_eq!(cpu.each, [10_000_000, 20_000_000]);
        assert_eq!(
            (cpu.periods, cpu.throttled_periods, cpu.throttled),
            (7, 1, 4)
        );
        let memory = figures.memory.unwrap();
        assert_eq!(
            (memory.all.usage, memory.all.limit, memory.all.failures),
            (100, None, 3)
        );
        assert_eq!(
            (memory.all.max, memory.cache, memory.swap),
            (Some(200), 40, None)
        );
        assert_eq!(figures.pids.unwrap().limit, None);
        assert_eq!(figures.io, [DISK]);
        assert_eq!(figures.hugetlb["2MB"].limit, Some(4 << 20));
    }

    #[test]
    fn what_a_kernel_does_not_tell_is_none() {
        let group = folder(&[]);
        assert_eq!(unified(group.path()), Figures::default());
        assert_eq!(legacy(|_| Some(group.path())), Figures::default());
        assert_eq!(legacy(|_| None), Figures::default());
    }
}
