//! The most recent entries of the log, for observers that follow. Pure: bounded by count and by
//! bytes, always without a hole.

use std::collections::VecDeque;

use bytes::Bytes;

/// A committed log entry: its index, and its command if it has one.
pub(crate) type LogEntry = (u64, Option<Bytes>);

#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<LogEntry>,
    /// The index that the next entry must have.
    next: u64,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl Ring {
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            next: 1,
            bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    /// Forgets everything and goes on after `index`.
    pub(crate) fn restart_after(&mut self, index: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.next = index + 1;
    }

    /// Takes the next entry and drops old ones beyond the limits. An entry that does not follow
    /// the last one starts the ring afresh.
    pub(crate) fn push(&mut self, index: u64, command: Option<Bytes>) {
        if index != self.next {
            self.restart_after(index - 1);
        }
        self.next = index + 1;
        self.bytes += size(&command);
        self.entries.push_back((index, command));
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            let Some((_, old)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= size(&old);
        }
    }

    /// Up to `max` entries that follow `index`; `None` if some of them are no longer here.
    pub(crate) fn after(&self, index: u64, max: usize) -> Option<Vec<LogEntry>> {
        if index + 1 >= self.next {
            return Some(Vec::new());
        }
        let first = self.entries.front()?.0;
        let skip = usize::try_from((index + 1).checked_sub(first)?).ok()?;
        Some(self.entries.iter().skip(skip).take(max).cloned().collect())
    }
}

fn size(command: &Option<Bytes>) -> usize {
    command.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_gives_all_entries_after_an_index_or_says_that_it_cannot(
            sizes in prop::collection::vec(0usize..40, 1..60),
            max_entries in 1usize..20,
            max_bytes in 10usize..200,
            from in 0u64..80,
            restart in 0u64..40,
        ) {
            let mut ring = Ring::new(max_entries, max_bytes);
            ring.restart_after(restart);
            let last = restart + sizes.len() as u64;
            for (i, size) in sizes.iter().enumerate() {
                ring.push(restart + 1 + i as u64, Some(Bytes::from(vec![0; *size])));
            }
            prop_assert!(ring.entries.len() <= max_entries);
            prop_assert!(ring.bytes <= max_bytes);
            prop_assert_eq!(ring.bytes, ring.entries.iter().map(|e| size(&e.1)).sum::<usize>());
            match ring.after(from, usize::MAX) {
                Some(entries) => {
                    let indexes: Vec<u64> = entries.iter().map(|e| e.0).collect();
                    let expected: Vec<u64> = (from + 1..=last).collect();
                    prop_assert_eq!(indexes, expected);
                }
                None => {
                    let oldest = ring.entries.front().map_or(last + 1, |e| e.0);
                    prop_assert!(from + 1 < oldest);
                }
            }
        }
    }
}
