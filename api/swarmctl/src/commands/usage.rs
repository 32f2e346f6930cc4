//! What takes up the disks, and how images were made: `df`, `image history`.

use crate::context::Context;
use crate::failure;
use crate::render::{ago, now, short};
use crate::table::table;
use anyhow::Result;
use swarm_api::Backend;
use swarm_api::model::{DiskUsage, HistoryEntry, ImageReference, Timestamp, format_bytes};

/// A command's most characters in a table.
const LONGEST: usize = 60;

/// `df`.
pub(crate) async fn df(context: &Context, verbose: bool) -> Result<i32> {
    let hosts = context.client().await?.disk_usage().await?;
    context.print(&hosts, |hosts| {
        if verbose {
            details(hosts, now())
        } else {
            summary(hosts)
        }
    })?;
    let mut code = 0;
    for host in &hosts {
        if let Some(why) = &host.error {
            failure::say(&format!("{}: {why}", host.node_name));
            code = 1;
        }
    }
    Ok(code)
}

/// `image history`.
pub(crate) async fn history(context: &Context, name: String, whole: bool) -> Result<()> {
    let entries = context.client().await?.image_history(name).await?;
    context.print(&entries, |entries| steps(entries, whole, now()))
}

fn answered(hosts: &[DiskUsage]) -> impl Iterator<Item = &DiskUsage> {
    hosts.iter().filter(|h| h.error.is_none())
}

fn summary(hosts: &[DiskUsage]) -> String {
    let row = |u: &DiskUsage| {
        let containers: u64 = u.tasks.iter().map(|t| t.writable).sum();
        let logs: u64 = u.tasks.iter().map(|t| t.log).sum();
        let volumes: u64 = u.volumes.iter().map(|v| v.size).sum();
        vec![
            u.node_name.clone(),
            u.images.len().to_string(),
            format_bytes(u.layers),
            format_bytes(u.reclaimable),
            u.tasks.len().to_string(),
            format_bytes(containers),
            format_bytes(logs),
            u.volumes.len().to_string(),
            format_bytes(volumes),
            format!(
                "{} of {}",
                format_bytes(u.disk_free),
                format_bytes(u.disk_total)
            ),
        ]
    };
    let header = [
        "NODE",
        "IMAGES",
        "LAYERS",
        "UNUSED",
        "CONTAINERS",
        "WRITTEN",
        "LOGS",
        "VOLUMES",
        "IN THEM",
        "FREE",
    ];
    table(&header, answered(hosts).map(row))
}

fn details(hosts: &[DiskUsage], now: Timestamp) -> String {
    let mut images = Vec::new();
    let mut tasks = Vec::new();
    let mut volumes = Vec::new();
    for host in answered(hosts) {
        let node = &host.node_name;
        images.extend(host.images.iter().map(|i| {
            vec![
                node.clone(),
                names(&i.names),
                short(&i.digest),
                format_bytes(i.shared),
                format_bytes(i.unique),
                i.tasks.to_string(),
                ago(i.used_at, now),
            ]
        }));
        tasks.extend(host.tasks.iter().map(|t| {
            vec![
                node.clone(),
                t.task.clone(),
                t.state.to_string(),
                format_bytes(t.writable),
                t.limit.map_or_else(|| "-".into(), format_bytes),
                format_bytes(t.log),
            ]
        }));
        volumes.extend(host.volumes.iter().map(|v| {
            vec![
                node.clone(),
                match &v.task {
                    Some(task) => format!("(of {task})"),
                    None => v.name.clone(),
                },
                format_bytes(v.size),
                v.tasks.to_string(),
            ]
        }));
    }
    let parts = [
        table(
            &[
                "NODE", "IMAGE", "DIGEST", "SHARED", "UNIQUE", "TASKS", "USED",
            ],
            images,
        ),
        table(&["NODE", "TASK", "STATE", "WRITTEN", "LIMIT", "LOG"], tasks),
        table(&["NODE", "VOLUME", "SIZE", "TASKS"], volumes),
    ];
    parts.join("\n")
}

/// Names by a digest are left out where the same is there without.
fn names(all: &[ImageReference]) -> String {
    let plain = |r: &&ImageReference| {
        r.digest().is_none()
            || !all
                .iter()
                .any(|o| o.digest().is_none() && (o.name(), o.tag()) == (r.name(), r.tag()))
    };
    let shown: Vec<String> = all.iter().filter(plain).map(ToString::to_string).collect();
    shown.join(", ")
}

fn steps(entries: &[HistoryEntry], whole: bool, now: Timestamp) -> String {
    let row = |e: &HistoryEntry| {
        let by = e
            .created_by
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let by = by.strip_prefix("/bin/sh -c #(nop) ").unwrap_or(&by).trim();
        vec![
            e.created_at.map_or_else(|| "-".into(), |t| ago(t, now)),
            if whole { by.to_owned() } else { cut(by) },
            if e.layer.is_some() {
                format_bytes(e.size)
            } else {
                "-".into()
            },
            match &e.layer {
                Some(layer) if whole => layer.clone(),
                Some(layer) => short(layer),
                None => "-".into(),
            },
            e.comment.clone(),
        ]
    };
    let header = ["CREATED", "BY", "SIZE", "LAYER", "COMMENT"];
    table(&header, entries.iter().map(row))
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let start: String = text.chars().take(LONGEST - 1).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_by_digest_is_shown_only_where_no_other_is() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let of = |texts: &[&str]| {
            let all: Vec<ImageReference> = texts.iter().map(|t| t.parse().unwrap()).collect();
            names(&all)
        };
        let pinned = format!("a.b/web:1@{digest}");
        assert_eq!(of(&["a.b/web:1", &pinned]), "a.b/web:1");
        assert_eq!(of(&[&pinned]), pinned);
        assert_eq!(of(&["a.b/web:2", &pinned]), format!("a.b/web:2, {pinned}"));
    }

    #[test]
    fn a_step_is_one_line() {
        let entry = HistoryEntry {
            created_by: format!("/bin/sh -c #(nop)  ADD\n\t{}", "x".repeat(100)),
            ..HistoryEntry::default()
        };
        let text = steps(std::slice::from_ref(&entry), false, Timestamp(0));
        assert!(
            text.contains("ADD x") && text.contains('…') && text.lines().count() == 2,
            "{text}"
        );
        assert!(!steps(&[entry], true, Timestamp(0)).contains('…'));
    }

    #[test]
    fn a_host_that_did_not_answer_is_not_in_the_table() {
        let hosts = [
            DiskUsage {
                node_name: "one".into(),
                layers: 5 << 20,
                ..DiskUsage::default()
            },
            DiskUsage {
                node_name: "two".into(),
                error: Some("it is down".into()),
                ..DiskUsage::default()
            },
        ];
        for text in [summary(&hosts), details(&hosts, Timestamp(0))] {
            assert!(!text.contains("two"), "{text}");
        }
        assert!(summary(&hosts).contains("one"));
    }
}
