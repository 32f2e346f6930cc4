//! `events`: what a container uses, again and again, and that it had too little memory. One line of JSON each, in runc's form.

use crate::{
    Global,
    args::{Arg, Args, Id, unknown},
    process::Status,
    report, stats,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::json;
use std::time::{Duration, Instant};
use swarm_runtime::{Error, Result, container::Cgroup};

/// `events`: until the container has ended, or once with `--stats`.
pub(crate) fn events(global: &Global, args: &mut Args) -> Result<()> {
    let mut id = Id::default();
    let mut once = false;
    let mut interval = Duration::from_secs(5);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Word(word) => id.take(&word)?,
            Arg::Option(name) if name == "stats" => once = args.switch(&name)?,
            Arg::Option(name) if name == "interval" => interval = duration(&args.text(&name)?)?,
            Arg::Option(name) => unknown("events", &name)?,
        }
    }
    let id = id.get("events")?;
    let (place, record, _) = global.store().read(&id)?;
    let gone = || Error::Conflict(format!("container not running: {id}"));
    let pidfd = Pid::from_raw(record.pid)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .ok_or_else(gone)?;
    if Status::of(&place, &record)? == Status::Stopped {
        return Err(gone());
    }
    let cgroup = record.cgroup()?;
    let mut kills = cgroup.oom_kills().unwrap_or(0);
    // Where the kernel does not tell, the count is looked at as often as the rest.
    let oom = cgroup.oom_events().ok();
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            print_stats(&id, &cgroup)?;
            next += interval;
        }
        if once {
            return Ok(());
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(oom.as_ref().map(|oom| PollFd::new(oom, PollFlags::IN)));
        let wait = Timespec::try_from(next.saturating_duration_since(Instant::now())).ok();
        rustix::io::retry_on_intr(|| poll(&mut fds, wait.as_ref()))
            .map_err(|e| Error::io("wait for the container", e))?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut now = cgroup.oom_kills().unwrap_or(kills);
        if let (Some(oom), Some(true)) = (&oom, ready.get(1)) {
            oom.take();
            for pause in oom.pauses() {
                if now > kills {
                    break;
                }
                std::thread::sleep(pause);
                now = cgroup.oom_kills().unwrap_or(kills);
            }
        }
        if now > kills {
            kills = now;
            report::print(&format!("{}\n", json!({"type": "oom", "id": id})))?;
        }
        if ready[0] {
            return Ok(());
        }
    }
}

fn print_stats(id: &str, cgroup: &Cgroup) -> Result<()> {
    let mut data = stats::document(&cgroup.figures()?);
    for (section, resource) in [("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")] {
        if let Some(pressure) = cgroup.pressure(resource)? {
            data[section]["psi"] = json!(pressure);
        }
    }
    let line = json!({"type": "stats", "id": id, "data": data});
    report::print(&format!("{line}\n"))
}

/// `5s`, `500ms`, `1m`, or seconds.
fn duration(text: &str) -> Result<Duration> {
    let (digits, unit) = text.split_at(
        text.find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len()),
    );
    let factor = match unit {
        "" | "s" => Some(1000),
        "ms" => Some(1),
        "m" => Some(60_000),
        _ => None,
    };
    match (digits.parse::<u64>(), factor) {
        (Ok(number), Some(factor)) if number > 0 => {
            Ok(Duration::from_millis(number.saturating_mul(factor)))
        }
        _ => Err(Error::Invalid(format!(
            "`{text}` is no time between two looks; say `5s`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2").unwrap(), Duration::from_secs(2));
        assert!(duration("0s").is_err());
        assert!(duration("5 days").is_err());
    }
}
