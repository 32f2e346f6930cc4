//! What agents take while there is nothing to do, as the kernel counts it (proc(5)).

use crate::{Figures, IDLE};
use anyhow::{Context, Result};
use std::time::Duration;

/// Clock ticks a second in `/proc/PID/stat`: fixed by the kernel's interface to user space.
const TICKS: f64 = 100.0;

/// What the agents had to do before is over after this.
const SETTLE: Duration = Duration::from_secs(20);

/// Watches the processes of each agent for [`IDLE`], after what they had to do is over.
pub(crate) fn watch(agents: &[Vec<i32>], figures: &mut Figures) -> Result<()> {
    std::thread::sleep(SETTLE);
    let before = agents
        .iter()
        .map(|pids| Usage::of(pids))
        .collect::<Result<Vec<_>>>()?;
    // The figure is what happens in this time: nothing is waited for.
    std::thread::sleep(IDLE);
    for (pids, before) in agents.iter().zip(before) {
        let after = Usage::of(pids)?;
        figures.memory.push(after.resident_kib / 1024.0);
        figures.cpu.push(after.share_since(&before, IDLE));
        figures.written.push(after.written - before.written);
    }
    Ok(())
}

pub(crate) struct Usage {
    ticks: f64,
    written: f64,
    resident_kib: f64,
}

impl Usage {
    /// The share of one core that was taken since then, percent.
    pub(crate) fn share_since(&self, before: &Self, time: Duration) -> f64 {
        (self.ticks - before.ticks) / TICKS / time.as_secs_f64() * 100.0
    }

    /// Of these processes together.
    pub(crate) fn of(pids: &[i32]) -> Result<Self> {
        let mut sum = Self {
            ticks: 0.0,
            written: 0.0,
            resident_kib: 0.0,
        };
        for pid in pids {
            let read = |file: &str| {
                std::fs::read_to_string(format!("/proc/{pid}/{file}"))
                    .with_context(|| format!("process {pid} is gone"))
            };
            // The fields follow the name in parentheses: utime and stime are the 14th and 15th of all.
            let stat = read("stat")?;
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            sum.ticks += fields
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|t| t.parse::<f64>().ok())
                .sum::<f64>();
            sum.written += field(&read("io")?, "write_bytes:")?;
            sum.resident_kib += field(&read("status")?, "VmRSS:")?;
        }
        Ok(sum)
    }
}

/// A number of a file of `/proc`.
pub(crate) fn field(text: &str, name: &str) -> Result<f64> {
    text.lines()
        .find_map(|l| {
            l.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("there is no {name} in {text}"))
}
