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
    /// The others say that this node is none of them.
    Refused,
    /// It holds everything that was agreed on when the agent started, or later.
    Sure,
}

/// Whether what the replica says of this host is acted on.
pub(super) fn may_act(footing: Footing, part: Part) -> bool {
    match (footing, part) {
        (_, Part::Unknown) | (Footing::Unsure, _) => false,
        // It hears nothing any more; what it knows is that it was taken out.
        (Footing::Refused, part) => part == Part::Out,
        (Footing::Sure, _) => true,
    }
}

/// Finds out, and tells `footing`. Ends when that is sure.
pub(super) async fn find(member: Member, footing: watch::Sender<Footing>) {
    loop {
        // It tries for a while by itself.
        let fresh = member.read(Read::Linearizable).await;
        if fresh.is_ok_and(|fresh| !fresh.stale) {
            footing.send_replace(Footing::Sure);
            return;
        }
        let now = match member.status().is_refused {
            true => Footing::Refused,
            false => Footing::Unsure,
        };
        footing.send_if_modified(|before| std::mem::replace(before, now) != now);
        // Without a member's loops to ask, the answer comes at once.
        tokio::time::sleep(super::LOOK).await;
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
    fn a_host_that_was_taken_out_and_is_refused_ends_its_tasks() {
        assert!(may_act(Footing::Refused, Part::Out));
        assert!(!may_act(Footing::Refused, Part::In));
    }
}
