//! Watchers: they write down what they are told, and go on where they were when their stream breaks off.

use super::dice::Dice;
use super::users::Place;
use futures_util::StreamExt;
use std::time::Duration;
use swarm_api::model::{Event, EventAction, Kind, Query};
use swarm_api::{Backend, Cursor, Error};

/// How the name of the last service begins.
pub(super) const MARKER: &str = "end-";
/// Before a watcher that cannot connect tries again.
const RETRY: Duration = Duration::from_millis(200);
/// After how long, at the most, a watcher that goes from host to host moves on.
const STAY: Duration = Duration::from_secs(3);

/// What a watcher was told without a gap: everything after this index.
#[derive(Debug, Clone, Default)]
pub(super) struct Sequence {
    pub(super) after: u64,
    pub(super) events: Vec<Event>,
}

/// All that one watcher was told, up to the last service's creation.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// One, or more where it was told that events were no longer kept.
    pub(super) sequences: Vec<Sequence>,
    /// How often it went on after its stream had ended.
    pub(super) resumed: usize,
}

/// Watches what happens after the entry `start`, through the host `at`; with `hops` through another one every now and
/// then.
pub(super) async fn watch(
    places: Vec<Place>,
    start: u64,
    mut at: usize,
    hops: bool,
    mut dice: Dice,
) -> Seen {
    let first = Sequence {
        after: start,
        events: Vec::new(),
    };
    let mut seen = Seen {
        sequences: vec![first],
        resumed: 0,
    };
    let mut cursor = Some(Cursor::after(start));
    loop {
        let stay = if hops {
            at = usize::try_from(dice.below(places.len() as u64)).unwrap_or_default();
            dice.time(Duration::from_millis(50), STAY)
        } else {
            Duration::from_secs(3600)
        };
        let watched = tokio::time::timeout(stay, follow(&places[at], &mut cursor, &mut seen)).await;
        match watched {
            Ok(Ended::Marker) => return seen,
            Ok(Ended::Gap) => cursor = None,
            Ok(Ended::Broken) => {
                tokio::time::sleep(RETRY).await;
                seen.resumed += 1;
            }
            Err(_) => seen.resumed += 1,
        }
    }
}

enum Ended {
    /// The last event came.
    Marker,
    /// Events are no longer kept.
    Gap,
    /// The stream ended.
    Broken,
}

async fn follow(place: &Place, cursor: &mut Option<Cursor>, seen: &mut Seen) -> Ended {
    let Some(client) = place.connect().await else {
        return Ended::Broken;
    };
    let from = match *cursor {
        Some(cursor) => cursor,
        None => {
            let Ok(list) = client.list(Query::of(Kind::Service)).await else {
                return Ended::Broken;
            };
            let after = list.freshness.index;
            seen.sequences.push(Sequence {
                after,
                events: Vec::new(),
            });
            *cursor.insert(Cursor::after(after))
        }
    };
    let mut events = match client.watch(Some(from.since())).await {
        Ok(events) => events,
        Err(Error::Exhausted(_)) => return Ended::Gap,
        Err(_) => return Ended::Broken,
    };
    let mut at = from.resume();
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                if !at.is_new(&event) {
                    continue;
                }
                *cursor = Some(at.cursor());
                let is_last = event.kind == Kind::Service
                    && event.action == EventAction::Created
                    && event.name.starts_with(MARKER);
                if let Some(sequence) = seen.sequences.last_mut() {
                    sequence.events.push(event);
                }
                if is_last {
                    return Ended::Marker;
                }
            }
            Some(Err(Error::Exhausted(_))) => return Ended::Gap,
            Some(Err(_)) | None => return Ended::Broken,
        }
    }
}
