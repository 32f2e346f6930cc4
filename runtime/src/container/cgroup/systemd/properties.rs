//! What systemd is told of a unit (org.freedesktop.systemd1(5), systemd.resource-control(5)). Pure.
//!
//! The limits are those that are written to the cgroup's files, one by one: systemd writes its own knowledge to the same files again
//! (`daemon-reload`, another property that is set), and must write the same.

use super::Unit;
use crate::{Error, Result, container::cgroup::resources::Limit};
use std::collections::HashMap;
use zbus::Variant;

/// Annotations with this prefix are properties: `org.systemd.property.TimeoutStopUSec: uint64 60000000`.
const ANNOTATION: &str = "org.systemd.property.";

/// Name and value.
pub(super) type Property = (String, Variant<'static>);

fn property(name: &str, value: impl Into<Variant<'static>>) -> Property {
    (name.to_owned(), value.into())
}

/// Those of a new unit with nothing but this process in it. A slice takes no processes, and is not delegated.
pub(super) fn of_unit(unit: &Unit, description: &str, pid: Option<u32>) -> Vec<Property> {
    let mut all = vec![
        property("Description", description.to_owned()),
        property("DefaultDependencies", false),
        property("CPUAccounting", true),
        property("MemoryAccounting", true),
        property("TasksAccounting", true),
        property("IOAccounting", true),
    ];
    if let Some(slice) = unit.slice() {
        all.push(property("Slice", slice.to_owned()));
        all.push(property("Delegate", true));
    }
    if let Some(pid) = pid {
        all.push(property("PIDs", vec![pid]));
    }
    all
}

/// Those that say the same as these limits of cgroup v2. What systemd has no property for it leaves alone.
pub(super) fn of_limits(limits: &[Limit]) -> Vec<Property> {
    limits
        .iter()
        .filter_map(|limit| of_limit(&limit.file, limit.value.trim()))
        .flatten()
        .collect()
}

fn of_limit(file: &str, value: &str) -> Option<Vec<Property>> {
    let name = match file {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "io.weight" | "io.bfq.weight" => {
            let weight: u64 = value
                .strip_prefix("default ")
                .unwrap_or(value)
                .parse()
                .ok()?;
            let weight = match file {
                // systemd has one figure for both, on the scale of the former.
                "io.bfq.weight" => 1 + (weight.clamp(10, 1000) - 10) * 9999 / 990,
                _ => weight,
            };
            return Some(vec![property("IOWeight", weight)]);
        }
        "cpu.max" => return quota(value),
        "cpuset.cpus" => return Some(vec![property("AllowedCPUs", bits(value)?)]),
        "cpuset.mems" => return Some(vec![property("AllowedMemoryNodes", bits(value)?)]),
        _ => return None,
    };
    Some(vec![property(name, amount(value)?)])
}

/// `cpu.max`: microseconds in each period, and the period. systemd keeps the share of a CPU in steps of a hundredth: rounded up.
fn quota(value: &str) -> Option<Vec<Property>> {
    const SECOND: u64 = 1_000_000;
    const STEP: u64 = SECOND / 100;
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let period: u64 = period.parse().ok().filter(|&period| period > 0)?;
    let share = match amount(quota)? {
        u64::MAX => u64::MAX,
        quota => {
            let share = u128::from(quota) * u128::from(SECOND) / u128::from(period);
            u64::try_from(share)
                .ok()?
                .div_ceil(STEP)
                .checked_mul(STEP)?
        }
    };
    Some(vec![
        property("CPUQuotaPerSecUSec", share),
        property("CPUQuotaPeriodUSec", period),
    ])
}

/// A number of the kernel's: perhaps with a unit, or `max`, for which systemd has the largest there is.
fn amount(value: &str) -> Option<u64> {
    if value == "max" {
        return Some(u64::MAX);
    }
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match value.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A list like `0-3,6` as a mask, the lowest byte first.
fn bits(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel has.
    const MOST: usize = 65_536;
    let mut mask = Vec::new();
    for range in list.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if to >= MOST {
            return None;
        }
        for bit in from..=to {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            if let Some(byte) = mask.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    Some(mask)
}

/// Those that a spec's annotations name. Their values are in GVariant's text form, of which booleans, numbers, texts and lists of texts
/// are understood. As in other runtimes a time in seconds (`…Sec`) becomes one in microseconds (`…USec`).
pub(super) fn of_annotations(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut all: Vec<_> = annotations
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION)?, value)))
        .collect();
    all.sort();
    all.into_iter()
        .map(|(name, text)| {
            let bad = || {
                Error::Invalid(format!(
                    "the annotation {ANNOTATION}{name} has the value `{text}`: say true, false, a number (`uint64 5`), 'a text' or \
                     ['a', 'list']"
                ))
            };
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(bad());
            }
            match name.strip_suffix("Sec") {
                Some(stem) if !stem.ends_with('U') => {
                    let micros = seconds(text.trim()).ok_or_else(bad)?;
                    Ok(property(&format!("{stem}USec"), micros))
                }
                _ => Ok((name.to_owned(), variant(text.trim()).ok_or_else(bad)?)),
            }
        })
        .collect()
}

/// A number of seconds, in microseconds.
fn seconds(text: &str) -> Option<u64> {
    let number = text.rsplit(' ').next()?.parse::<f64>().ok()?;
    let micros = number * 1e6;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (micros.is_finite() && (0.0..1e18).contains(&micros)).then_some(micros as u64)
}

fn variant(text: &str) -> Option<Variant<'static>> {
    if let Some(list) = text.strip_prefix('[') {
        let list = list.strip_suffix(']')?.trim();
        let texts: Option<Vec<String>> = match list {
            "" => Some(Vec::new()),
            list => list.split(',').map(|item| quoted(item.trim())).collect(),
        };
        return Some(texts?.into());
    }
    if text.starts_with(['\'', '"']) {
        return Some(quoted(text)?.into());
    }
    match text {
        "true" => return Some(true.into()),
        "false" => return Some(false.into()),
        _ => {}
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("int32", text));
    let number = number.trim();
    Some(match kind {
        "byte" => number.parse::<u8>().ok()?.into(),
        "int16" => number.parse::<i16>().ok()?.into(),
        "uint16" => number.parse::<u16>().ok()?.into(),
        "int32" => number.parse::<i32>().ok()?.into(),
        "uint32" => number.parse::<u32>().ok()?.into(),
        "int64" => number.parse::<i64>().ok()?.into(),
        "uint64" => number.parse::<u64>().ok()?.into(),
        "double" => number.parse::<f64>().ok()?.into(),
        _ => return None,
    })
}

/// A text without its quotes. None has others, or an escape, in it.
fn quoted(text: &str) -> Option<String> {
    let inner = ['\'', '"']
        .iter()
        .find_map(|&q| text.strip_prefix(q)?.strip_suffix(q))?;
    (!inner.contains(['\'', '"', '\\'])).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroup::resources;
    use crate::container::cgroup::systemd::Manager;
    use std::path::Path;

    fn said(properties: &[Property]) -> Vec<String> {
        properties
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn a_scope_is_delegated_and_a_slice_takes_no_process() {
        let unit = |path| Unit::parse(Path::new(path), "id", Manager::System).unwrap();
        let scope = said(&of_unit(&unit("a.slice:x:y"), "about", Some(7)));
        for expected in [
            "Description=\"about\"",
            "Slice=\"a.slice\"",
            "Delegate=true",
            "PIDs=[uint32 7]",
            "DefaultDependencies=false",
        ] {
            assert!(scope.iter().any(|p| p == expected), "{expected}: {scope:?}");
        }
        let slice = said(&of_unit(&unit("a.slice:x:a-b.slice"), "about", None));
        assert!(!slice.iter().any(|p| p.contains("Delegate")), "{slice:?}");
    }

    #[test]
    fn systemd_is_told_the_limits_that_are_written() {
        let resources = serde_json::from_str(
            r#"{"memory":{"limit":1048576,"swap":-1,"reservation":4096},"cpu":{"shares":1024,"quota":12345,"period":100000,
                "cpus":"0-2,9","mems":"0"},"pids":{"limit":7},"blockIO":{"weight":500},
                "unified":{"memory.high":"1M","cgroup.max.depth":"3"}}"#,
        )
        .unwrap();
        assert_eq!(
            said(&of_limits(&resources::v2(&resources).unwrap())),
            [
                "MemorySwapMax=uint64 18446744073709551615",
                "MemoryMax=uint64 1048576",
                "MemoryLow=uint64 4096",
                "CPUWeight=uint64 39",
                "CPUQuotaPerSecUSec=uint64 130000",
                "CPUQuotaPeriodUSec=uint64 100000",
                "AllowedCPUs=[byte 0x07, 0x02]",
                "AllowedMemoryNodes=[byte 0x01]",
                "TasksMax=uint64 7",
                "IOWeight=uint64 4950",
                "MemoryHigh=uint64 1048576",
            ]
        );
        let unlimited =
            serde_json::from_str(r#"{"cpu":{"quota":-1},"pids":{"limit":-1}}"#).unwrap();
        assert_eq!(
            said(&of_limits(&resources::v2(&unlimited).unwrap())),
            [
                "CPUQuotaPerSecUSec=uint64 18446744073709551615",
                "CPUQuotaPeriodUSec=uint64 100000",
                "TasksMax=uint64 18446744073709551615",
            ]
        );
    }

    #[test]
    fn annotations_are_properties() {
        let of = |name: &str, value: &str| {
            let annotations = HashMap::from([
                (format!("{ANNOTATION}{name}"), value.to_owned()),
                ("other".to_owned(), "x".to_owned()),
            ]);
            of_annotations(&annotations).map(|all| said(&all).concat())
        };
        assert_eq!(
            of("TimeoutStopUSec", "uint64 5").unwrap(),
            "TimeoutStopUSec=uint64 5"
        );
        assert_eq!(
            of("TimeoutStopSec", "uint32 2").unwrap(),
            "TimeoutStopUSec=uint64 2000000"
        );
        assert_eq!(
            of("CollectMode", "'inactive-or-failed'").unwrap(),
            "CollectMode=\"inactive-or-failed\""
        );
        assert_eq!(
            of("After", "['a.service', 'b.service']").unwrap(),
            "After=[\"a.service\", \"b.service\"]"
        );
        assert_eq!(of("SendSIGHUP", "true").unwrap(), "SendSIGHUP=true");
        for bad in ["", "'open", "uint8 7", "['a', 7]", "uint64 -1"] {
            assert!(of("After", bad).is_err(), "{bad}");
        }
        assert!(of("Bad-Name", "true").is_err());
    }
}
