//! What `/proc` says of a container's processes, and what follows from it for the container's status.

use crate::store::{Place, Record};
use rustix::fs::{Mode, OFlags, open};
use swarm_runtime::{Error, Result};

/// A container's status, in the specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// What it is now.
    pub(crate) fn of(place: &Place, record: &Record) -> Result<Self> {
        match Stat::read(record.pid) {
            Some(stat) if stat.begun == record.begun && !stat.ended() => {}
            _ => return Ok(Self::Stopped),
        }
        if place.gate().is_ok_and(|gate| gate.exists()) {
            return Ok(Self::Created);
        }
        let frozen = record.cgroup().and_then(|cgroup| cgroup.is_frozen());
        Ok(if frozen.unwrap_or(false) {
            Self::Paused
        } else {
            Self::Running
        })
    }
}

/// A container's processes: those in its cgroup or, where it has none, those in its pid namespace.
pub(crate) fn pids(record: &Record) -> Result<Vec<i32>> {
    let mut pids = record.cgroup()?.pids()?;
    let runs = Stat::read(record.pid).is_some_and(|s| s.begun == record.begun && !s.ended());
    if record.cgroup.as_os_str().is_empty() && runs {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&record.pid.to_string());
        if own.is_none() || own == namespace("self") {
            return Ok(vec![record.pid]);
        }
        pids = std::fs::read_dir("/proc")
            .map_err(|e| Error::io("list /proc", e))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| namespace(name) == own)
            .filter_map(|name| name.parse().ok())
            .collect();
    }
    pids.sort_unstable();
    Ok(pids)
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    pub(crate) parent: i32,
    pub(crate) begun: u64,
}

impl Stat {
    /// Of a process, if there is one with this number.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        let path = format!("/proc/{pid}/stat");
        let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        // All of it is shorter than this, and comes at once.
        let mut text = [0; 1024];
        let length = rustix::io::read(file, &mut text).ok()?;
        parse(&String::from_utf8_lossy(text.get(..length)?))
    }

    fn ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn parse(text: &str) -> Option<Stat> {
    // The name stands in parentheses and may contain anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    Some(Stat {
        state: *fields.next()?.as_bytes().first()?,
        parent: fields.next()?.parse().ok()?,
        begun: fields.nth(17)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "42 (a) Z (b) S 7 1 1 0 -1 4 1 0 0 0 1 2 0 0 20 0 1 0 8991 1 1";
        assert_eq!(
            parse(text),
            Some(Stat {
                state: b'S',
                parent: 7,
                begun: 8991
            })
        );
        assert!(Stat::read(i32::try_from(std::process::id()).unwrap()).is_some());
    }
}
