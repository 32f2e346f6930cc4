//! Configuration files of images (OCI image-spec, config.md): made for what was made here, changed for what is made of
//! another image, and what they tell of their history. What is not understood is kept. Pure.

use crate::registry::Platform;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use swarm_api::model::{HealthCheck, HistoryEntry, ImageConfig, Timestamp};

/// How an image, or its newest layer, was made.
#[derive(Debug, Clone, Default)]
pub(super) struct Step<'a> {
    /// When; none for what is the same wherever and whenever it is made.
    pub(super) at: Option<Timestamp>,
    /// By which command.
    pub(super) by: &'a str,
    /// By whom.
    pub(super) author: &'a str,
    /// In whose words.
    pub(super) comment: &'a str,
}

/// The file of an image that has `layers` and nothing before them.
pub(super) fn make(config: &ImageConfig, layers: &[String], step: &Step<'_>) -> Vec<u8> {
    let platform = Platform::here();
    let mut file = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": [history_of(step, false)],
    });
    settle(&mut file, config, step);
    file.to_string().into_bytes()
}

/// The file of an image that is what `file` says with `layer` on top, where there is one, and `config` in place of its
/// configuration.
///
/// # Errors
/// [`Error::Invalid`] where `file` is no configuration file.
pub(super) fn change(
    file: &[u8],
    config: &ImageConfig,
    layer: Option<&str>,
    step: &Step<'_>,
) -> Result<Vec<u8>> {
    let bad = || Error::Invalid("it is no configuration of an image".into());
    let mut file: Value = serde_json::from_slice(file).map_err(|_| bad())?;
    let layers = file
        .pointer_mut("/rootfs/diff_ids")
        .and_then(Value::as_array_mut)
        .ok_or_else(bad)?;
    layers.extend(layer.map(Value::from));
    let root = file.as_object_mut().ok_or_else(bad)?;
    let history = root.entry("history").or_insert_with(|| json!([]));
    if !history.is_array() {
        *history = json!([]);
    }
    if let Some(history) = history.as_array_mut() {
        history.push(history_of(step, layer.is_none()));
    }
    // Of the container of another build.
    for old in ["container", "container_config", "id", "parent"] {
        root.remove(old);
    }
    settle(&mut file, config, step);
    Ok(file.to_string().into_bytes())
}

fn settle(file: &mut Value, config: &ImageConfig, step: &Step<'_>) {
    if let Some(at) = step.at {
        file["created"] = time(at).into();
    }
    if !step.author.is_empty() {
        file["author"] = step.author.into();
    }
    if !file["config"].is_object() {
        file["config"] = json!({});
    }
    if let Some(fields) = file["config"].as_object_mut() {
        write_config(fields, config);
    }
}

fn history_of(step: &Step<'_>, empty: bool) -> Value {
    let mut entry = Map::new();
    if let Some(at) = step.at {
        entry.insert("created".into(), time(at).into());
    }
    let texts = [
        ("created_by", step.by),
        ("author", step.author),
        ("comment", step.comment),
    ];
    for (key, text) in texts {
        if !text.is_empty() {
            entry.insert(key.into(), text.into());
        }
    }
    if empty {
        entry.insert("empty_layer".into(), true.into());
    }
    Value::Object(entry)
}

fn write_config(fields: &mut Map<String, Value>, c: &ImageConfig) {
    let set = |list: &[String]| {
        let entries = list.iter().map(|item| (item.clone(), json!({})));
        Value::Object(entries.collect())
    };
    let values = [
        ("User", json!(c.user), c.user.is_empty()),
        ("Env", json!(c.env), c.env.is_empty()),
        ("Entrypoint", json!(c.entrypoint), c.entrypoint.is_empty()),
        ("Cmd", json!(c.command), c.command.is_empty()),
        ("WorkingDir", json!(c.working_dir), c.working_dir.is_empty()),
        (
            "ExposedPorts",
            set(&c.exposed_ports),
            c.exposed_ports.is_empty(),
        ),
        ("Volumes", set(&c.volumes), c.volumes.is_empty()),
        ("Labels", json!(c.labels), c.labels.is_empty()),
        ("StopSignal", json!(c.stop_signal), c.stop_signal.is_none()),
        (
            "Healthcheck",
            c.health.as_ref().map(health).unwrap_or_default(),
            c.health.is_none(),
        ),
    ];
    for (key, value, absent) in values {
        if absent {
            fields.remove(key);
        } else {
            fields.insert(key.into(), value);
        }
    }
}

fn health(h: &HealthCheck) -> Value {
    let mut value = json!({"Test": h.test});
    let durations = [
        ("Interval", h.interval_ms),
        ("Timeout", h.timeout_ms),
        ("StartPeriod", h.start_period_ms),
        ("StartInterval", h.start_interval_ms),
    ];
    for (key, ms) in durations {
        if let Some(ms) = ms {
            value[key] = ms.saturating_mul(1_000_000).into();
        }
    }
    if let Some(retries) = h.retries {
        value["Retries"] = retries.into();
    }
    value
}

/// The steps in which an image was made, newest first. `sizes` are its layers' digests and bytes, lowest first.
pub(super) fn history(file: &[u8], sizes: &[(String, u64)]) -> Vec<HistoryEntry> {
    let file: Value = serde_json::from_slice(file).unwrap_or_default();
    let told = file["history"].as_array().cloned().unwrap_or_default();
    let mut layers = sizes.iter();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut steps: Vec<HistoryEntry> = Vec::new();
    for entry in &told {
        let layer = if entry["empty_layer"].as_bool() == Some(true) {
            None
        } else {
            layers.next()
        };
        steps.push(HistoryEntry {
            created_at: entry["created"].as_str().and_then(read_time),
            created_by: text(entry, "created_by"),
            comment: text(entry, "comment"),
            author: text(entry, "author"),
            layer: layer.map(|(digest, _)| digest.clone()),
            size: layer.map_or(0, |(_, size)| *size),
        });
    }
    // A history need not tell of all layers, or of any.
    steps.extend(layers.map(|(digest, size)| HistoryEntry {
        layer: Some(digest.clone()),
        size: *size,
        ..HistoryEntry::default()
    }));
    steps.reverse();
    steps
}

fn read_time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp)
}

fn time(at: Timestamp) -> String {
    let milliseconds = i64::try_from(at.0).unwrap_or_default();
    jiff::Timestamp::from_millisecond(milliseconds)
        .unwrap_or_default()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::read_config;

    fn layer(n: u8) -> String {
        format!("sha256:{}", data_encoding::HEXLOWER.encode(&[n; 32]))
    }

    fn config() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/a".into()],
            command: vec!["b".into()],
            env: vec!["C=d".into()],
            working_dir: "/w".into(),
            user: "u".into(),
            exposed_ports: vec!["80/tcp".into()],
            stop_signal: Some("SIGQUIT".into()),
            health: Some(HealthCheck {
                test: vec!["CMD".into(), "x".into()],
                interval_ms: Some(1500),
                retries: Some(4),
                ..HealthCheck::default()
            }),
            labels: [("l".into(), "m".into())].into(),
            volumes: vec!["/v".into()],
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let step = Step {
            at: Some(Timestamp(1_767_323_045_678)),
            by: "by",
            author: "who",
            comment: "why",
        };
        let file = read_config(&make(&config(), &[layer(1)], &step)).unwrap();
        assert_eq!(file.config, config());
        assert_eq!(file.diff_ids, [layer(1)]);
        assert_eq!(file.created.unwrap().as_millisecond(), 1_767_323_045_678);
        let bare = make(&ImageConfig::default(), &[layer(1)], &Step::default());
        let bare = read_config(&bare).unwrap();
        assert_eq!((bare.config, bare.created), (ImageConfig::default(), None));
    }

    #[test]
    fn a_change_keeps_what_it_does_not_understand() {
        let file = json!({
            "architecture": "amd64", "os": "linux", "os.version": "x", "container": "old",
            "config": {"OnBuild": ["RUN x"], "Cmd": ["old"], "Env": ["A=b"], "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": [layer(1)]},
        });
        let config = ImageConfig {
            command: vec!["new".into()],
            ..ImageConfig::default()
        };
        let step = Step {
            by: "change",
            ..Step::default()
        };
        let changed = change(file.to_string().as_bytes(), &config, Some(&layer(2)), &step).unwrap();
        let value: Value = serde_json::from_slice(&changed).unwrap();
        assert_eq!(
            value["config"],
            json!({"OnBuild": ["RUN x"], "Cmd": ["new"]})
        );
        assert_eq!(value["os.version"], "x");
        assert!(value.get("container").is_none());
        assert_eq!(value["rootfs"]["diff_ids"], json!([layer(1), layer(2)]));
        assert_eq!(value["history"], json!([{"created_by": "change"}]));
        assert!(change(b"{}", &config, None, &step).is_err());
    }

    #[test]
    fn a_history_tells_which_step_made_which_layer() {
        let file = json!({"history": [
            {"created": "2026-01-02T03:04:05.678Z", "created_by": "ADD"},
            {"created_by": "ENV", "empty_layer": true},
            {"created_by": "RUN", "comment": "c", "author": "a"},
        ]});
        let sizes = [(layer(1), 10), (layer(2), 20), (layer(3), 30)];
        let steps = history(file.to_string().as_bytes(), &sizes);
        let told: Vec<_> = steps
            .iter()
            .map(|s| (s.created_by.as_str(), s.size, s.layer.is_some()))
            .collect();
        assert_eq!(
            told,
            [
                ("", 30, true),
                ("RUN", 20, true),
                ("ENV", 0, false),
                ("ADD", 10, true)
            ]
        );
        assert_eq!(steps[3].created_at, Some(Timestamp(1_767_323_045_678)));
        assert_eq!(history(b"nonsense", &[]), []);
    }
}
