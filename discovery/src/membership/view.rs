//! What others see of membership: the list of members and what happens to them.

use std::net::SocketAddr;

use bytes::Bytes;

/// What is known of a member's liveness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer a probe and has not refuted yet; to be treated as alive.
    Suspect,
    /// Declared down: it did not refute in time.
    Down,
    /// It said that it leaves.
    Left,
}

impl MemberState {
    /// Whether the member is to be treated as there.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node's id.
    pub node: u64,
    /// Where it receives gossip.
    pub addr: SocketAddr,
    /// Which life of the node this is; it grows with each restart and each return.
    pub generation: u64,
    /// Whether it is there.
    pub state: MemberState,
    /// The newest soft state that it published and that reached this node; empty until then.
    pub soft_state: Bytes,
}

/// Something that happened to a member, with the member as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEvent {
    /// Seen for the first time.
    Joined(Member),
    /// It left on its own will.
    Left(Member),
    /// It was declared down.
    Down(Member),
    /// It was down or had left, and is back.
    Recovered(Member),
    /// It restarted, or changed its address, without having been declared down.
    Renewed(Member),
    /// It published a new soft state.
    SoftState(Member),
}

impl MemberEvent {
    /// The member that it happened to.
    #[must_use]
    pub fn member(&self) -> &Member {
        match self {
            Self::Joined(m)
            | Self::Left(m)
            | Self::Down(m)
            | Self::Recovered(m)
            | Self::Renewed(m)
            | Self::SoftState(m) => m,
        }
    }
}
