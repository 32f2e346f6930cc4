//! From a message to bytes that fit: truncation over UDP (RFC 1035 4.2.1, RFC 2181 9) and the limit of TCP.

use hickory_proto::op::{Message, ResponseCode};

/// The most that is sent in one UDP datagram, whatever the client allows: no fragments on any sane path.
pub const MAX_UDP: usize = 1232;
/// The most that a TCP length prefix can announce.
pub(crate) const MAX_TCP: usize = 65_535;

/// How long an answer to `query` over UDP may be.
#[must_use]
pub fn udp_limit(query: &Message) -> usize {
    query.edns.as_ref().map_or(512, |edns| {
        usize::from(edns.max_payload()).clamp(512, MAX_UDP)
    })
}

/// Encodes `message` within `limit` bytes: first the additional records go, then all of them, with the TC bit set.
#[must_use]
pub fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    if let Some(bytes) = fitting(&message, limit) {
        return bytes;
    }
    if !message.additionals.is_empty() {
        message.additionals.clear();
        if let Some(bytes) = fitting(&message, limit) {
            return bytes;
        }
    }
    fitting(&message.truncate(), limit)
        .or_else(|| {
            let failed = Message::error_msg(
                message.metadata.id,
                message.metadata.op_code,
                ResponseCode::ServFail,
            );
            fitting(&failed, limit)
        })
        .unwrap_or_default()
}

fn fitting(message: &Message, limit: usize) -> Option<Vec<u8>> {
    message.to_vec().ok().filter(|bytes| bytes.len() <= limit)
}

/// The bytes of a message's first question, with its type and class; `None` if there is none.
pub(crate) fn question(message: &[u8]) -> Option<&[u8]> {
    let count = u16::from_be_bytes([*message.get(4)?, *message.get(5)?]);
    if count == 0 {
        return None;
    }
    let mut at = 12;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        match len {
            0 => break,
            // The first name in a message has nothing to point at.
            64.. => return None,
            _ => at += len,
        }
    }
    message.get(12..at + 4)
}
