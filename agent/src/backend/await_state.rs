//! Waiting for something to be true of the replicated state: after each change of it, never by a clock.

use swarm_api::{Error, Result};
use swarm_cluster::State;
use swarm_member::Member;

/// What `look` finds in the state, now or after a later change of it.
///
/// # Errors
/// When this node's replica ends while something is waited for.
pub(super) async fn until<T>(
    member: &Member,
    mut look: impl FnMut(&State) -> Option<T>,
) -> Result<T> {
    let mut applied = member.watch_applied();
    loop {
        applied.borrow_and_update();
        let found = {
            let state = member.state();
            look(&state)
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if applied.changed().await.is_err() {
            return Err(ended());
        }
    }
}

/// This node no longer follows the log.
pub(super) fn ended() -> Error {
    Error::Unavailable(
        "this node's agent is ending or leaves its cluster; ask again, or ask another node".into(),
    )
}
