//! What was measured, as a table, and whether it is flat. Pure.

use super::{Round, Sample};
use anyhow::{Result, bail};
use std::fmt;

/// The host, from 0, whose agent lives as long as the soak: what a young one takes grows for a while.
pub(super) const WITNESS: usize = 0;

/// All rounds.
#[derive(Debug, Clone)]
pub struct Table {
    warm_up: usize,
    rounds: Vec<Round>,
}

/// One thing that is measured: whose, what in which unit, the slack in any case, and how to read it.
struct Row {
    what: &'static str,
    slack: u64,
    /// How many hundredths more than before are still flat, where that is more than the slack.
    percent: u64,
    /// Whether it is compared only while the agent is the same.
    of_agent: bool,
    read: fn(&Sample) -> u64,
}

const ROWS: &[Row] = &[
    Row {
        what: "agent's own memory, KiB",
        slack: 8192,
        percent: 20,
        of_agent: true,
        read: |s| s.agent_memory,
    },
    Row {
        what: "agent's descriptors",
        slack: 16,
        percent: 0,
        of_agent: true,
        read: |s| s.agent_files,
    },
    Row {
        what: "agent's threads",
        slack: 8,
        percent: 0,
        of_agent: true,
        read: |s| s.agent_threads,
    },
    Row {
        what: "shims",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.shims as u64,
    },
    Row {
        what: "shims' own memory, KiB",
        slack: 1024,
        percent: 20,
        of_agent: false,
        read: |s| s.shim_memory,
    },
    Row {
        what: "shims' descriptors",
        slack: 8,
        percent: 0,
        of_agent: false,
        read: |s| s.shim_files,
    },
    Row {
        what: "containers' processes",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.containers as u64,
    },
    Row {
        what: "zombies",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.zombies as u64,
    },
    Row {
        what: "namespaces",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.namespaces as u64,
    },
    Row {
        what: "mounts",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.mounts as u64,
    },
    Row {
        what: "links",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.links as u64,
    },
    Row {
        what: "nftables objects",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.rules as u64,
    },
    Row {
        what: "control groups",
        slack: 0,
        percent: 0,
        of_agent: false,
        read: |s| s.groups as u64,
    },
    Row {
        what: "disk, KiB",
        slack: 16384,
        percent: 20,
        of_agent: false,
        read: |s| s.disk,
    },
    Row {
        what: "files",
        slack: 6,
        percent: 0,
        of_agent: false,
        read: |s| s.files,
    },
];

impl Table {
    /// An empty one; the first `warm_up` rounds are shown and not judged.
    #[must_use]
    pub fn new(warm_up: usize) -> Self {
        Self {
            warm_up,
            rounds: Vec::new(),
        }
    }

    /// One more round.
    pub fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    /// All of them.
    #[must_use]
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// Compares the last third of the rounds after the warm-up with the middle one: the middle value of the last one must
    /// not be more. What is counted has no slack; memory, descriptors and disk have some.
    ///
    /// # Errors
    /// Names everything that grows.
    pub fn judge(&self) -> Result<()> {
        let mut grows = Vec::new();
        for (state, hosts) in self.columns() {
            for (host, samples) in hosts.iter().enumerate() {
                for row in ROWS.iter().filter(|r| !r.of_agent || host == WITNESS) {
                    let Some((early, late)) = compare(row, samples) else {
                        continue;
                    };
                    let allowed = early + row.slack.max(early * row.percent / 100);
                    if late > allowed {
                        grows.push(format!(
                            "host{} {state}: {} from {early} to {late}",
                            host + 1,
                            row.what
                        ));
                    }
                }
            }
        }
        if !grows.is_empty() {
            bail!("these grow:\n  {}\n{self}", grows.join("\n  "));
        }
        Ok(())
    }

    /// For each state of load, for each host, the samples after the warm-up.
    fn columns(&self) -> [(&'static str, Vec<Vec<&Sample>>); 2] {
        let rounds = self.rounds.get(self.warm_up..).unwrap_or_default();
        let hosts = rounds.first().map_or(0, |r| r.empty.len());
        let of = |read: fn(&Round) -> &[Sample]| {
            (0..hosts)
                .map(|h| rounds.iter().map(|r| &read(r)[h]).collect())
                .collect()
        };
        [("empty", of(|r| &r.empty)), ("loaded", of(|r| &r.loaded))]
    }
}

/// The middle values of the middle and of the last third: caches fill for a while (the log's own up to its first
/// snapshot, after some thousand entries). Of few rounds, those of the two halves.
fn compare(row: &Row, samples: &[&Sample]) -> Option<(u64, u64)> {
    let first = samples.first()?;
    let same: Vec<u64> = samples
        .iter()
        .filter(|s| !row.of_agent || s.agent == first.agent)
        .map(|s| (row.read)(s))
        .collect();
    if same.len() < 2 {
        return None;
    }
    let third = same.len() / 3;
    let (early, late) = match third {
        0 | 1 => same.split_at(same.len() / 2),
        _ => same[third..].split_at(same.len() - 2 * third),
    };
    Some((middle(early), middle(late)))
}

fn middle(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) / 2]
}

/// A round in one line: the first host's.
pub(super) fn line(round: &Round) -> String {
    let (empty, loaded) = (&round.empty[0], &round.loaded[0]);
    format!(
        "empty {} KiB, {} descriptors, {} KiB of disk; loaded {} KiB, {} descriptors",
        empty.agent_memory, empty.agent_files, empty.disk, loaded.agent_memory, loaded.agent_files
    )
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.rounds.last();
        writeln!(
            f,
            "{} rounds in {} s, the first {} of them not judged; each value is the middle one of the middle third and of the last",
            self.rounds.len(),
            last.map_or(0, |r| r.at.as_secs()),
            self.warm_up
        )?;
        for (state, hosts) in self.columns() {
            write!(f, "{state:<25}")?;
            for host in 1..=hosts.len() {
                write!(f, " {:>18}", format!("host{host}"))?;
            }
            writeln!(f)?;
            for row in ROWS {
                write!(f, "  {:<23}", row.what)?;
                for samples in &hosts {
                    let cell = match compare(row, samples) {
                        Some((early, late)) => format!("{early} > {late}"),
                        None => "-".into(),
                    };
                    write!(f, " {cell:>18}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn table(values: impl IntoIterator<Item = Sample>) -> Table {
        let mut table = Table::new(1);
        for sample in values {
            table.add(Round {
                at: Duration::from_secs(1),
                empty: vec![sample.clone()],
                loaded: vec![sample],
            });
        }
        table
    }

    fn mounts(mounts: usize) -> Sample {
        Sample {
            mounts,
            ..Sample::default()
        }
    }

    #[test]
    fn a_leak_is_named_and_what_goes_up_and_down_is_none() {
        let why = table([2, 2, 2, 3, 3].map(mounts))
            .judge()
            .unwrap_err()
            .to_string();
        assert!(why.contains("host1 empty: mounts from 2 to 3"), "{why}");
        assert!(table([1, 2, 3, 2, 3].map(mounts)).judge().is_ok());
        // The warm-up is not looked at.
        assert!(table([0, 7, 7, 7, 7].map(mounts)).judge().is_ok());
    }

    #[test]
    fn memory_is_compared_within_one_life_of_an_agent_and_with_some_slack() {
        let memory = |agent, agent_memory| Sample {
            agent,
            agent_memory,
            ..Sample::default()
        };
        let grown = [(1, 9), (1, 40_000), (1, 41_000), (1, 60_000), (1, 61_000)];
        assert!(table(grown.map(|(a, m)| memory(a, m))).judge().is_err());
        let again = [(1, 9), (1, 40_000), (1, 41_000), (2, 60_000), (2, 61_000)];
        assert!(table(again.map(|(a, m)| memory(a, m))).judge().is_ok());
        let little = [(1, 9), (1, 40_000), (1, 41_000), (1, 45_000), (1, 46_000)];
        assert!(table(little.map(|(a, m)| memory(a, m))).judge().is_ok());
    }

    #[test]
    fn the_table_has_a_line_for_each_thing() {
        let text = table([1, 1, 1].map(mounts)).to_string();
        assert_eq!(text.lines().count(), 1 + 2 * (1 + ROWS.len()));
        assert!(text.contains("1 > 1"), "{text}");
    }
}
