//! What processes of a cgroup had to wait for (PSI, Documentation/accounting/psi.rst). Pure.

/// How long processes had to wait for one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Pressure {
    /// Some of them.
    pub some: Stall,
    /// All of them at the same time.
    pub full: Stall,
}

/// A share of time, and a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last 5 minutes.
    pub avg300: f64,
    /// All in all, microseconds.
    pub total: u64,
}

/// The text of a file such as `memory.pressure`.
pub(super) fn parse(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let share = value.parse().unwrap_or(0.0);
            match key {
                "avg10" => stall.avg10 = share,
                "avg60" => stall.avg60 = share,
                "avg300" => stall.avg300 = share,
                "total" => stall.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=1234\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=99\n";
        let pressure = parse(text);
        assert!((pressure.some.avg10 - 1.5).abs() < 1e-9);
        assert_eq!((pressure.some.total, pressure.full.total), (1234, 99));
        assert_eq!(parse(""), Pressure::default());
    }
}
