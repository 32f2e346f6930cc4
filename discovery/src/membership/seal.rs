//! Sealing of datagrams: ChaCha20-Poly1305 under a key of the cluster's ring, with replays refused.
//!
//! A datagram is `version(1) key-id(4) sender(8) session(8) counter(8) stamp(8)`, all authenticated, then the
//! ciphertext with its tag. Each (key, sender, session) has a key of its own (HKDF-SHA256, RFC 5869), so the counter
//! alone is a nonce that never repeats; the session is random per start. The counter also feeds a sliding window
//! (as in RFC 4303, 3.4.3), and the stamp bounds how long windows must be remembered. Knows nothing of gossip.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

use crate::DiscoveryError;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4 + 8 + 8 + 8 + 8;
const TAG: usize = 16;
/// What sealing adds to a message, in bytes.
pub(crate) const OVERHEAD: usize = HEADER + TAG;
/// How many sessions are remembered before the stale ones are swept out.
const SWEEP_AT: usize = 4096;

/// The cluster's gossip keys: all of them open, one of them seals. To rotate: add the new key everywhere, then seal
/// with it everywhere, then drop the old one.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    keys: BTreeMap<u32, [u8; 32]>,
    sealing: u32,
}

impl KeyRing {
    /// A ring of one key.
    #[must_use]
    pub fn single(id: u32, key: [u8; 32]) -> Self {
        Self {
            keys: BTreeMap::from([(id, key)]),
            sealing: id,
        }
    }

    /// A ring of several keys, sealing with `sealing`.
    ///
    /// # Errors
    /// When `sealing` is none of the keys.
    pub fn new(
        keys: impl IntoIterator<Item = (u32, [u8; 32])>,
        sealing: u32,
    ) -> Result<Self, DiscoveryError> {
        let keys: BTreeMap<u32, [u8; 32]> = keys.into_iter().collect();
        if !keys.contains_key(&sealing) {
            return Err(DiscoveryError::Keys(format!(
                "it is to seal with key {sealing}, which is not among its {} keys; add that key",
                keys.len()
            )));
        }
        Ok(Self { keys, sealing })
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn sealing(&self) -> u32 {
        self.sealing
    }

    /// The ids of all keys that open.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.keys.keys().copied()
    }

    fn session_key(&self, key_id: u32, sender: u64, session: u64) -> Option<LessSafeKey> {
        let key = self.keys.get(&key_id)?;
        let prk = Salt::new(HKDF_SHA256, b"swarm gossip v1").extract(key);
        let (sender, session) = (sender.to_be_bytes(), session.to_be_bytes());
        let info = [sender.as_slice(), session.as_slice()];
        let okm = prk.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ids only: key material must not reach a log.
        f.debug_struct("KeyRing")
            .field("ids", &self.keys.keys().collect::<Vec<_>>())
            .field("sealing", &self.sealing)
            .finish()
    }
}

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejected {
    /// Too short, too long, or of another version.
    Malformed,
    /// Sealed with a key that is not in the ring.
    UnknownKey,
    /// The seal does not open: another cluster's key, or a forgery.
    BadSeal,
    /// Seen already, or too old to tell.
    Replayed,
    /// Its stamp is further from this node's clock than allowed.
    ClockSkew,
    /// It claims to come from this very node.
    Own,
}

#[derive(Clone, Copy, Default)]
struct Window {
    highest: u64,
    seen: u128,
}

impl Window {
    /// Whether `counter` is new; remembers it.
    fn accept(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let shift = counter - self.highest;
            self.seen = if shift >= 128 { 0 } else { self.seen << shift };
            self.seen |= 1;
            self.highest = counter;
            return true;
        }
        let back = self.highest - counter;
        if counter == 0 || back >= 128 || self.seen & (1 << back) != 0 {
            return false;
        }
        self.seen |= 1 << back;
        true
    }
}

struct Session {
    key_id: u32,
    key: LessSafeKey,
    window: Window,
    newest_stamp: u64,
}

/// Seals what this node sends and opens what it receives.
pub(crate) struct Sealer {
    ring: KeyRing,
    node: u64,
    session: u64,
    counter: u64,
    sealing_key: Option<LessSafeKey>,
    sessions: HashMap<(u64, u64), Session>,
    max_skew_ms: u64,
}

impl Sealer {
    /// `session` must never have been used by this node under any key of the ring.
    pub(crate) fn new(ring: KeyRing, node: u64, session: u64, max_skew: Duration) -> Self {
        let sealing_key = ring.session_key(ring.sealing, node, session);
        Self {
            ring,
            node,
            session,
            counter: 0,
            sealing_key,
            sessions: HashMap::new(),
            max_skew_ms: u64::try_from(max_skew.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn set_ring(&mut self, ring: KeyRing) {
        self.sealing_key = ring.session_key(ring.sealing, self.node, self.session);
        self.ring = ring;
        // The windows stay, or a rotation would let everything be replayed; keys that have gone no longer open.
    }

    /// Seals `kind` and `body` into one datagram. `None` only if the key cannot be used at all.
    pub(crate) fn seal(&mut self, wall_ms: u64, kind: u8, body: &[u8]) -> Option<Vec<u8>> {
        let key = self.sealing_key.as_ref()?;
        self.counter += 1;
        let mut packet = Vec::with_capacity(OVERHEAD + 1 + body.len());
        packet.push(VERSION);
        packet.extend_from_slice(&self.ring.sealing.to_be_bytes());
        packet.extend_from_slice(&self.node.to_be_bytes());
        packet.extend_from_slice(&self.session.to_be_bytes());
        packet.extend_from_slice(&self.counter.to_be_bytes());
        packet.extend_from_slice(&wall_ms.to_be_bytes());
        packet.push(kind);
        packet.extend_from_slice(body);
        let (header, text) = packet.split_at_mut(HEADER);
        let tag = key
            .seal_in_place_separate_tag(nonce(self.counter), Aad::from(&*header), text)
            .ok()?;
        packet.extend_from_slice(tag.as_ref());
        Some(packet)
    }

    /// Opens a datagram in place: the sender, the kind and the body.
    pub(crate) fn open<'a>(
        &mut self,
        wall_ms: u64,
        packet: &'a mut [u8],
    ) -> Result<(u64, u8, &'a [u8]), Rejected> {
        if packet.len() <= OVERHEAD || packet[0] != VERSION {
            return Err(Rejected::Malformed);
        }
        let (header, sealed) = packet.split_at_mut(HEADER);
        let key_id = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let sender = read_u64(header, 5);
        let session = read_u64(header, 13);
        let counter = read_u64(header, 21);
        let stamp = read_u64(header, 29);
        if sender == self.node {
            return Err(Rejected::Own);
        }
        if !self.ring.keys.contains_key(&key_id) {
            return Err(Rejected::UnknownKey);
        }

        let known = self.sessions.get(&(sender, session));
        let derived;
        let key = match known {
            Some(session) if session.key_id == key_id => &session.key,
            _ => {
                derived = self
                    .ring
                    .session_key(key_id, sender, session)
                    .ok_or(Rejected::UnknownKey)?;
                &derived
            }
        };
        let text = key
            .open_in_place(nonce(counter), Aad::from(&*header), sealed)
            .map_err(|_| Rejected::BadSeal)?;
        let Some((&kind, body)) = text.split_first() else {
            return Err(Rejected::Malformed);
        };

        // Only what is authentic may change any state.
        if stamp.abs_diff(wall_ms) > self.max_skew_ms {
            return Err(Rejected::ClockSkew);
        }
        self.remember(wall_ms, key_id, sender, session, counter, stamp)?;
        Ok((sender, kind, body))
    }

    fn remember(
        &mut self,
        wall_ms: u64,
        key_id: u32,
        sender: u64,
        session: u64,
        counter: u64,
        stamp: u64,
    ) -> Result<(), Rejected> {
        let known = match self.sessions.get_mut(&(sender, session)) {
            Some(known) => known,
            None => {
                if self.sessions.len() >= SWEEP_AT {
                    // A session older than this is refused by its stamps alone.
                    let horizon = wall_ms.saturating_sub(self.max_skew_ms.saturating_mul(2));
                    self.sessions.retain(|_, s| s.newest_stamp >= horizon);
                }
                let key = self
                    .ring
                    .session_key(key_id, sender, session)
                    .ok_or(Rejected::UnknownKey)?;
                self.sessions.entry((sender, session)).or_insert(Session {
                    key_id,
                    key,
                    window: Window::default(),
                    newest_stamp: stamp,
                })
            }
        };
        if !known.window.accept(counter) {
            return Err(Rejected::Replayed);
        }
        known.newest_stamp = known.newest_stamp.max(stamp);
        if known.key_id != key_id
            && let Some(key) = self.ring.session_key(key_id, sender, session)
        {
            known.key_id = key_id;
            known.key = key;
        }
        Ok(())
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0u8; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SKEW: Duration = Duration::from_secs(60);

    fn pair() -> (Sealer, Sealer) {
        let ring = KeyRing::single(7, [9; 32]);
        (
            Sealer::new(ring.clone(), 1, 11, SKEW),
            Sealer::new(ring, 2, 22, SKEW),
        )
    }

    #[test]
    fn what_is_sealed_opens_once_and_only_once() {
        let (mut a, mut b) = pair();
        let packet = a.seal(1000, 3, b"hello").unwrap();
        assert_eq!(packet.len(), OVERHEAD + 1 + 5);
        assert_eq!(
            b.open(1000, &mut packet.clone()),
            Ok((1, 3, b"hello".as_slice()))
        );
        assert_eq!(b.open(1000, &mut packet.clone()), Err(Rejected::Replayed));
    }

    #[test]
    fn a_wrong_key_an_unknown_key_and_a_stale_stamp_are_told_apart() {
        let (mut a, _) = pair();
        let packet = a.seal(100_000, 0, b"x").unwrap();
        let mut other = Sealer::new(KeyRing::single(7, [1; 32]), 2, 22, SKEW);
        assert_eq!(
            other.open(100_000, &mut packet.clone()),
            Err(Rejected::BadSeal)
        );
        let mut other = Sealer::new(KeyRing::single(8, [9; 32]), 2, 22, SKEW);
        assert_eq!(
            other.open(100_000, &mut packet.clone()),
            Err(Rejected::UnknownKey)
        );
        let (_, mut b) = pair();
        assert_eq!(
            b.open(200_000, &mut packet.clone()),
            Err(Rejected::ClockSkew)
        );
        assert_eq!(a.open(100_000, &mut packet.clone()), Err(Rejected::Own));
    }

    #[test]
    fn a_rotation_loses_nothing_and_lets_nothing_be_replayed() {
        let (mut a, mut b) = pair();
        let old = a.seal(0, 0, b"old").unwrap();
        assert!(b.open(0, &mut old.clone()).is_ok());
        let both = |sealing| KeyRing::new([(7, [9; 32]), (8, [8; 32])], sealing).unwrap();
        b.set_ring(both(7));
        a.set_ring(both(8));
        let new = a.seal(0, 0, b"new").unwrap();
        assert!(b.open(0, &mut new.clone()).is_ok());
        assert_eq!(b.open(0, &mut old.clone()), Err(Rejected::Replayed));
        b.set_ring(KeyRing::single(8, [8; 32]));
        assert_eq!(b.open(0, &mut old.clone()), Err(Rejected::UnknownKey));
        assert!(KeyRing::new([(1, [0; 32])], 2).is_err());
    }

    proptest! {
        #[test]
        fn no_damaged_packet_opens(body in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let (mut a, mut b) = pair();
            let mut packet = a.seal(5, 1, &body).unwrap();
            let at = at.index(packet.len());
            packet[at] ^= flip;
            prop_assert!(b.open(5, &mut packet).is_err());
        }

        #[test]
        fn no_garbage_panics(mut packet in prop::collection::vec(any::<u8>(), 0..200)) {
            let (_, mut b) = pair();
            prop_assert!(b.open(5, &mut packet).is_err());
        }

        #[test]
        fn the_window_accepts_each_counter_at_most_once(counters in prop::collection::vec(0u64..400, 0..600)) {
            let mut window = Window::default();
            let mut taken = BTreeSet::new();
            for counter in counters {
                let highest = window.highest;
                let fresh = window.accept(counter);
                prop_assert!(!(fresh && taken.contains(&counter)), "{counter} twice");
                if !fresh {
                    prop_assert!(counter == 0 || taken.contains(&counter) || highest - counter >= 128);
                }
                if fresh {
                    taken.insert(counter);
                }
            }
        }
    }
}
