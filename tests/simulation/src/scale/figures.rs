//! What was measured, as lines of a file that grows run by run, and as a table.

use anyhow::{Context, Result};
use std::path::Path;

/// One part of one run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Hosts.
    pub hosts: usize,
    /// Tasks.
    pub tasks: usize,
    /// Which part.
    pub part: String,
    /// How long it took, in seconds of virtual time.
    pub took: f64,
    /// What the leader's agent computed meanwhile, in seconds of processor time.
    pub leader_cpu: f64,
    /// What all agents computed meanwhile.
    pub all_cpu: f64,
    /// Datagrams (gossip) that the leader sent.
    pub datagrams: u64,
    /// Segments of streams that the leader sent.
    pub segments: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Datagrams of all hosts.
    pub all_datagrams: u64,
    /// Segments of all hosts.
    pub all_segments: u64,
    /// Bytes of all hosts.
    pub all_bytes: u64,
    /// How many entries the log grew by.
    pub entries: u64,
    /// Bytes of the leader's replica as a snapshot.
    pub encoded: usize,
    /// Bytes of such a replica on the heap.
    pub heap: usize,
    /// Bytes of memory of the whole simulation.
    pub resident: usize,
    /// Seconds of real time.
    pub real: f64,
}

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures(pub Vec<Row>);

const HEAD: &str = "hosts,tasks,part,took,leader_cpu,all_cpu,datagrams,segments,bytes,all_datagrams,all_segments,all_bytes,entries,encoded,heap,resident,real";

impl Figures {
    /// What a file has; nothing where there is none.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| path.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        anyhow::ensure!(lines.next() == Some(HEAD), "its first line is another");
        let rows = lines.map(|line| Row::parse(line).with_context(|| line.to_owned()));
        rows.collect::<Result<_>>().map(Self)
    }

    /// The same as lines.
    #[must_use]
    pub fn text(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(Row::line).collect();
        format!("{HEAD}\n{}\n", lines.join("\n"))
    }

    /// Takes rows in, in place of those of the same number of hosts.
    pub fn put(&mut self, rows: Vec<Row>) {
        self.0
            .retain(|old| rows.iter().all(|new| new.hosts != old.hosts));
        self.0.extend(rows);
        self.0.sort_by_key(|row| row.hosts);
    }
}

impl Row {
    fn line(&self) -> String {
        let Self {
            hosts,
            tasks,
            part,
            took,
            leader_cpu,
            all_cpu,
            datagrams,
            segments,
            bytes,
            all_datagrams,
            all_segments,
            all_bytes,
            entries,
            encoded,
            heap,
            resident,
            real,
        } = self;
        format!(
            "{hosts},{tasks},{part},{took:.3},{leader_cpu:.3},{all_cpu:.3},{datagrams},{segments},{bytes},\
             {all_datagrams},{all_segments},{all_bytes},{entries},{encoded},{heap},{resident},{real:.1}"
        )
    }

    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let field = |n: usize| fields.get(n).copied().context("it is too short");
        let whole = |n: usize| Ok::<u64, anyhow::Error>(field(n)?.parse()?);
        let size = |n: usize| Ok::<usize, anyhow::Error>(field(n)?.parse()?);
        let real = |n: usize| Ok::<f64, anyhow::Error>(field(n)?.parse()?);
        Ok(Self {
            hosts: size(0)?,
            tasks: size(1)?,
            part: field(2)?.to_owned(),
            took: real(3)?,
            leader_cpu: real(4)?,
            all_cpu: real(5)?,
            datagrams: whole(6)?,
            segments: whole(7)?,
            bytes: whole(8)?,
            all_datagrams: whole(9)?,
            all_segments: whole(10)?,
            all_bytes: whole(11)?,
            entries: whole(12)?,
            encoded: size(13)?,
            heap: size(14)?,
            resident: size(15)?,
            real: real(16)?,
        })
    }

    /// For people.
    #[must_use]
    pub fn title(&self) -> String {
        match self.part.as_str() {
            "join" => format!(
                "{} hosts join at once",
                self.hosts.saturating_sub(5).min(100)
            ),
            "idle" => "a minute at rest".into(),
            "deploy" => format!("{} tasks deployed", self.tasks),
            "rack" => format!("{} hosts lost at once", self.hosts.div_ceil(10)),
            "leader" => "the leader lost".into(),
            part => part.to_owned(),
        }
    }
}

/// A table in Markdown.
#[must_use]
pub fn table(figures: &Figures) -> String {
    let mut text = String::from(
        "| hosts | what | virtual time | leader: CPU | leader: share of the time | messages | sent | sent by all hosts, each | \
         replica as a snapshot | replica on the heap |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in &figures.0 {
        text += &format!(
            "| {} | {} | {:.2} s | {:.2} s | {:.0} % | {} | {} | {} | {} | {} |\n",
            row.hosts,
            row.title(),
            row.took,
            row.leader_cpu,
            100.0 * row.leader_cpu / row.took.max(0.001),
            row.datagrams + row.segments,
            bytes(row.bytes as f64),
            bytes(row.all_bytes as f64 / row.hosts.max(1) as f64),
            bytes(row.encoded as f64),
            bytes(row.heap as f64),
        );
    }
    text
}

/// A number of bytes for people.
#[must_use]
pub(super) fn bytes(count: f64) -> String {
    match count {
        c if c >= 1e9 => format!("{:.1} GB", c / 1e9),
        c if c >= 1e6 => format!("{:.1} MB", c / 1e6),
        c if c >= 1e3 => format!("{:.0} kB", c / 1e3),
        c => format!("{c:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_read_as_it_was_written_and_a_new_run_replaces_an_old_one() {
        let row = |hosts, part: &str, took| Row {
            hosts,
            part: part.into(),
            took,
            heap: 7,
            ..Row::default()
        };
        let mut figures = Figures(vec![row(3, "idle", 60.0), row(10, "idle", 60.0)]);
        figures.put(vec![row(3, "idle", 61.0), row(3, "deploy", 1.5)]);
        assert_eq!(figures.0.len(), 3);
        assert_eq!(figures.0[0].took, 61.0);
        assert_eq!(Figures::parse(&figures.text()).unwrap(), figures);
        assert!(Figures::parse("other\n").is_err());
        assert_eq!(table(&figures).lines().count(), 5);
    }
}
