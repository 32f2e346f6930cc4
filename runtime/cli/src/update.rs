//! `update`: new limits for a container that is there.

use crate::{
    Global,
    args::{Arg, Args, Id, unknown},
    process::Status,
};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};
use std::{fs, io::Read};
use swarm_runtime::{Error, Result};

/// Options with the place of their value in the spec's resources.
const NUMBERS: [(&str, &str, &str); 10] = [
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("pids-limit", "pids", "limit"),
    ("blkio-weight", "blockIO", "weight"),
];

/// `update`.
pub(crate) fn update(global: &Global, args: &mut Args) -> Result<()> {
    let mut id = Id::default();
    let mut wanted = Map::new();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Word(word) => id.take(&word)?,
            Arg::Option(name) if name == "resources" || name == "r" => {
                let path = args.path(&name)?;
                let mut text = Vec::new();
                let read = if path.as_os_str() == "-" {
                    std::io::stdin().read_to_end(&mut text).map(drop)
                } else {
                    fs::read(&path).map(|read| text = read)
                };
                read.map_err(|e| Error::io(format!("read {}", path.display()), e))?;
                wanted = serde_json::from_slice(&text).map_err(|e| bad(&e))?;
                leave_out_zeros(&mut wanted);
            }
            Arg::Option(name) if name == "cpuset-cpus" || name == "cpuset-mems" => {
                let value = args.text(&name)?;
                set(
                    &mut wanted,
                    "cpu",
                    name.trim_start_matches("cpuset-"),
                    json!(value),
                );
            }
            Arg::Option(name) => match NUMBERS.iter().find(|(option, _, _)| *option == name) {
                Some((_, section, key)) => {
                    let value = amount(&args.text(&name)?)?;
                    set(&mut wanted, section, key, json!(value));
                }
                None => unknown("update", &name)?,
            },
        }
    }
    let id = id.get("update")?;
    let (place, record, _) = global.store().read(&id)?;
    if Status::of(&place, &record)? == Status::Stopped {
        return Err(Error::Conflict(format!("container not running: {id}")));
    }
    let resources: LinuxResources =
        serde_json::from_value(Value::Object(wanted)).map_err(|e| bad(&e))?;
    record.cgroup()?.update(&resources)
}

fn bad(error: &serde_json::Error) -> Error {
    Error::Invalid(format!("these are no resources of a spec: {error}"))
}

/// Engines write zero, or an empty text, for what shall stay as it is.
fn leave_out_zeros(resources: &mut Map<String, Value>) {
    for section in ["memory", "cpu", "blockIO", "pids"] {
        if let Some(Value::Object(section)) = resources.get_mut(section) {
            section.retain(|_, value| *value != json!(0) && *value != json!(""));
        }
    }
    let emptied = |value: &Value| *value == json!({});
    if resources.get("pids").is_some_and(emptied) {
        resources.remove("pids");
    }
}

fn set(resources: &mut Map<String, Value>, section: &str, key: &str, value: Value) {
    let section = resources
        .entry(section)
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(section) = section {
        section.insert(key.to_owned(), value);
    }
}

/// A number, of bytes perhaps: `512m`.
fn amount(text: &str) -> Result<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches("ib").trim_end_matches('b');
    let (digits, shift) = match digits.char_indices().next_back() {
        Some((at, 'k')) => (digits.get(..at), 10),
        Some((at, 'm')) => (digits.get(..at), 20),
        Some((at, 'g')) => (digits.get(..at), 30),
        _ => (Some(digits), 0),
    };
    digits
        .and_then(|digits| digits.parse::<i64>().ok())
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| Error::Invalid(format!("`{text}` is no amount")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_leaves_at_zero_stays_as_it_is() {
        let text =
            r#"{"memory":{"limit":4096,"swap":0},"cpu":{"period":0,"cpus":""},"pids":{"limit":0}}"#;
        let mut resources = serde_json::from_str(text).unwrap();
        leave_out_zeros(&mut resources);
        assert_eq!(
            Value::Object(resources),
            json!({"memory": {"limit": 4096}, "cpu": {}})
        );
    }

    #[test]
    fn amounts_may_have_a_unit() {
        assert_eq!(amount("-1").unwrap(), -1);
        assert_eq!(amount("4096").unwrap(), 4096);
        assert_eq!(amount("8M").unwrap(), 8 << 20);
        assert_eq!(amount("1GiB").unwrap(), 1 << 30);
        assert!(amount("much").is_err());
    }
}
