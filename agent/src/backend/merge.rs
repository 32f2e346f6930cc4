//! Many logs as one, in the order of time. Pure but for the streams that it reads.

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use swarm_api::backend::LogRecord;
use swarm_api::model::Timestamp;
use swarm_api::{BoxStream, Error, Result};

type Records = BoxStream<Result<LogRecord>>;

/// The records of `streams`, each of which is in order, in the order of their times; of one time, in the order of the
/// streams. A stream's error ends that stream only.
pub(super) fn merge(streams: Vec<Records>) -> Records {
    let start = Merge {
        streams,
        heads: BinaryHeap::new(),
        records: Vec::new(),
        errors: VecDeque::new(),
        begun: false,
    };
    stream::unfold(start, Merge::next).boxed()
}

/// The last `count` records of `stream`, and what went wrong meanwhile.
pub(super) async fn last(mut stream: Records, count: u64) -> (VecDeque<LogRecord>, Vec<Error>) {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (mut kept, mut errors) = (VecDeque::new(), Vec::new());
    while let Some(item) = stream.next().await {
        match item {
            Ok(record) => kept.push_back(record),
            Err(why) => errors.push(why),
        }
        if kept.len() > count {
            kept.pop_front();
        }
    }
    (kept, errors)
}

struct Merge {
    streams: Vec<Records>,
    /// The next record of each stream that has one: its time and the stream's number.
    heads: BinaryHeap<Reverse<(Timestamp, usize)>>,
    records: Vec<Option<LogRecord>>,
    errors: VecDeque<Error>,
    begun: bool,
}

impl Merge {
    async fn next(mut self) -> Option<(Result<LogRecord>, Self)> {
        if !self.begun {
            self.begun = true;
            let first = join_all(self.streams.iter_mut().map(StreamExt::next)).await;
            self.records = first.iter().map(|_| None).collect();
            for (number, item) in first.into_iter().enumerate() {
                self.put(number, item);
            }
        }
        if let Some(why) = self.errors.pop_front() {
            return Some((Err(why), self));
        }
        let Reverse((_, number)) = self.heads.pop()?;
        let record = self.records[number].take()?;
        let item = self.streams[number].next().await;
        self.put(number, item);
        Some((Ok(record), self))
    }

    fn put(&mut self, number: usize, item: Option<Result<LogRecord>>) {
        match item {
            Some(Ok(record)) => {
                self.heads.push(Reverse((record.time, number)));
                self.records[number] = Some(record);
            }
            Some(Err(why)) => self.errors.push_back(why),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::backend::LogStream;

    fn record(task: &str, time: u64) -> LogRecord {
        LogRecord {
            task: task.into(),
            time: Timestamp(time),
            stream: LogStream::Stdout,
            data: "x\n".into(),
        }
    }

    fn records(task: &str, times: &[u64]) -> Records {
        let all: Vec<_> = times.iter().map(|t| Ok(record(task, *t))).collect();
        stream::iter(all).boxed()
    }

    #[tokio::test]
    async fn logs_are_merged_by_time_and_none_is_lost() {
        let merged = merge(vec![
            records("a.1", &[1, 4, 4]),
            records("a.2", &[]),
            records("a.3", &[2, 3, 9]),
        ]);
        let times: Vec<u64> = merged.map(|r| r.unwrap().time.0).collect().await;
        assert_eq!(times, [1, 2, 3, 4, 4, 9]);
    }

    #[tokio::test]
    async fn one_log_that_breaks_off_does_not_end_the_others() {
        let broken = stream::iter([
            Ok(record("a.1", 1)),
            Err(Error::Unavailable("node host2 cannot be reached".into())),
        ])
        .boxed();
        let all: Vec<_> = merge(vec![broken, records("a.2", &[2, 3])]).collect().await;
        assert_eq!(all.iter().filter(|r| r.is_ok()).count(), 3);
        assert_eq!(all.iter().filter(|r| r.is_err()).count(), 1);
    }

    #[tokio::test]
    async fn a_tail_is_of_all_of_them_together() {
        let merged = merge(vec![records("a.1", &[1, 5]), records("a.2", &[2, 4])]);
        let (kept, errors) = last(merged, 2).await;
        assert_eq!(kept.iter().map(|r| r.time.0).collect::<Vec<_>>(), [4, 5]);
        assert!(errors.is_empty());
    }
}
