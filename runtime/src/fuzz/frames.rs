//! What a shim reads from its socket, and an agent from a shim.

use super::Bytes;
use crate::shim::protocol::{Decoder, FromShim, Message, ToShim};

/// The input is a stream that comes in pieces. Whatever is understood says the same when it is written and read again, and pieces
/// make no difference.
pub fn frames(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (agent, piece) = (
        bytes.byte().is_multiple_of(2),
        usize::from(bytes.byte()) + 1,
    );
    if agent {
        stream::<FromShim>(bytes.0, piece);
    } else {
        stream::<ToShim>(bytes.0, piece);
    }
}

fn stream<M: Message + PartialEq + std::fmt::Debug>(data: &[u8], piece: usize) {
    let whole = read::<M>(&[data]);
    let pieces: Vec<&[u8]> = data.chunks(piece).collect();
    assert_eq!(
        whole,
        read::<M>(&pieces),
        "pieces of {piece} bytes are understood otherwise"
    );
    let mut written = Vec::new();
    for message in &whole.0 {
        // An environment may have grown beyond what a frame takes: escapes are longer than what they stand for.
        if message.encode(&mut written).is_err() {
            return;
        }
    }
    assert_eq!(
        whole.0,
        read::<M>(&[&written]).0,
        "what was written again says something else"
    );
}

/// All messages, and whether the end is an error.
fn read<M: Message>(pieces: &[&[u8]]) -> (Vec<M>, bool) {
    let mut decoder = Decoder::default();
    let mut found = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}
