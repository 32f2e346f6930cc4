//! What happens, in the order of the log: read from the events that the state keeps.

use super::{Cluster, await_state};
use futures_util::{StreamExt, stream};
use std::collections::VecDeque;
use swarm_api::model::Event;
use swarm_api::{BoxStream, Error, Result};
use swarm_cluster::State;
use swarm_member::Member;
use tokio::sync::watch;

impl Cluster {
    pub(super) fn watch(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        let applied = self.member.watch_applied();
        let after = {
            let state = self.member.state();
            match since {
                Some(index) => {
                    complete_after(&state, index)?;
                    index
                }
                None => state.index,
            }
        };
        let watcher = Watcher {
            member: self.member.clone(),
            applied,
            after,
            waiting: VecDeque::new(),
            ended: false,
        };
        Ok(stream::unfold(watcher, Watcher::next).boxed())
    }
}

struct Watcher {
    member: Member,
    applied: watch::Receiver<u64>,
    /// Events up to this index have been taken out.
    after: u64,
    waiting: VecDeque<Event>,
    ended: bool,
}

impl Watcher {
    async fn next(mut self) -> Option<(Result<Event>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some((Ok(event), self));
            }
            self.applied.borrow_and_update();
            let found = self.look();
            let failure = match found {
                Err(why) => Some(why),
                Ok(()) if !self.waiting.is_empty() => None,
                Ok(()) => (self.applied.changed().await.err()).map(|_| await_state::ended()),
            };
            if let Some(why) = failure {
                self.ended = true;
                return Some((Err(why), self));
            }
        }
    }

    fn look(&mut self) -> Result<()> {
        let state = self.member.state();
        self.waiting = events_after(&state, self.after)?;
        if let Some(last) = self.waiting.back() {
            self.after = last.index;
        }
        Ok(())
    }
}

/// The events of the entries after `index`.
fn events_after(state: &State, index: u64) -> Result<VecDeque<Event>> {
    if state.events.back().is_none_or(|e| e.index <= index) {
        return Ok(VecDeque::new());
    }
    complete_after(state, index)?;
    let newest_first = state.events.iter().rev().take_while(|e| e.index > index);
    let mut found: VecDeque<Event> = newest_first.map(|e| Event::clone(e)).collect();
    found.make_contiguous().reverse();
    Ok(found)
}

/// Refuses where events after `index` may have been dropped.
fn complete_after(state: &State, index: u64) -> Result<()> {
    match state.events.front() {
        Some(oldest) if state.events.len() >= State::EVENTS && oldest.index > index => {
            Err(Error::Exhausted(format!(
                "the events after index {index} are no longer all kept, only those after {}; list what there is, and watch from now on",
                oldest.index
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::{EventAction, Id, Kind, Timestamp};

    fn state(indices: impl IntoIterator<Item = u64>) -> State {
        let event = |index| Event {
            index,
            time: Timestamp(index),
            kind: Kind::Task,
            id: Id::from_u64(index),
            name: "web.1".into(),
            action: EventAction::Updated,
            attributes: Default::default(),
        };
        State {
            events: indices.into_iter().map(|n| event(n).into()).collect(),
            ..State::default()
        }
    }

    #[test]
    fn events_come_once_each_and_in_order() {
        let state = state([3, 3, 5, 8]);
        let indices = |after| -> Vec<u64> {
            let found = events_after(&state, after).unwrap();
            found.iter().map(|e| e.index).collect()
        };
        assert_eq!(indices(0), [3, 3, 5, 8]);
        assert_eq!(indices(3), [5, 8]);
        assert!(indices(8).is_empty());
        assert!(indices(100).is_empty());
    }

    #[test]
    fn a_gap_is_said_and_never_passed_over() {
        let kept = State::EVENTS as u64;
        let state = state(10..10 + kept);
        assert!(events_after(&state, 10).is_ok());
        let why = events_after(&state, 9).unwrap_err().to_string();
        assert!(why.contains("index 9") && why.contains("after 10"), "{why}");
        // Who has seen all of them misses nothing.
        assert!(events_after(&state, 9 + kept).is_ok());
    }
}
