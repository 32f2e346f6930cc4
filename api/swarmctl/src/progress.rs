//! How far something is, on the terminal of standard error, where it takes longer than a second. It must not know what goes
//! on.

use crate::terminal;
use anyhow::Result;
use bytes::Bytes;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;
use swarm_api::BoxStream;

/// What takes less has no progress shown.
const SOON: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// One piece of work. Nothing is shown before [`Progress::during`] has waited, nor after it.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    fn of_bytes(size: Option<u64>) -> Result<Self> {
        Self::new(
            size,
            if size.is_some() {
                "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"
            } else {
                "{spinner} {bytes}, {bytes_per_sec}"
            },
        )
    }

    /// Of work elsewhere: how long it has taken.
    pub(crate) fn of_time(what: &'static str) -> Result<Self> {
        let progress = Self::new(None, "{spinner} {msg} ({elapsed})")?;
        progress.0.set_message(what);
        Ok(progress)
    }

    fn new(size: Option<u64>, template: &str) -> Result<Self> {
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden());
        bar.set_style(ProgressStyle::with_template(template)?);
        Ok(Self(bar))
    }

    /// Does `work` with pieces of an archive, `size` bytes in all where that is known, and shows how many it has had.
    pub(crate) async fn through<T, F: Future<Output = T>>(
        size: Option<u64>,
        pieces: BoxStream<swarm_api::Result<Bytes>>,
        work: impl FnOnce(BoxStream<swarm_api::Result<Bytes>>) -> F,
    ) -> Result<T> {
        let progress = Self::of_bytes(size)?;
        let pieces = progress.count(pieces);
        Ok(progress.during(work(pieces)).await)
    }

    fn count(
        &self,
        pieces: BoxStream<swarm_api::Result<Bytes>>,
    ) -> BoxStream<swarm_api::Result<Bytes>> {
        let bar = self.0.clone();
        pieces
            .inspect(move |piece| {
                if let Ok(bytes) = piece {
                    bar.inc(bytes.len() as u64);
                }
            })
            .boxed()
    }

    /// Does `work`, and shows how far it is meanwhile.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = tokio::time::sleep(SOON) => {
                if terminal::has_error() {
                    self.0.set_draw_target(ProgressDrawTarget::stderr());
                    self.0.enable_steady_tick(TICK);
                }
                work.await
            }
        };
        self.0.finish_and_clear();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{TryStreamExt, stream};

    #[tokio::test]
    async fn what_goes_through_is_counted_and_left_as_it_is() {
        for size in [Some(5), None] {
            let progress = Progress::of_bytes(size).unwrap();
            let pieces = stream::iter([Ok(Bytes::from("ab")), Ok(Bytes::from("cde"))]);
            let through = progress.count(pieces.boxed());
            let all: Vec<Bytes> = progress.during(through.try_collect()).await.unwrap();
            assert_eq!(all.concat(), b"abcde");
            assert_eq!(progress.0.position(), 5);
        }
        assert_eq!(Progress::of_time("waiting").unwrap().0.message(), "waiting");
    }
}
