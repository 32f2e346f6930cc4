//! The only place that reads the clock and asks for randomness.

use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};
use swarm_api::model::{Id, Timestamp};

/// Now.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An id that no other object has.
pub(super) fn new_id() -> crate::Result<Id> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|e| crate::Error::io("read /dev/urandom", e))?;
    Ok(Id::from_u64(u64::from_le_bytes(bytes)))
}
