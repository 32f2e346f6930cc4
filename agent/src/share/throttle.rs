//! Makes streams keep a rate together. Without one it does nothing.

use super::bucket::Bucket;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// A rate for all that pass through it and its clones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Throttle {
    limit: Option<Arc<(Instant, Mutex<Bucket>)>>,
}

impl Throttle {
    /// `rate` in bytes a second; without one, as fast as it goes.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self {
            limit: rate.map(|rate| Arc::new((Instant::now(), Mutex::new(Bucket::new(rate))))),
        }
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn pass(&self, bytes: usize) {
        let Some(limit) = &self.limit else { return };
        let (begun, bucket) = limit.as_ref();
        let pause = {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(begun.elapsed(), bytes as u64)
        };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}
