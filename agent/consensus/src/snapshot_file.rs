//! The layout of a snapshot file: magic, lengths, header, body, CRC-32 of all of it. Pure.

use crate::Error;
use crate::checksum::crc32;

const MAGIC: &[u8; 8] = b"SWSNAP\x00\x01";
const LENGTHS: usize = 4 + 8;
const CRC: usize = 4;

/// The file's parts in order, to be written one after the other: nothing is copied.
pub(crate) struct Encoded<'a> {
    prefix: [u8; MAGIC.len() + LENGTHS],
    header: &'a [u8],
    body: &'a [u8],
    crc: [u8; CRC],
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(header: &'a [u8], body: &'a [u8]) -> Self {
        let mut prefix = [0; MAGIC.len() + LENGTHS];
        prefix[..8].copy_from_slice(MAGIC);
        prefix[8..12].copy_from_slice(&(header.len() as u32).to_le_bytes());
        prefix[12..20].copy_from_slice(&(body.len() as u64).to_le_bytes());
        let crc = crc32(&[&prefix, header, body]).to_le_bytes();
        Self {
            prefix,
            header,
            body,
            crc,
        }
    }

    pub(crate) fn parts(&self) -> [&[u8]; 4] {
        [&self.prefix, self.header, self.body, &self.crc]
    }
}

/// Takes a file apart into header and body.
///
/// # Errors
/// [`Error::Corrupt`] naming `file` and what is wrong.
pub(crate) fn decode<'a>(file: &str, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Error> {
    let corrupt = |detail: &str| Error::Corrupt {
        file: file.to_owned(),
        detail: detail.to_owned(),
    };
    let (prefix, rest) = bytes
        .split_at_checked(MAGIC.len() + LENGTHS)
        .ok_or_else(|| corrupt("it is shorter than its header"))?;
    if &prefix[..8] != MAGIC {
        return Err(corrupt("it does not begin as a snapshot of this version"));
    }
    let mut four = [0; 4];
    four.copy_from_slice(&prefix[8..12]);
    let mut eight = [0; 8];
    eight.copy_from_slice(&prefix[12..20]);
    let header_len = u32::from_le_bytes(four) as usize;
    let body_len = usize::try_from(u64::from_le_bytes(eight)).unwrap_or(usize::MAX);
    let expected = header_len
        .checked_add(body_len)
        .and_then(|n| n.checked_add(CRC));
    if expected != Some(rest.len()) {
        return Err(corrupt("its length is not what its header says"));
    }
    let (header, rest) = rest.split_at(header_len);
    let (body, crc) = rest.split_at(body_len);
    if crc32(&[prefix, header, body]).to_le_bytes() != crc {
        return Err(corrupt("its checksum does not match"));
    }
    Ok((header, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(header: Vec<u8>, body: Vec<u8>) {
            let bytes = Encoded::new(&header, &body).parts().concat();
            let (h, b) = decode("f", &bytes).unwrap();
            prop_assert_eq!(h, &header[..]);
            prop_assert_eq!(b, &body[..]);
        }

        #[test]
        fn any_flipped_bit_or_cut_is_found(body: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let bytes = Encoded::new(b"header", &body).parts().concat();
            let mut damaged = bytes.clone();
            let i = at.index(damaged.len());
            damaged[i] ^= 1 << bit;
            prop_assert!(decode("f", &damaged).is_err());
            prop_assert!(decode("f", &bytes[..i]).is_err());
        }
    }
}
