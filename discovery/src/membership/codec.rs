//! The wire form of foca's messages: postcard, with seed announcements taken as addressed to this node, and a tap that
//! lets the core see what foca does not tell (acknowledgements, its own incarnation).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, PostcardCodec};

use super::identity::NodeIdentity;

/// What passes through the codec and matters to the local health.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    acks: AtomicU64,
    incarnation: AtomicU32,
}

impl Tap {
    /// Direct acknowledgements received so far.
    pub(crate) fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    /// The incarnation in the last message sent; it grows when this node refutes a suspicion about itself.
    pub(crate) fn incarnation(&self) -> u32 {
        self.incarnation.load(Ordering::Relaxed)
    }
}

pub(crate) struct GossipCodec {
    node: u64,
    inner: PostcardCodec,
    tap: Arc<Tap>,
}

impl GossipCodec {
    pub(crate) fn new(node: u64, tap: Arc<Tap>) -> Self {
        Self {
            node,
            inner: PostcardCodec,
            tap,
        }
    }
}

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("cannot read a gossip message: {0}")]
    Postcard(#[from] postcard::Error),
    #[error("cannot take a gossip message from a node with the id 0")]
    NodeZero,
}

impl Codec<NodeIdentity> for GossipCodec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<NodeIdentity>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        self.tap
            .incarnation
            .store(header.src_incarnation.into(), Ordering::Relaxed);
        Ok(self.inner.encode_header(header, buf)?)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<NodeIdentity>, CodecError> {
        let mut header: Header<NodeIdentity> = self.inner.decode_header(buf)?;
        if header.src.node == 0 {
            return Err(CodecError::NodeZero);
        }
        match header.message {
            Message::Announce if header.dst.node == 0 => header.dst.node = self.node,
            Message::Ack(_) => {
                self.tap.acks.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(header)
    }

    fn encode_member(
        &mut self,
        member: &Member<NodeIdentity>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        Ok(self.inner.encode_member(member, buf)?)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<NodeIdentity>, CodecError> {
        let member: Member<NodeIdentity> = self.inner.decode_member(buf)?;
        if member.id().node == 0 {
            return Err(CodecError::NodeZero);
        }
        Ok(member)
    }
}
