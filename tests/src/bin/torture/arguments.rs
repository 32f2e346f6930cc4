//! The command line.

use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;
use swarm_tests::histories::dice;

const USAGE: &str = "\
swarm-torture histories|soak [DURATION [HOSTS]]

DURATION is a number with s, m or h; 1h if not said. HOSTS are 3 if not said.
SEED=N in the environment repeats the choices of an earlier run.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Histories,
    Soak,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) what: What,
    pub(crate) time: Duration,
    pub(crate) hosts: usize,
    pub(crate) seed: u64,
}

impl Arguments {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let what = match words.next().as_deref() {
            Some("histories") => What::Histories,
            Some("soak") => What::Soak,
            _ => bail!("{USAGE}"),
        };
        let time = match words.next() {
            Some(text) => duration(&text)?,
            None => Duration::from_secs(3600),
        };
        let hosts = match words.next() {
            Some(text) => text
                .parse()
                .with_context(|| format!("{text:?} is not a number of hosts"))?,
            None => 3,
        };
        ensure!((1..=50).contains(&hosts), "1 to 50 hosts, not {hosts}");
        ensure!(words.next().is_none(), "{USAGE}");
        Ok(Self {
            what,
            time,
            hosts,
            seed: dice::seed(),
        })
    }
}

/// `90s`, `15m`, `1h`.
fn duration(text: &str) -> Result<Duration> {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let unit = units.iter().find(|(unit, _)| text.ends_with(*unit));
    let (number, seconds) = match unit {
        Some((unit, seconds)) => (text.trim_end_matches(*unit), *seconds),
        None => (text, 1),
    };
    let number: u64 = number.parse().ok().filter(|n| *n > 0).with_context(|| {
        format!("{text:?} is not a duration: write a number with s, m or h, such as 15m")
    })?;
    Ok(Duration::from_secs(number * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("15m").unwrap(), Duration::from_secs(900));
        assert_eq!(duration("2h").unwrap(), Duration::from_secs(7200));
        assert_eq!(duration("7").unwrap(), Duration::from_secs(7));
        for bad in ["", "m", "0s", "1d", "-3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
