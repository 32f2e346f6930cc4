//! What a container uses, in the form of runc's `events` (github.com/opencontainers/runc, types/events.go).

use serde_json::{Map, Value, json};
use swarm_runtime::container::{Amount, CpuFigures, Figures, IoFigures, MemoryFigures};

/// All of it. What the kernel does not tell is left out.
pub(crate) fn document(figures: &Figures) -> Value {
    let mut data = Map::new();
    let mut put = |section: &str, value: Option<Value>| {
        if let Some(value) = value {
            data.insert(section.to_owned(), value);
        }
    };
    put("cpu", figures.cpu.as_ref().map(cpu));
    put("memory", figures.memory.as_ref().map(memory));
    put("pids", figures.pids.map(pids));
    put("blkio", Some(blkio(&figures.io)));
    let sizes = figures.hugetlb.iter();
    let sizes: Map<String, Value> = sizes
        .map(|(size, used)| (size.clone(), amount(*used)))
        .collect();
    put("hugetlb", Some(Value::Object(sizes)));
    Value::Object(data)
}

fn cpu(cpu: &CpuFigures) -> Value {
    json!({
        "usage": {"total": cpu.total, "percpu": cpu.each, "user": cpu.user, "kernel": cpu.system},
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": cpu.throttled,
        },
    })
}

fn memory(memory: &MemoryFigures) -> Value {
    let mut document = json!({
        "cache": memory.cache,
        "usage": amount(memory.all),
        "raw": memory.raw,
    });
    for (name, used) in [("swap", memory.swap), ("kernel", memory.kernel)] {
        if let Some(used) = used {
            document[name] = amount(used);
        }
    }
    document
}

/// No limit is left out.
fn amount(amount: Amount) -> Value {
    let mut document = json!({"usage": amount.usage, "failcnt": amount.failures});
    for (name, value) in [("limit", amount.limit), ("max", amount.max)] {
        if let Some(value) = value {
            document[name] = value.into();
        }
    }
    document
}

fn pids(pids: Amount) -> Value {
    json!({"current": pids.usage, "limit": pids.limit.unwrap_or_default()})
}

fn blkio(devices: &[IoFigures]) -> Value {
    let entries = |read: fn(&IoFigures) -> u64, write: fn(&IoFigures) -> u64| -> Vec<Value> {
        let both = devices.iter().flat_map(|io| {
            let entry = |op: &str, value: u64| {
                json!({"major": io.device.0, "minor": io.device.1, "op": op, "value": value})
            };
            [entry("Read", read(io)), entry("Write", write(io))]
        });
        both.collect()
    };
    json!({
        "ioServiceBytesRecursive": entries(|io| io.read_bytes, |io| io.written_bytes),
        "ioServicedRecursive": entries(|io| io.reads, |io| io.writes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_have_runcs_form() {
        let figures = Figures {
            cpu: Some(CpuFigures {
                total: 5,
                each: vec![2, 3],
                throttled_periods: 1,
                ..CpuFigures::default()
            }),
            pids: Some(Amount {
                usage: 2,
                ..Amount::default()
            }),
            io: vec![IoFigures {
                device: (8, 16),
                written_bytes: 4096,
                ..IoFigures::default()
            }],
            ..Figures::default()
        };
        let document = document(&figures);
        assert_eq!(document["cpu"]["usage"]["percpu"], json!([2, 3]));
        assert_eq!(document["cpu"]["throttling"]["throttledPeriods"], 1);
        assert_eq!(document["pids"], json!({"current": 2, "limit": 0}));
        assert_eq!(
            document["blkio"]["ioServiceBytesRecursive"][1],
            json!({"major": 8, "minor": 16, "op": "Write", "value": 4096})
        );
        assert!(document.get("memory").is_none());
    }
}
