//! Which node a task goes to: filters first, then spread.
//!
//! In: a [`View`] of the nodes and what is reserved on them, and a [`Request`]. Out: a node, or why there is none,
//! node by node. It must not know of replicas, restarts or time, and decides nothing of when a task is placed.

mod fit;
mod view;

pub(crate) use view::{Request, View};

use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::{NodeId, Task};

/// How many nodes are named in the reason that nothing fits.
const NAMED: usize = 16;
/// How often a slot must have been rejected by a node to avoid it.
const REJECTIONS: usize = 2;

/// The fewest tasks of the service; then the fewest tasks, a missing image counting as one more; then the least reserved;
/// then the image there already; then the lowest id.
///
/// So replicas spread whatever images are where, and a node that has the image is preferred while it has at most one
/// task more than the others.
type Rank = (usize, usize, u64, bool, NodeId);

/// Places tasks of one service one after the other. The nodes are looked through once, not for every task.
pub(crate) struct Placer<'v, 'a> {
    view: &'v mut View<'a>,
    request: Request<'a>,
    /// The nodes that have all layers of the image.
    having: Option<&'a BTreeSet<NodeId>>,
    /// How many tasks of the service a node has.
    tasks: BTreeMap<NodeId, usize>,
    /// Those that fit, best first.
    ranked: BTreeSet<Rank>,
    explained: Option<String>,
}

impl<'v, 'a> Placer<'v, 'a> {
    /// `tasks` are all of the service.
    pub(crate) fn new<'t>(
        view: &'v mut View<'a>,
        request: Request<'a>,
        tasks: impl IntoIterator<Item = &'t Task>,
    ) -> Self {
        let mut on: BTreeMap<NodeId, usize> = BTreeMap::new();
        for node in tasks.into_iter().filter_map(view::place_of) {
            *on.entry(node).or_default() += 1;
        }
        let mut placer = Self {
            having: view.nodes_with(&request.spec.image),
            view,
            request,
            tasks: on,
            ranked: BTreeSet::new(),
            explained: None,
        };
        let loads = placer.view.loads();
        placer.ranked = loads.filter_map(|load| placer.rank(load)).collect();
        placer
    }

    /// The node for one more task, which is reserved there. `rejections` are the nodes that rejected earlier tasks of
    /// its slot, once for each time: one that did so again and again is the last choice.
    ///
    /// # Errors
    /// Why no node fits, node by node, for people.
    pub(crate) fn place(&mut self, rejections: &[NodeId]) -> Result<NodeId, String> {
        loop {
            let Some(best) = self.best(rejections) else {
                let explain = || explain(self.view, &self.request);
                return Err(self.explained.get_or_insert_with(explain).clone());
            };
            self.ranked.remove(&best);
            let node = best.4;
            // Addresses are the network's: other nodes may have taken the last one.
            let rank = |placer: &Self| placer.rank(placer.view.load(node)?);
            if rank(self).is_none() {
                continue;
            }
            self.view.reserve(node, &self.request);
            *self.tasks.entry(node).or_default() += 1;
            self.ranked.extend(rank(self));
            return Ok(node);
        }
    }

    /// A node's rank, if one more task fits it.
    fn rank(&self, load: &view::Load<'_>) -> Option<Rank> {
        if fit::obstacle(self.view, load, &self.request).is_some() {
            return None;
        }
        let id = load.node.id;
        let has_image = self.having.is_some_and(|nodes| nodes.contains(&id));
        Some((
            self.tasks.get(&id).copied().unwrap_or(0),
            load.tasks + usize::from(!has_image),
            load.reserved_share(),
            !has_image,
            id,
        ))
    }

    fn best(&self, rejections: &[NodeId]) -> Option<Rank> {
        let rejected =
            |rank: &&Rank| rejections.iter().filter(|n| **n == rank.4).count() >= REJECTIONS;
        let willing = self.ranked.iter().find(|rank| !rejected(rank));
        willing.or_else(|| self.ranked.first()).copied()
    }
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
