//! Cuts bytes into pieces that fit a message. Must not copy them.

use bytes::Bytes;

/// The most bytes of a process's input or output in one message.
pub(crate) const OUTPUT: usize = 64 << 10;
/// The most bytes of an archive in one message.
pub(crate) const ARCHIVE: usize = 256 << 10;

/// The pieces of `bytes`, none longer than `most`, none empty.
pub(crate) fn split(mut bytes: Bytes, most: usize) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        Some(bytes.split_to(most.min(bytes.len())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_the_whole_in_order() {
        let whole = Bytes::from_iter(0..=99u8);
        let pieces: Vec<Bytes> = split(whole.clone(), 33).collect();
        assert_eq!(
            pieces.iter().map(Bytes::len).collect::<Vec<_>>(),
            [33, 33, 33, 1]
        );
        assert_eq!(Bytes::from(pieces.concat()), whole);
        assert_eq!(split(Bytes::new(), 33).count(), 0);
    }
}
