//! Whether the replica may be acted on. After a start it is as it was when it was last written down, which may be some
//! time before this host's containers were what they are now: tasks that came since would look as if nobody wanted them.
//! So nothing is started, stopped or removed before the replica holds all that was agreed on when the agent started. A
//! host that is cut off leaves everything as it is until then.

use super::Part;
use swarm_api::model::Read;
use swarm_member::Member;
use tokio::sync::watch;

/// How far the replica is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Footing {
    /// It may be older than what was done here before.
    Unsure,
    /// The others say that this node was taken out of the cluster.
    TakenOut,
    /// It holds everything that was agreed on when the agent started, or later.
    Sure,
}

/// Whether what the replica says of this host is acted on.
pub(super) fn may_act(footing: Footing, part: Part) -> bool {
    match (footing, part) {
        (_, Part::Unknown) | (Footing::Unsure, _) => false,
        (Footing::TakenOut | Footing::Sure, _) => true,
    }
}

/// Finds out, and tells `footing`. Ends when nothing more can follow.
pub(super) async fn find(member: Member, footing: watch::Sender<Footing>) {
    let mut taken_out = member.watch_taken_out();
    while !*taken_out.borrow() {
        // It tries for a while by itself.
        let fresh = member.read(Read::Linearizable).await;
        if fresh.is_ok_and(|fresh| !fresh.stale) {
            footing.send_replace(Footing::Sure);
            break;
        }
        // Without a member's loops to ask, the answer comes at once.
        tokio::time::sleep(super::LOOK).await;
    }
    // Its replica does not say so: it is not told any more.
    if taken_out.wait_for(|out| *out).await.is_ok() {
        tracing::warn!("this node was taken out of its cluster; its tasks are ended");
        footing.send_replace(Footing::TakenOut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_on_a_replica_that_may_be_old() {
        for part in [Part::Unknown, Part::In, Part::Out] {
            assert!(!may_act(Footing::Unsure, part), "{part:?}");
        }
        assert!(may_act(Footing::Sure, Part::In));
        assert!(may_act(Footing::Sure, Part::Out));
        assert!(!may_act(Footing::Sure, Part::Unknown));
    }

    #[test]
    fn a_host_that_was_taken_out_acts_on_it_also_where_its_replica_does_not_say_so() {
        assert!(may_act(Footing::TakenOut, Part::Out));
        assert!(may_act(Footing::TakenOut, Part::In));
    }
}
