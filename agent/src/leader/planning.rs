//! Services made tasks, and tasks given nodes: what the orchestrator decides is proposed in batches.

use super::pace::{Backoff, Repeats};
use super::{SAFETY, propose};
use crate::follow::Follow;
use swarm_cluster::{Change, PlanItem, orchestrator};
use swarm_member::Member;

/// The most items of one entry of the log.
const ITEMS: usize = 500;
/// The most bytes of text in one entry, well below what a command may have.
const BYTES: usize = 256 << 10;

/// Never returns while the member lives. Changes that come while a plan is carried out are planned for together
/// afterwards; nothing waits longer than that.
pub(super) async fn run(member: &Member) {
    let mut follow = Follow::new(member.clone(), |state| state.marks.plan);
    let mut repeats: Repeats<Vec<PlanItem>> = Repeats::default();
    let mut backoff = Backoff::default();
    loop {
        follow.look();
        let time = member.world().now();
        let plan = {
            let state = member.state();
            orchestrator::plan(&state, time)
        };
        if plan.items.is_empty() {
            repeats.settle();
            let due = plan
                .next
                .map_or(SAFETY, |next| next.since(time).min(SAFETY));
            tokio::select! {
                changed = follow.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(due) => {}
            }
            continue;
        }
        if let Some(delay) = repeats.delay(plan.items.clone()) {
            tokio::time::sleep(delay).await;
        }
        for batch in batches(plan.items) {
            if let Err(why) = propose(member, Change::Plan(batch)).await {
                tracing::warn!(%why, "cannot carry out a plan; planning again");
                tokio::time::sleep(backoff.next()).await;
                break;
            }
            backoff.reset();
        }
    }
}

/// `items` in their order, in parts that each fit an entry.
fn batches(items: Vec<PlanItem>) -> Vec<Vec<PlanItem>> {
    let mut all: Vec<Vec<PlanItem>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let text = text_of(&item);
        let room = (all.last()).is_some_and(|last| last.len() < ITEMS && bytes + text <= BYTES);
        if !room {
            all.push(Vec::new());
            bytes = 0;
        }
        bytes += text;
        if let Some(last) = all.last_mut() {
            last.push(item);
        }
    }
    all
}

/// Bytes of what has no length of its own; all else of an item is some tens of bytes.
fn text_of(item: &PlanItem) -> usize {
    match item {
        PlanItem::Explain { why, .. } => why.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::Id;

    fn explain(number: u64, length: usize) -> PlanItem {
        PlanItem::Explain {
            task: Id::from_u64(number),
            why: "x".repeat(length),
        }
    }

    #[test]
    fn a_plan_is_cut_into_entries_that_fit_and_keeps_its_order() {
        let items: Vec<_> = (0..1201)
            .map(|n| PlanItem::Forget(Id::from_u64(n)))
            .collect();
        let cut = batches(items.clone());
        assert_eq!(
            cut.iter().map(Vec::len).collect::<Vec<_>>(),
            [500, 500, 201]
        );
        assert_eq!(cut.concat(), items);
        assert!(batches(Vec::new()).is_empty());
    }

    #[test]
    fn long_explanations_do_not_make_an_entry_too_long() {
        let cut = batches((0..10).map(|n| explain(n, 100 << 10)).collect());
        assert!(
            cut.iter()
                .all(|b| b.iter().map(text_of).sum::<usize>() <= BYTES)
        );
        assert_eq!(cut.iter().map(Vec::len).sum::<usize>(), 10);
        // One that is too long by itself is not lost.
        assert_eq!(batches(vec![explain(0, BYTES * 2), explain(1, 1)]).len(), 2);
    }
}
