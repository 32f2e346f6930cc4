//! The wall clock: the only time that the shells hand to the cores.

use std::time::{SystemTime, UNIX_EPOCH};
use swarm_api::model::Timestamp;

/// The time by this host's clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
}
