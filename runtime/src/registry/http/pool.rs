//! Connections that are open and idle, for the next request to the same place.

use super::Body;
use hyper::client::conn::http1::SendRequest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may be idle: certificates and addresses are looked at again then.
const IDLE: Duration = Duration::from_secs(20);
/// Connections to one place that are kept.
const KEPT: usize = 8;

type Kept = HashMap<String, Vec<(SendRequest<Body>, Instant)>>;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    kept: Arc<Mutex<Kept>>,
}

impl Pool {
    /// A connection to `place` that is ready for a request.
    pub(super) fn take(&self, place: &str) -> Option<SendRequest<Body>> {
        let mut kept = self.lock();
        let connections = kept.get_mut(place)?;
        connections.retain(|(c, since)| !c.is_closed() && since.elapsed() < IDLE);
        // One whose last answer is still being read is not ready.
        let at = connections.iter().rposition(|(c, _)| c.is_ready())?;
        Some(connections.swap_remove(at).0)
    }

    /// Keeps a connection whose answer has begun. It is closed when it was idle for a while.
    pub(super) fn put(&self, place: String, connection: SendRequest<Body>) {
        if connection.is_closed() {
            return;
        }
        let mut kept = self.lock();
        let sweeping = !kept.is_empty();
        let connections = kept.entry(place).or_default();
        if connections.len() >= KEPT {
            connections.remove(0);
        }
        connections.push((connection, Instant::now()));
        drop(kept);
        if !sweeping {
            tokio::spawn(self.clone().sweep());
        }
    }

    async fn sweep(self) {
        loop {
            tokio::time::sleep(IDLE).await;
            let mut kept = self.lock();
            kept.retain(|_, connections| {
                connections.retain(|(c, since)| !c.is_closed() && since.elapsed() < IDLE);
                !connections.is_empty()
            });
            if kept.is_empty() {
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
