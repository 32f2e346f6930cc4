//! Whether a task fits a node, and if not, why, in words for people. It must not know how nodes are ranked.

use super::View;
use super::view::{Load, Request};
use swarm_api::model::{
    Availability, Constraint, Cpus, NetworkMode, Node, NodeHealth, NodeRole, Protocol, format_bytes,
};

/// The first thing that keeps `request` off a node; nothing if it fits.
pub(super) fn obstacle(view: &View<'_>, load: &Load<'_>, request: &Request<'_>) -> Option<String> {
    let node = load.node;
    match (node.health, node.availability) {
        (NodeHealth::Down, _) => return Some("is down".into()),
        (_, Availability::Drain) => return Some("is drained".into()),
        (_, Availability::Pause) => return Some("is paused".into()),
        (NodeHealth::Ready, Availability::Active) => {}
    }
    let unmet = (request.spec.constraints.iter()).find(|constraint| !constraint.accepts(node));
    if let Some(constraint) = unmet {
        return Some(unmet_text(node, constraint));
    }
    lack(load, request)
        .or_else(|| taken(view, load, request))
        .or_else(|| no_address(view, load, request))
}

fn lack(load: &Load<'_>, request: &Request<'_>) -> Option<String> {
    let (capacity, resources) = (load.node.capacity, request.spec.resources);
    if let Some(needs) = resources.memory {
        let free = capacity.memory.saturating_sub(load.memory);
        if needs > free {
            return Some(format!(
                "has {} of memory free of {}, needs {}",
                format_bytes(free),
                format_bytes(capacity.memory),
                format_bytes(needs)
            ));
        }
    }
    if let Some(needs) = resources.cpus {
        let free = Cpus(capacity.cpus.0.saturating_sub(load.cpus));
        if needs > free {
            return Some(format!(
                "has {free} CPUs free of {}, needs {needs}",
                capacity.cpus
            ));
        }
    }
    None
}

fn taken(view: &View<'_>, load: &Load<'_>, request: &Request<'_>) -> Option<String> {
    request.host_ports().find_map(|(number, protocol, shared)| {
        let owner = load.port_owner((number, protocol), request.service, shared)?;
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let owner = view.service_name(owner);
        Some(format!("port {number}/{protocol} is taken by {owner}"))
    })
}

fn no_address(view: &View<'_>, load: &Load<'_>, request: &Request<'_>) -> Option<String> {
    let NetworkMode::Cluster(name) = &request.spec.network else {
        return None;
    };
    (!view.has_address(name, load.node.id)).then(|| format!("network {name} has no free address"))
}

/// How `node` falls short of `constraint`.
fn unmet_text(node: &Node, constraint: &Constraint) -> String {
    let text = constraint.to_string();
    let (key, wanted, differs) = match text.split_once("!=") {
        Some((key, value)) => (key, value, true),
        None => text
            .split_once("==")
            .map_or((text.as_str(), "", false), |(key, value)| {
                (key, value, false)
            }),
    };
    let (what, has) = match key {
        "node.id" => ("id".to_owned(), Some(node.id.to_string())),
        "node.name" => ("name".into(), Some(node.name.clone())),
        "node.role" => {
            let role = match node.role {
                NodeRole::Manager => "manager",
                NodeRole::Worker => "worker",
            };
            ("role".into(), Some(role.into()))
        }
        "node.arch" => ("architecture".into(), Some(node.arch.clone())),
        "node.os" => ("operating system".into(), Some(node.os.clone())),
        key => {
            let label = key.strip_prefix("node.labels.").unwrap_or(key);
            (format!("label {label}"), node.labels.get(label).cloned())
        }
    };
    match has {
        Some(has) if differs => format!("{what} is \"{has}\", and must not be"),
        Some(has) => format!("{what} is \"{has}\", not \"{wanted}\""),
        None => format!("has no {what}, needs \"{wanted}\""),
    }
}
