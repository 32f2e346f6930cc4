//! The figures as a table, and their place in the file: between two marks, so that other sections stay.

use crate::sample::Samples;
use crate::{Figures, IDLE, images, runtime, shim};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// One part of the file.
#[derive(Debug)]
pub(crate) struct Section {
    name: &'static str,
    text: String,
}

impl Section {
    /// The cluster's figures, beside Docker Swarm's where there are any.
    pub(crate) fn cluster(ours: &Figures, theirs: Option<&Figures>) -> Self {
        let mut text = String::from(
            "| figure | target | swarmd p50 | swarmd max | n | Docker Swarm p50 | max | n | ratio of p50 |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        let mut row = |name: &str, target: &str, unit: &str, of: fn(&Figures) -> &Samples| {
            let (a, b) = (of(ours), theirs.map(of));
            let show = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.1} {unit}"));
            let ratio = match (a.median(), b.and_then(Samples::median)) {
                (Some(a), Some(b)) if a > 0.0 => format!("{:.1} ×", b / a),
                _ => "–".into(),
            };
            let _ = writeln!(
                text,
                "| {name} | {target} | {} | {} | {} | {} | {} | {} | {ratio} |",
                show(a.median()),
                show(a.max()),
                a.len(),
                show(b.and_then(Samples::median)),
                show(b.and_then(Samples::max)),
                b.map_or(0, Samples::len),
            );
        };
        let idle = IDLE.as_secs();
        row(
            "`run -d` acknowledged → process started",
            "p50 ≤ 60 ms, ≥ 10 × faster",
            "ms",
            |f| &f.ack_to_running,
        );
        row("`run -d` typed → process started", "", "ms", |f| {
            &f.typed_to_running
        });
        row(
            "host lost → its task runs elsewhere and DNS says so",
            "≤ 4000 ms",
            "ms",
            |f| &f.host_lost,
        );
        row(
            "leader lost → a write is accepted",
            "≤ 2000 ms",
            "ms",
            |f| &f.leader_lost,
        );
        row(
            "resident memory of an idle agent",
            "≤ 30 MiB",
            "MiB",
            |f| &f.memory,
        );
        row(
            &format!("CPU of an idle agent over {idle} s"),
            "≤ 0.5 %",
            "%",
            |f| &f.cpu,
        );
        row(
            &format!("bytes written to disk by an idle agent in {idle} s"),
            "0",
            "B",
            |f| &f.written,
        );
        Self {
            name: "cluster",
            text,
        }
    }

    /// The runtimes' figures, beside the floor.
    pub(crate) fn runtime(figures: &runtime::Figures) -> Self {
        let mut text = format!(
            "| runtime | version | p50 | p90 | n | × floor | {} at a time, p50 |\n|---|---|---|---|---|---|---|\n",
            runtime::AT_ONCE
        );
        let show =
            |v: Option<f64>, unit: &str| v.map_or("–".into(), |v| format!("{v:.2} {unit}"));
        let floor = figures.floor();
        for figure in figures.runtimes.iter().chain(&figures.floors) {
            let ratio = match (figure.alone.median(), floor) {
                (Some(a), Some(floor)) if floor > 0.0 => format!("{:.2}", a / floor),
                _ => "–".into(),
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {ratio} | {} |",
                figure.name,
                figure.version,
                show(figure.alone.median(), "ms"),
                show(figure.alone.quantile(0.9), "ms"),
                figure.alone.len(),
                show(figure.together.median(), "ms"),
            );
        }
        for missing in &figures.missing {
            let _ = writeln!(text, "\nNot measured: {missing}");
        }
        Self {
            name: "runtime",
            text,
        }
    }

    /// How fast images come.
    pub(crate) fn images(figures: &images::Figures) -> Self {
        let mut text = format!(
            "The image: {} MB in {} layers, {} MB as the registry has it.\n\n\
             | engine | version | pull and unpack, p50 | max | n | × swarmd |\n|---|---|---|---|---|---|\n",
            images::SIZE / 1_000_000,
            images::LAYERS,
            figures.compressed / 1_000_000
        );
        let show =
            |v: Option<f64>, unit: &str| v.map_or("–".into(), |v| format!("{v:.0} {unit}"));
        let ratio = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) if b > 0.0 => format!("{:.2}", a / b),
            _ => "–".into(),
        };
        let ours = figures.engines.first().and_then(|e| e.pull.median());
        for engine in &figures.engines {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                engine.name,
                engine.version,
                show(engine.pull.median(), "ms"),
                show(engine.pull.max(), "ms"),
                engine.pull.len(),
                ratio(engine.pull.median(), ours),
            );
        }
        let _ = write!(
            text,
            "\n| the registry's link | one node, p50 | {} nodes at once, p50 | n | ratio (target ≤ 1.5) | each blob given (target 1) |\n\
             |---|---|---|---|---|---|\n",
            images::NODES
        );
        for nodes in &figures.nodes {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} × |",
                nodes.link,
                show(nodes.one.median(), "ms"),
                show(nodes.all.median(), "ms"),
                nodes.all.len(),
                ratio(nodes.all.median(), nodes.one.median()),
                nodes.fetched,
            );
        }
        let _ = writeln!(
            text,
            "\nHighest resident memory of an agent during a pull (target ≤ 64 MiB): {} alone, {} among {}.",
            show(figures.memory.max(), "MiB"),
            show(figures.memory_among.max(), "MiB"),
            images::NODES
        );
        for missing in &figures.missing {
            let _ = writeln!(text, "\nNot measured: {missing}");
        }
        Self {
            name: "images",
            text,
        }
    }

    /// What a container at rest costs.
    pub(crate) fn shim(figures: &shim::Figures) -> Self {
        let mut text = String::from("| figure | target | p50 | max | n |\n|---|---|---|---|---|\n");
        let rows = [
            (
                "proportional memory (PSS) of a shim",
                "",
                &figures.pss,
                0,
                "KiB",
            ),
            ("of it, its own alone", "", &figures.private, 0, "KiB"),
            (
                "most that was ever resident (RSS) of a shim",
                "",
                &figures.peak,
                0,
                "KiB",
            ),
            (
                "stats of one container each second, of one core",
                "≤ 0.1 %",
                &figures.stats,
                3,
                "%",
            ),
        ];
        for (name, target, samples, digits, unit) in rows {
            let show = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.digits$} {unit}"));
            let (middle, most) = (show(samples.median()), show(samples.max()));
            let _ = writeln!(
                text,
                "| {name} | {target} | {middle} | {most} | {} |",
                samples.len()
            );
        }
        Self { name: "shim", text }
    }

    /// The section's text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Puts it into `file` in place of what stands between its marks, or at the end.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let old = match std::fs::read_to_string(file) {
            Ok(old) => old,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", file.display())),
        };
        let new = replace(&old, self.name, &self.text);
        std::fs::write(file, new).with_context(|| format!("cannot write {}", file.display()))
    }
}

fn replace(old: &str, name: &str, text: &str) -> String {
    let (begin, end) = (
        format!("<!-- begin {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let block = format!("{begin}\n{}\n{end}", text.trim_end());
    match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{block}{}", &old[..from], &old[to + end.len()..])
        }
        _ => format!("{}\n\n{block}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::replace;

    #[test]
    fn a_section_replaces_itself_and_nothing_else() {
        let first = replace("# Title\n", "a", "one");
        let second = replace(&format!("{first}\nafter\n"), "a", "two");
        assert_eq!(
            second,
            "# Title\n\n<!-- begin a -->\ntwo\n<!-- end a -->\n\nafter\n"
        );
    }
}
