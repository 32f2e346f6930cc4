//! The curves, as one SVG: both axes logarithmic, colours that can be read on light and on dark.

use super::figures::{Figures, Row, bytes};

const PARTS: [(&str, &str, &str); 5] = [
    ("join", "100 join at once", "#3b82f6"),
    ("idle", "a minute at rest", "#8b949e"),
    ("deploy", "all tasks deployed", "#10a37f"),
    ("rack", "a tenth lost", "#e0752d"),
    ("leader", "the leader lost", "#d0436b"),
];
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 38.0;
const COLUMNS: usize = 2;

struct Panel {
    title: &'static str,
    parts: &'static [&'static str],
    value: fn(&Row) -> f64,
    label: fn(f64) -> String,
}

const PANELS: [Panel; 6] = [
    Panel {
        title: "virtual time",
        parts: &["join", "deploy", "rack", "leader"],
        value: |row| row.took,
        label: seconds,
    },
    Panel {
        title: "leader: processor time",
        parts: &["join", "idle", "deploy", "rack", "leader"],
        value: |row| row.leader_cpu,
        label: seconds,
    },
    Panel {
        title: "leader: messages sent",
        parts: &["join", "idle", "deploy", "rack", "leader"],
        value: |row| (row.datagrams + row.segments) as f64,
        label: count,
    },
    Panel {
        title: "leader: bytes sent",
        parts: &["join", "idle", "deploy", "rack", "leader"],
        value: |row| row.bytes as f64,
        label: bytes,
    },
    Panel {
        title: "all hosts: bytes sent by each",
        parts: &["join", "idle", "deploy", "rack", "leader"],
        value: |row| row.all_bytes as f64 / row.hosts.max(1) as f64,
        label: bytes,
    },
    Panel {
        title: "replica on the heap, all tasks deployed",
        parts: &["deploy"],
        value: |row| row.heap as f64,
        label: bytes,
    },
];

/// The curves of all figures.
#[must_use]
pub fn draw(figures: &Figures) -> String {
    let rows = PANELS.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows as f64 + 30.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>A cluster as it grows</title>\n\
         <style>text {{ fill: #57606a }} .grid {{ stroke: #8b949e; stroke-opacity: 0.3 }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #adbac7 }} }}</style>\n"
    );
    for (number, panel) in PANELS.iter().enumerate() {
        let (x, y) = (
            (number % COLUMNS) as f64 * WIDTH,
            (number / COLUMNS) as f64 * HEIGHT,
        );
        svg += &format!(
            "<g transform=\"translate({x} {y})\">\n{}</g>\n",
            panel.draw(figures)
        );
    }
    let mut x = LEFT;
    for (_, name, colour) in PARTS {
        let y = height - 12.0;
        svg += &format!(
            "<circle cx=\"{x}\" cy=\"{}\" r=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"{y}\">{name}</text>\n",
            y - 4.0,
            x + 9.0
        );
        x += 130.0;
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self, figures: &Figures) -> String {
        let shown = |row: &&Row| self.parts.contains(&row.part.as_str()) && (self.value)(row) > 0.0;
        let rows: Vec<&Row> = figures.0.iter().filter(shown).collect();
        let title = self.title;
        let mut svg = format!("<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{title}</text>\n");
        let values = || rows.iter().map(|row| (self.value)(row));
        let (Some(least), Some(most)) = (values().reduce(f64::min), values().reduce(f64::max))
        else {
            return svg;
        };
        let (least, most) = (
            least.log10().floor(),
            most.log10().ceil().max(least.log10().floor() + 1.0),
        );
        let hosts = || figures.0.iter().map(|row| row.hosts as f64);
        let first = hosts().reduce(f64::min).unwrap_or(1.0).log10();
        let last = hosts()
            .reduce(f64::max)
            .unwrap_or(10.0)
            .log10()
            .max(first + 0.1);
        let x =
            |hosts: f64| LEFT + (hosts.log10() - first) / (last - first) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| {
            let share = (value.log10() - least) / (most - least);
            HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        };
        for power in least as i32..=most as i32 {
            let value = 10f64.powi(power);
            let at = y(value);
            svg += &format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                (self.label)(value),
            );
        }
        let mut sizes: Vec<usize> = figures.0.iter().map(|row| row.hosts).collect();
        sizes.dedup();
        for hosts in sizes {
            let at = x(hosts as f64);
            svg += &format!(
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{hosts}</text>\n",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0,
            );
        }
        for (part, name, colour) in PARTS.iter().filter(|(part, ..)| self.parts.contains(part)) {
            let of_part = rows.iter().filter(|row| row.part == *part);
            let points: Vec<(f64, f64, String)> = of_part
                .map(|row| {
                    let value = (self.value)(row);
                    let said = format!("{} hosts, {name}: {}", row.hosts, (self.label)(value));
                    (x(row.hosts as f64), y(value), said)
                })
                .collect();
            let line: Vec<String> = points
                .iter()
                .map(|(x, y, _)| format!("{x:.1},{y:.1}"))
                .collect();
            svg += &format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n",
                line.join(" ")
            );
            for (x, y, said) in points {
                svg += &format!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{said}</title></circle>\n"
                );
            }
        }
        svg
    }
}

fn seconds(value: f64) -> String {
    match value {
        v if v >= 1.0 => format!("{v:.0} s"),
        v => format!("{:.0} ms", v * 1e3),
    }
}

fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.0} M", v / 1e6),
        v if v >= 1e3 => format!("{:.0} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_curve_in_each_panel_that_shows_it() {
        let row = |hosts: usize, part: &str| Row {
            hosts,
            part: part.into(),
            took: 2.0 * hosts as f64,
            leader_cpu: 0.5,
            bytes: 1000,
            all_bytes: 5000,
            segments: 10,
            heap: 4096,
            ..Row::default()
        };
        let rows = [3, 10].map(|hosts| [row(hosts, "deploy"), row(hosts, "idle")]);
        let svg = draw(&Figures(rows.concat()));
        // Two points for each of the two parts where both are shown, and for one where only one is.
        assert_eq!(svg.matches("<title>3 hosts").count(), 4 * 2 + 2);
        assert_eq!(
            svg.matches("<circle cx").count(),
            2 * (4 * 2 + 2) + PARTS.len()
        );
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }
}
