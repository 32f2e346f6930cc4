//! Following one part of the replica: who follows it is woken when that part is another, not by every entry of the log. On
//! a thousand hosts most entries are no affair of a host's.

use swarm_cluster::State;
use swarm_member::Member;
use tokio::sync::watch;

/// A part of the replica's state, as `part` makes it: something small that differs whenever there is something to do.
pub(crate) struct Follow<K, F> {
    member: Member,
    applied: watch::Receiver<u64>,
    part: F,
    seen: Option<K>,
}

/// The member has ended.
#[derive(Debug)]
pub(crate) struct Ended;

impl<K: PartialEq, F: Fn(&State) -> K> Follow<K, F> {
    /// Nothing is seen yet.
    pub(crate) fn new(member: Member, part: F) -> Self {
        Self {
            applied: member.watch_applied(),
            member,
            part,
            seen: None,
        }
    }

    /// The part as it is now is known to the caller, who looks at the state after this.
    pub(crate) fn look(&mut self) {
        self.applied.borrow_and_update();
        self.seen = Some((self.part)(&self.member.state()));
    }

    /// Waits until the part is another than at the last look. Nothing is lost where the wait is given up.
    pub(crate) async fn changed(&mut self) -> Result<(), Ended> {
        loop {
            self.applied.changed().await.map_err(|_| Ended)?;
            let now = (self.part)(&self.member.state());
            if self.seen.as_ref() != Some(&now) {
                return Ok(());
            }
        }
    }
}
