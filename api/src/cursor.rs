//! Where a watcher is in the order of events, so that it can go on there, on this node or another one. Pure.

use crate::model::Event;

/// How far a watcher of [`crate::Backend::watch`] has come. It misses nothing and takes nothing twice, wherever its
/// stream broke off, as every node of a cluster tells the same events in the same order.
///
/// An index alone would not do: several events may share one, and a stream may break off between them.
///
/// # Example
/// ```no_run
/// use futures_util::StreamExt;
/// use swarm_api::{Backend, Cursor, Result};
///
/// # async fn example(backend: impl Backend) -> Result<()> {
/// let mut cursor = Cursor::after(0);
/// loop {
///     let mut events = backend.watch(Some(cursor.since())).await?;
///     let mut place = cursor.resume();
///     while let Some(Ok(event)) = events.next().await {
///         if place.is_new(&event) {
///             println!("{} {}", event.kind, event.name);
///             cursor = place.cursor();
///         }
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    index: u64,
    /// How many events of `index` were taken.
    taken: u64,
}

/// A cursor on its way through a stream that was opened with [`Cursor::since`].
#[derive(Debug, Clone, Copy)]
pub struct Place {
    cursor: Cursor,
    /// Events of the cursor's index that this stream has told.
    told: u64,
}

impl Cursor {
    /// Before the first event after the log entry `index`, such as that of an answer's
    /// [`Freshness`](crate::model::Freshness): what is listed and then watched from there is complete.
    #[must_use]
    pub fn after(index: u64) -> Self {
        Self { index, taken: 0 }
    }

    /// What to open a stream with, to go on from here.
    #[must_use]
    pub fn since(self) -> u64 {
        match self.taken {
            0 => self.index,
            // The entry's events are told once more: some of them may not have come.
            _ => self.index - 1,
        }
    }

    /// The start of a stream that was opened with [`Cursor::since`].
    #[must_use]
    pub fn resume(self) -> Place {
        Place {
            cursor: self,
            told: 0,
        }
    }
}

impl Place {
    /// Whether the stream's next event is one that was not taken before; then it is taken.
    pub fn is_new(&mut self, event: &Event) -> bool {
        if event.index < self.cursor.index {
            return false;
        }
        if event.index > self.cursor.index {
            self.cursor = Cursor {
                index: event.index,
                taken: 1,
            };
            self.told = 1;
            return true;
        }
        self.told += 1;
        // At an index of which nothing was taken yet there is nothing to come: the stream starts after it.
        let is_new = self.cursor.taken > 0 && self.told > self.cursor.taken;
        if is_new {
            self.cursor.taken = self.told;
        }
        is_new
    }

    /// Where to go on when the stream breaks off now.
    #[must_use]
    pub fn cursor(self) -> Cursor {
        self.cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EventAction, Id, Kind, Timestamp};

    fn event((index, name): &(u64, &str)) -> Event {
        Event {
            index: *index,
            time: Timestamp(0),
            kind: Kind::Task,
            id: Id::default(),
            name: (*name).into(),
            action: EventAction::Updated,
            attributes: Default::default(),
        }
    }

    #[test]
    fn a_stream_that_breaks_off_anywhere_is_gone_on_with_as_if_it_had_not() {
        let all = [(3, "a"), (5, "b"), (5, "c"), (5, "d"), (9, "e"), (9, "f")];
        let events: Vec<Event> = all.iter().map(event).collect();
        for first in 0..=events.len() {
            for second in 0..=events.len() {
                let mut cursor = Cursor::after(2);
                let mut taken = Vec::new();
                for length in [first, second, events.len()] {
                    let since = cursor.since();
                    let mut place = cursor.resume();
                    let told = events.iter().filter(|e| e.index > since);
                    taken.extend(told.take(length).filter(|e| place.is_new(e)).cloned());
                    cursor = place.cursor();
                }
                assert_eq!(taken, events, "broken off after {first} and {second}");
            }
        }
    }

    #[test]
    fn what_is_listed_and_then_watched_comes_once() {
        let mut place = Cursor::after(5).resume();
        assert!(!place.is_new(&event(&(5, "listed"))));
        assert!(place.is_new(&event(&(6, "new"))));
        assert_eq!(Cursor::after(5).since(), 5);
        assert_eq!(place.cursor().since(), 5);
    }
}
