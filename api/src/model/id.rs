//! Names, ids and times.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// An object's id: 13 characters of lower-case base32, unique within its cluster or host. Copies share the text: a replica
/// has each many times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(Arc<str>);

impl Id {
    /// The id that stands for `value`. The mapping is one-to-one, and scrambled so that consecutive values
    /// do not look alike and a short prefix tells objects apart.
    #[must_use]
    pub fn from_u64(value: u64) -> Self {
        // splitmix64's finaliser (Steele et al., 2014): a bijection on 64 bits.
        let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        Self(base32(z).into())
    }

    /// An id read from a user or the wire, as it is.
    #[must_use]
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from_text)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A node's identity: the first 64 bits of its public key's SHA-256. Never an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base32(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        unbase32(text).map(Self).ok_or_else(|| {
            Error::Invalid(format!(
                "\"{text}\" is not a node id: expected 13 characters a-z 2-7"
            ))
        })
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&base32(self.0))
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long after `earlier` this is; nothing if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time and `later` more.
    #[must_use]
    pub fn plus(self, later: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// Checks that `name` can name a `what` (service, node, network) and a DNS label (RFC 1123, section 2.1):
/// 1 to 63 characters of a-z, 0-9 and `-`, no `-` at either end.
///
/// # Errors
/// [`Error::Invalid`], which says what is wrong and what would be right.
pub fn validate_name(what: &str, name: &str) -> Result<()> {
    let bad = |why: &str| {
        Err(Error::Invalid(format!(
            "\"{name}\" cannot name a {what}: {why}; use 1 to 63 characters of a-z, 0-9 and -, starting and ending with a letter or digit"
        )))
    };
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > 63 {
        return bad("it is longer than 63 characters");
    }
    if let Some(c) = name
        .chars()
        .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
    {
        return bad(&format!("it has the character {c:?}"));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return bad("it starts or ends with -");
    }
    Ok(())
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(mut value: u64) -> String {
    let mut out = [b'a'; 13];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    out.iter().map(|b| char::from(*b)).collect()
}

fn unbase32(text: &str) -> Option<u64> {
    if text.len() != 13 {
        return None;
    }
    text.bytes().try_fold(0u64, |value, b| {
        let digit = ALPHABET.iter().position(|a| *a == b)?;
        value.checked_mul(32)?.checked_add(digit as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_node_id_reads_back_as_it_was_written(value: u64) {
            prop_assert_eq!(NodeId(value).to_string().parse::<NodeId>().unwrap(), NodeId(value));
        }

        #[test]
        fn different_values_have_different_ids(a: u64, b: u64) {
            prop_assert_eq!(a == b, Id::from_u64(a) == Id::from_u64(b));
        }
    }

    #[test]
    fn a_name_that_dns_could_not_carry_is_refused() {
        for bad in ["", "Web", "a_b", "-a", "a-", &"x".repeat(64), "a.b"] {
            assert!(
                matches!(validate_name("service", bad), Err(Error::Invalid(_))),
                "{bad}"
            );
        }
        for good in ["a", "web", "web-2", "0"] {
            validate_name("service", good).unwrap();
        }
    }
}
