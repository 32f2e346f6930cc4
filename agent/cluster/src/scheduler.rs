//! Which node a task goes to: filters first, then spread.
//!
//! In: a [`View`] of the nodes and what is reserved on them, and a [`Request`]. Out: a node, or why there is none,
//! node by node. It must not know of replicas, restarts or time, and decides nothing of when a task is placed.

mod fit;
mod view;

pub use view::{Request, View};

use swarm_api::model::NodeId;

/// How many nodes are named in the reason that nothing fits.
const NAMED: usize = 16;

/// The node that `request` goes to: of those that fit, one on which its slot was not rejected again and again, with
/// the fewest tasks of its service, then the fewest tasks, then the least reserved, then the lowest id.
///
/// # Errors
/// Why no node fits, node by node, for people.
pub fn place(view: &View<'_>, request: &Request<'_>) -> Result<NodeId, String> {
    let rank = |load: &view::Load<'_>| {
        (
            request.rejected_on(load.node.id),
            load.tasks_of(request.service),
            load.tasks,
            load.reserved_share(),
            load.node.id,
        )
    };
    view.loads()
        .filter(|load| fit::obstacle(view, load, request).is_none())
        .min_by_key(|load| rank(load))
        .map(|load| load.node.id)
        .ok_or_else(|| explain(view, request))
}

fn explain(view: &View<'_>, request: &Request<'_>) -> String {
    let mut reasons: Vec<(&str, String)> = view
        .loads()
        .filter_map(|load| Some((load.node.name.as_str(), fit::obstacle(view, load, request)?)))
        .collect();
    if reasons.is_empty() {
        return "no node fits: the cluster has no nodes".into();
    }
    reasons.sort();
    let more = reasons.len().saturating_sub(NAMED);
    let mut parts: Vec<String> = reasons
        .into_iter()
        .take(NAMED)
        .map(|(name, why)| format!("{name}: {why}"))
        .collect();
    if more > 0 {
        parts.push(format!("and {more} more nodes"));
    }
    format!("no node fits: {}", parts.join("; "))
}

#[cfg(test)]
mod tests;
