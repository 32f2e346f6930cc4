//! What a node has to tell the cluster of its tasks: where its observations are ahead of the replica.
//! It must not know how and when a report is sent.

use crate::state::{State, is_gone};
use std::collections::BTreeMap;
use swarm_api::model::{Id, NodeHealth, NodeId, TaskState, TaskStatus};

/// The statuses of `node`'s tasks that the replica does not have yet. Nothing while the node is fenced: reports are
/// not heard then.
///
/// A task that was lost with the node and of which nothing is here any more is reported as ended once the node is let
/// in again, so that its address can be used again.
#[must_use]
pub fn diff(
    state: &State,
    node: NodeId,
    local: &[swarm_api::model::Task],
) -> Vec<(Id, TaskStatus)> {
    if (state.nodes.get(&node)).is_none_or(|n| n.health == NodeHealth::Down) {
        return Vec::new();
    }
    let here: BTreeMap<&Id, &TaskStatus> = local.iter().map(|t| (&t.id, &t.status)).collect();
    let own = state.tasks.of_node(node);
    own.filter_map(|task| {
        let known = &task.status;
        let status = match here.get(&task.id) {
            Some(observed) if !known.state.is_final() && is_news(known, observed) => {
                (*observed).clone()
            }
            None if known.state == TaskState::Lost && !is_gone(task) => TaskStatus {
                state: TaskState::Shutdown,
                message: "removed when its node was back".into(),
                ..TaskStatus::default()
            },
            _ => return None,
        };
        Some((task.id.clone(), status))
    })
    .collect()
}

/// Whether `observed` is later than `known` or says more. When it was observed is no news.
fn is_news(known: &TaskStatus, observed: &TaskStatus) -> bool {
    let differs = || {
        let observed_at = known.observed_at;
        *known
            != TaskStatus {
                observed_at,
                ..crate::state::short(observed)
            }
    };
    observed.state > known.state || (observed.state == known.state && differs())
}

#[cfg(test)]
mod tests;
