//! The model as people read it. Pure: times are handed in.

use crate::table::table;
use std::time::Duration;
use swarm_api::backend::{Pressure, Pressures, Stats};
use swarm_api::control::Token;
use swarm_api::model::{
    Availability, Endpoint, Event, EventAction, Image, Info, Lookup, Network, Node, NodeHealth,
    NodeRole, Object, RaftStatus, Scope, Service, Task, TaskState, Timestamp, format_bytes,
};

/// The time now.
pub(crate) fn now() -> Timestamp {
    Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default())
}

/// A duration in its largest unit: `5s`, `3m`, `2h`, `4d`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() > 0 => format!("{}ms", duration.as_millis()),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    if then.0 == 0 {
        return "-".into();
    }
    format!(
        "{} ago",
        duration(Duration::from_secs(now.since(then).as_secs()))
    )
}

/// A time with date, in UTC, to the millisecond.
pub(crate) fn time(time: Timestamp) -> String {
    match i64::try_from(time.0).map(jiff::Timestamp::from_millisecond) {
        Ok(Ok(time)) => format!("{time:.3}"),
        _ => time.0.to_string(),
    }
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

fn join<T: ToString>(values: &[T]) -> String {
    dash(
        values
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    )
}

pub(crate) fn short(text: &str) -> String {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    text.chars().take(12).collect()
}

pub(crate) fn role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Manager => "manager",
        NodeRole::Worker => "worker",
    }
}

/// Any list of objects of one kind.
pub(crate) fn objects(objects: &[Object], now: Timestamp) -> String {
    macro_rules! of {
        ($kind:ident) => {
            objects
                .iter()
                .filter_map(|o| match o {
                    Object::$kind(o) => Some(o),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
    }
    match objects.first() {
        None => String::new(),
        Some(Object::Node(_)) => nodes(&of!(Node)),
        Some(Object::Service(_)) => services(&of!(Service), now),
        Some(Object::Task(_)) => tasks(&of!(Task), now),
        Some(Object::Image(_)) => images(&of!(Image), now),
        Some(Object::Network(_)) => networks(&of!(Network), now),
    }
}

fn nodes(nodes: &[&Node]) -> String {
    table(
        &[
            "NAME",
            "HEALTH",
            "AVAILABILITY",
            "ROLE",
            "RAFT",
            "ADDRESS",
            "CPUS",
            "MEMORY",
            "VERSION",
            "LABELS",
        ],
        nodes.iter().map(|n| {
            vec![
                n.name.clone(),
                match n.health {
                    NodeHealth::Ready => "ready",
                    NodeHealth::Down => "down",
                }
                .into(),
                match n.availability {
                    Availability::Active => "active",
                    Availability::Pause => "pause",
                    Availability::Drain => "drain",
                }
                .into(),
                role(n.role).into(),
                match n.raft {
                    RaftStatus::Leader => "leader",
                    RaftStatus::Voter => "voter",
                    RaftStatus::Observer => "observer",
                }
                .into(),
                n.address.map_or_else(|| "-".into(), |a| a.to_string()),
                n.capacity.cpus.to_string(),
                format_bytes(n.capacity.memory),
                n.version.clone(),
                join(
                    &n.labels
                        .iter()
                        .map(|(k, v)| format!("{k}={v}"))
                        .collect::<Vec<_>>(),
                ),
            ]
        }),
    )
}

fn services(services: &[&Service], now: Timestamp) -> String {
    table(
        &["NAME", "RUNNING", "IMAGE", "PORTS", "RESTART", "CREATED"],
        services.iter().map(|s| {
            vec![
                s.spec.name.clone(),
                format!("{}/{}", s.running, s.spec.replicas),
                s.spec.task.image.clone(),
                join(&s.spec.ports),
                s.spec.restart.condition.to_string(),
                ago(s.created_at, now),
            ]
        }),
    )
}

fn tasks(tasks: &[&Task], now: Timestamp) -> String {
    table(
        &["NAME", "ID", "NODE", "STATE", "IMAGE", "ADDRESS", "MESSAGE"],
        tasks.iter().map(|t| {
            vec![
                t.name.clone(),
                t.id.to_string(),
                dash(t.node_name.clone()),
                state(t, now),
                t.spec.image.clone(),
                join(&t.addresses),
                t.status.message.clone(),
            ]
        }),
    )
}

/// `running 5m`, `running (healthy) 5m`, `failed (3) 2h ago`.
fn state(task: &Task, now: Timestamp) -> String {
    let status = &task.status;
    let mut text = status.state.to_string();
    if status.state == TaskState::Failed
        && let Some(exit) = status.exit
    {
        text.push_str(&format!(
            " ({}{})",
            exit.code,
            if exit.oom_killed {
                ", out of memory"
            } else {
                ""
            }
        ));
    }
    let health = (status.health.as_ref()).filter(|_| status.state == TaskState::Running);
    if let Some(health) = health {
        text.push_str(&format!(" ({})", health.state));
    }
    if status.state.is_final() {
        if let Some(then) = status.finished_at {
            text.push_str(&format!(" {}", ago(then, now)));
        }
    } else if let Some(then) = status.started_at {
        text.push_str(&format!(
            " {}",
            duration(Duration::from_secs(now.since(then).as_secs()))
        ));
    }
    text
}

/// The name by which a service has an image is not shown where the same one has its plain name as well.
fn images(images: &[&Image], now: Timestamp) -> String {
    let named = |image: &&&Image| {
        let r = &image.reference;
        let is_plain = |other: &&&Image| {
            let o = &other.reference;
            o.digest().is_none()
                && (o.name(), o.tag()) == (r.name(), r.tag())
                && other.digest == image.digest
        };
        r.digest().is_none() || !images.iter().any(|other| is_plain(&other))
    };
    table(
        &["NAME", "DIGEST", "LAYERS", "SIZE", "CREATED"],
        images.iter().filter(named).map(|i| {
            vec![
                i.reference.to_string(),
                short(&i.digest),
                i.layers.len().to_string(),
                format_bytes(i.size),
                if i.builtin {
                    "built in".into()
                } else {
                    ago(i.created_at, now)
                },
            ]
        }),
    )
}

fn networks(networks: &[&Network], now: Timestamp) -> String {
    table(
        &["NAME", "SUBNET", "VNI", "CREATED"],
        networks.iter().map(|n| {
            vec![
                n.name.clone(),
                n.subnet.to_string(),
                n.vni.to_string(),
                ago(n.created_at, now),
            ]
        }),
    )
}

/// What a look-up found.
pub(crate) fn lookup(lookup: &Lookup) -> String {
    if lookup.endpoints.is_empty() {
        return format!("no live task is behind {}", lookup.name);
    }
    table(
        &["TASK", "NODE", "ADDRESS", "PORTS"],
        lookup.endpoints.iter().map(|e: &Endpoint| {
            vec![
                e.task.clone(),
                e.node_name.clone(),
                join(&e.addresses),
                join(&e.ports),
            ]
        }),
    )
}

/// Tokens.
pub(crate) fn tokens(tokens: &[Token], now: Timestamp) -> String {
    table(
        &["ID", "ROLE", "EXPIRES"],
        tokens.iter().map(|t| {
            let left = format!("in {}", duration(t.expires_at.since(now)));
            vec![t.id.clone(), role(t.role).into(), left]
        }),
    )
}

/// One round of statistics. `before` is the round before it: the processor's share is the difference.
pub(crate) fn stats(before: &[Stats], round: &[Stats]) -> String {
    // Columns that are of use somewhere.
    let pressed = round.iter().any(|s| s.pressure.is_some());
    let killed = round.iter().any(|s| s.oom_kills > 0);
    let mut heads = vec![
        "TASK", "NODE", "CPU", "CPU TIME", "MEMORY", "LIMIT", "PIDS", "RECEIVED", "SENT",
    ];
    heads.extend(pressed.then_some("WAITS FOR CPU, MEMORY, IO"));
    heads.extend(killed.then_some("KILLED FOR MEMORY"));
    table(
        &heads,
        round.iter().map(|s| {
            let earlier = before.iter().find(|b| b.task_id == s.task_id);
            let mut row = vec![
                s.task.clone(),
                s.node_name.clone(),
                earlier
                    .and_then(|b| share(b, s))
                    .unwrap_or_else(|| "-".into()),
                format!("{:.1}s", s.cpu_ns as f64 / 1e9),
                format_bytes(s.memory),
                s.memory_limit.map_or_else(|| "-".into(), format_bytes),
                s.pids.to_string(),
                format_bytes(s.rx_bytes),
                format_bytes(s.tx_bytes),
            ];
            row.extend(pressed.then(|| s.pressure.map_or_else(|| "-".into(), pressure)));
            row.extend(killed.then(|| s.oom_kills.to_string()));
            row
        }),
    )
}

/// The shares of the last 10 seconds in which some process waited.
fn pressure(pressures: Pressures) -> String {
    let share = |p: Pressure| format!("{:.1} %", f64::from(p.some) / 100.0);
    let all = [pressures.cpu, pressures.memory, pressures.io].map(share);
    all.join(", ")
}

fn share(before: &Stats, after: &Stats) -> Option<String> {
    let wall = after.time.since(before.time).as_nanos();
    let used = u128::from(after.cpu_ns.saturating_sub(before.cpu_ns));
    (wall > 0).then(|| format!("{:.1} %", used as f64 * 100.0 / wall as f64))
}

/// One event, in one line.
pub(crate) fn event(event: &Event) -> String {
    let action = match event.action {
        EventAction::Created => "created",
        EventAction::Updated => "updated",
        EventAction::Removed => "removed",
    };
    let mut line = format!(
        "{} {} {} {action}",
        time(event.time),
        event.kind,
        event.name
    );
    for (key, value) in &event.attributes {
        line.push_str(&format!(" {key}={}", quoted(value)));
    }
    line
}

fn quoted(value: &str) -> String {
    if value.is_empty() || value.contains(char::is_whitespace) {
        format!("{value:?}")
    } else {
        value.into()
    }
}

/// Who answers, and how the cluster is. `nodes` is empty on a single host.
pub(crate) fn status(info: &Info, nodes: &[Node]) -> String {
    let name = |id| {
        nodes
            .iter()
            .find(|n| n.id == id)
            .map_or_else(|| id.to_string(), |n| n.name.clone())
    };
    let mut lines = vec![format!("Node:     {}", dash(info.node_name.clone()))];
    match (info.scope, &info.cluster) {
        (Scope::Cluster, Some(cluster)) => {
            let down = nodes
                .iter()
                .filter(|n| n.health == NodeHealth::Down)
                .count();
            lines.push(format!("Cluster:  {cluster}"));
            lines.push(format!("Nodes:    {} ({down} down)", nodes.len()));
            lines.push(format!(
                "Leader:   {}",
                info.leader.map_or_else(|| "none known".into(), name)
            ));
            let voters: Vec<String> = info.voters.iter().map(|v| name(*v)).collect();
            lines.push(format!("Voters:   {}", join(&voters)));
            lines.push(format!(
                "Log:      term {}, index {}",
                info.term, info.applied
            ));
        }
        _ => lines.push("Cluster:  none".into()),
    }
    lines.push(format!("Version:  {}", info.version));
    lines.extend(info.warnings.iter().map(|w| format!("Warning:  {w}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::{ExitStatus, Id, TaskSpec, TaskStatus};

    fn task() -> Task {
        Task {
            id: Id::from_u64(1),
            name: "web.1".into(),
            service: "web".into(),
            service_id: Id::from_u64(2),
            slot: 1,
            spec: TaskSpec {
                image: "whoami".into(),
                ..TaskSpec::default()
            },
            node: None,
            node_name: String::new(),
            addresses: Vec::new(),
            desired: swarm_api::model::DesiredState::Running,
            status: TaskStatus::default(),
            attempt: 0,
            not_before: Timestamp(0),
            created_at: Timestamp(0),
        }
    }

    #[test]
    fn a_pending_task_s_whole_message_is_in_the_table() {
        let mut task = task();
        task.status.message = "no node fits: host1: no label disk; host2: no label disk".into();
        let text = tasks(&[&task], Timestamp(0));
        assert!(text.contains(&task.status.message), "{text}");
    }

    #[test]
    fn a_state_says_since_when_and_how_it_ended() {
        let mut task = task();
        task.status.state = TaskState::Running;
        task.status.started_at = Some(Timestamp(1_000));
        assert_eq!(state(&task, Timestamp(301_000)), "running 5m");
        task.status.health = Some(swarm_api::model::Health::default());
        assert_eq!(state(&task, Timestamp(301_000)), "running (starting) 5m");
        task.status.state = TaskState::Failed;
        task.status.finished_at = Some(Timestamp(300_000));
        task.status.exit = Some(ExitStatus {
            code: 3,
            ..ExitStatus::default()
        });
        assert_eq!(state(&task, Timestamp(302_000)), "failed (3) 2s ago");
    }

    #[test]
    fn durations_are_in_their_largest_unit() {
        let all = [5, 65, 7_300, 200_000].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(all, ["5s", "1m", "2h", "2d"]);
        assert_eq!(duration(Duration::from_millis(20)), "20ms");
    }

    #[test]
    fn times_are_utc_to_the_millisecond() {
        assert_eq!(
            time(Timestamp(1_700_000_000_123)),
            "2023-11-14T22:13:20.123Z"
        );
    }

    #[test]
    fn pressure_and_kills_are_shown_where_there_are_any() {
        let quiet = Stats::default();
        let text = stats(&[], std::slice::from_ref(&quiet));
        assert!(
            !text.contains("WAITS") && !text.contains("KILLED"),
            "{text}"
        );
        let mut pressed = quiet.clone();
        pressed.oom_kills = 3;
        let memory = Pressure {
            some: 1250,
            full: 0,
        };
        pressed.pressure = Some(Pressures {
            memory,
            ..Pressures::default()
        });
        let text = stats(&[], &[quiet, pressed]);
        assert!(
            text.contains("0.0 %, 12.5 %, 0.0 %") && text.contains("KILLED"),
            "{text}"
        );
    }

    #[test]
    fn the_processor_s_share_is_of_one_processor() {
        let before = Stats {
            cpu_ns: 0,
            time: Timestamp(1_000),
            ..Stats::default()
        };
        let after = Stats {
            cpu_ns: 1_500_000_000,
            time: Timestamp(2_000),
            ..Stats::default()
        };
        assert_eq!(share(&before, &after).unwrap(), "150.0 %");
        assert_eq!(share(&after, &after), None);
    }
}
