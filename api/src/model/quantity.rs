//! Quantities as people write them: `64m`, `1.5`, `10s`.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A share of processor time in billionths of one CPU.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Cpus(pub u64);

impl Cpus {
    /// `count` whole CPUs.
    #[must_use]
    pub fn whole(count: u64) -> Self {
        Self(count.saturating_mul(1_000_000_000))
    }
}

impl std::str::FromStr for Cpus {
    type Err = Error;

    /// Reads `2`, `0.5`, `1.25`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::Invalid(format!(
                "\"{text}\" is not a number of CPUs: write a decimal number above 0 such as 0.5 or 2"
            ))
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty())
            || !digits(whole)
            || !digits(fraction)
            || fraction.len() > 9
        {
            return Err(bad());
        }
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| bad())?
        };
        let fraction: u64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
        let nanos = whole
            .checked_mul(1_000_000_000)
            .and_then(|n| n.checked_add(fraction))
            .ok_or_else(bad)?;
        if nanos == 0 {
            Err(bad())
        } else {
            Ok(Self(nanos))
        }
    }
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Reads a size in bytes: a whole number with an optional suffix b, k, m, g or t (powers of 1024, as Docker's
/// `--memory` has them; `kb`, `KiB` and the like are accepted).
///
/// # Errors
/// [`Error::Invalid`] when it is not such a number, is 0, or does not fit 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let bad = |why: &str| {
        Error::Invalid(format!(
            "\"{text}\" is not a size: {why}; write a whole number above 0 with an optional unit b, k, m, g or t, such as 64m or 2g"
        ))
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    if number.is_empty() {
        return Err(bad("it does not start with a digit"));
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        other => return Err(bad(&format!("the unit \"{other}\" is unknown"))),
    };
    let number: u64 = number.parse().map_err(|_| bad("it is too large"))?;
    match number.checked_mul(1u64 << shift) {
        Some(0) => Err(bad("it is 0")),
        Some(bytes) => Ok(bytes),
        None => Err(bad("it is too large")),
    }
}

/// A size for people: `64 MiB`, `1.5 GiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths % 10 == 0 || unit == 0 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// Reads a duration: a whole number and one of ms, s, m, h, d; a bare number is seconds.
///
/// # Errors
/// [`Error::Invalid`] when it is not one.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || {
        Error::Invalid(format!(
            "\"{text}\" is not a duration: write a whole number and a unit ms, s, m, h or d, such as 10s or 2h"
        ))
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(milliseconds)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cpus_read_back_as_they_were_written(nanos in 1u64..u64::MAX / 2) {
            prop_assert_eq!(Cpus(nanos).to_string().parse::<Cpus>().unwrap(), Cpus(nanos));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,12}") {
            let _ = (parse_bytes(&text), parse_duration(&text), text.parse::<Cpus>());
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_bytes("64m").unwrap(), 64 << 20);
        assert_eq!(parse_bytes("2GiB").unwrap(), 2 << 30);
        assert_eq!(parse_bytes("100").unwrap(), 100);
        for bad in ["", "m", "64x", "-1", "1.5g", "0", "99999999999t"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(format_bytes(64 << 20), "64 MiB");
        assert_eq!(format_bytes(1536), "1.5 KiB");
    }
}
