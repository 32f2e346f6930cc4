//! What members tell each other beside foca's messages: digests and what they bring, echoes, warnings to suspects; and
//! how lost contact is sought. A part of the core: no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use foca::State;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::super::config::MAX_GOSSIP;
use super::super::identity::NodeIdentity;
use super::super::soft_state::{Item, Version};
use super::super::view::MemberState;
use super::{Core, Due, JOIN_PERIOD, KIND_ASIDE, Now};

/// How many members one digest lists, and one answer to it: what fits a datagram whatever their ids and addresses.
const DIGEST: usize = 30;
const ANSWER: usize = 26;
/// How many answers in a row may each lead to the next question; the next sync goes on from there.
const CHAIN: u32 = 64;

/// What members tell each other beside foca.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Aside {
    /// "This is what I know of the nodes from `first` to `last`: send me what is newer."
    Digest {
        from: NodeIdentity,
        first: u64,
        last: u64,
        have: Vec<Have>,
    },
    /// The answer to a digest: members that were missing, newer or down.
    States {
        from: NodeIdentity,
        first: u64,
        last: u64,
        members: Vec<foca::Member<NodeIdentity>>,
        more: bool,
    },
    /// The answer to a digest: newer soft states.
    Items {
        from: NodeIdentity,
        first: u64,
        last: u64,
        items: Vec<Item>,
        more: bool,
    },
    /// "I asked you to help with a probe: do you hear me?" Lifeguard's nack, turned round.
    Echo { from: NodeIdentity, nonce: u64 },
    /// "I do."
    EchoReply { nonce: u64 },
    /// "You are suspected": Lifeguard's buddy system. Gossip alone may reach everyone but the suspect in time.
    Suspected {
        from: NodeIdentity,
        suspect: NodeIdentity,
        incarnation: u16,
    },
}

/// What a node knows of another, in a digest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Have {
    node: u64,
    generation: u64,
    gone: bool,
    soft: Version,
}

impl Core {
    pub(super) fn aside(&mut self, now: Now, aside: Aside) {
        match aside {
            Aside::Digest {
                from,
                first,
                last,
                have,
            } => self.answer_digest(now, from, first, last, &have),
            Aside::States {
                from,
                first,
                last,
                members,
                more,
            } => {
                let before = self.known.len();
                let outcome = self.foca.apply_many(
                    members.into_iter().filter(|m| m.id().node != 0),
                    true,
                    &mut self.runtime,
                );
                self.check(outcome);
                self.drain(now);
                if more && self.known.len() > before {
                    self.chain(now, from.addr, first, last);
                }
            }
            Aside::Items {
                from,
                first,
                last,
                items,
                more,
            } => {
                let news = {
                    let mut store = self.store.lock();
                    items
                        .into_iter()
                        .filter(|item| store.offer(item.clone()))
                        .count()
                };
                if more && news > 0 {
                    self.chain(now, from.addr, first, last);
                }
            }
            Aside::Echo { from, nonce } => {
                self.send_aside(now, from.addr, &Aside::EchoReply { nonce });
            }
            Aside::EchoReply { nonce } => {
                if nonce == self.echo_nonce {
                    self.echo_expected = false;
                }
            }
            Aside::Suspected {
                from,
                suspect,
                incarnation,
            } => {
                if suspect == *self.foca.identity() {
                    let suspicion = foca::Member::new(suspect, incarnation, State::Suspect);
                    let outcome =
                        self.foca
                            .apply_many(std::iter::once(suspicion), true, &mut self.runtime);
                    self.check(outcome);
                    // Whatever is sent refutes: it carries the new incarnation.
                    self.announce(from);
                }
            }
        }
    }

    /// Sends what the sender of a digest lacks, at most a datagram of members and one of soft states.
    pub(super) fn answer_digest(
        &mut self,
        now: Now,
        asker: NodeIdentity,
        first: u64,
        last: u64,
        have: &[Have],
    ) {
        let have: BTreeMap<u64, &Have> = have.iter().map(|h| (h.node, h)).collect();
        let news = |id: &NodeIdentity, gone: bool| match have.get(&id.node) {
            None => !gone,
            Some(h) => {
                id.generation > h.generation || (id.generation == h.generation && gone && !h.gone)
            }
        };
        let mut members: Vec<foca::Member<NodeIdentity>> = self
            .foca
            .iter_membership_state()
            .filter(|m| (first..=last).contains(&m.id().node) && m.id().node != asker.node)
            .filter(|m| news(m.id(), m.state() == State::Down))
            .take(ANSWER + 1)
            .cloned()
            .collect();
        let from = *self.foca.identity();
        let more = members.len() > ANSWER;
        members.truncate(ANSWER);
        if !members.is_empty() {
            let states = Aside::States {
                from,
                first,
                last,
                members,
                more,
            };
            self.send_aside(now, asker.addr, &states);
        }

        let mut room = MAX_GOSSIP - 80;
        let mut more = false;
        let mut items = Vec::new();
        for item in self.store.lock().range(first, last) {
            let held = have.get(&item.node).map_or((0, 0), |h| h.soft);
            if item.node == asker.node || item.version() <= held {
                continue;
            }
            let size = item.payload.len() + 48;
            if size > room {
                more = true;
                break;
            }
            room -= size;
            items.push(item.clone());
        }
        if !items.is_empty() {
            let items = Aside::Items {
                from,
                first,
                last,
                items,
                more,
            };
            self.send_aside(now, asker.addr, &items);
        }
    }

    /// Seeks lost contact: members that are down, and seeds that are nobody's address.
    pub(super) fn heal(&mut self, now: Now) {
        let alone = self.foca.num_members() == 0;
        let own = *self.foca.identity();
        let active: Vec<SocketAddr> = self.foca.iter_members().map(|m| m.id().addr).collect();
        let mut strangers: Vec<SocketAddr> = self
            .seeds
            .iter()
            .copied()
            .filter(|seed| *seed != own.addr && !active.contains(seed))
            .collect();
        let mut down: Vec<NodeIdentity> = self
            .known
            .values()
            .filter(|known| known.state == MemberState::Down)
            .map(|known| known.id)
            .collect();
        let (seeds, lost) = if alone { (5, 5) } else { (1, 2) };
        for _ in 0..seeds.min(strangers.len()) {
            let seed = strangers.swap_remove(self.rng.random_range(0..strangers.len()));
            self.announce(NodeIdentity::seed(seed));
        }
        for _ in 0..lost.min(down.len()) {
            let id = down.swap_remove(self.rng.random_range(0..down.len()));
            // Addressed to the node, not to the life of it that was declared down.
            self.announce(id);
        }
        self.forget();
        let period = if alone && self.known.is_empty() {
            JOIN_PERIOD
        } else {
            self.config.timing.heal_period
        };
        self.timers.push(now.mono + period, Due::Heal);
    }

    /// Drops what foca has forgotten.
    pub(super) fn forget(&mut self) {
        if self.foca.iter_membership_state().len() < self.known.len() {
            let remembered: BTreeSet<u64> = self
                .foca
                .iter_membership_state()
                .map(|m| m.id().node)
                .collect();
            self.known.retain(|node, _| remembered.contains(node));
            self.changed = true;
        }
        let mut store = self.store.lock();
        if store.len() > 2 * self.known.len() + 64 {
            let known = &self.known;
            store.retain(|node| known.contains_key(&node));
        }
    }

    /// Asks one random member for what this node lacks, of a slice of the cluster at a time.
    pub(super) fn sync(&mut self, now: Now) {
        self.timers
            .push(now.mono + self.config.timing.sync_period, Due::Sync);
        let active: Vec<SocketAddr> = self.foca.iter_members().map(|m| m.id().addr).collect();
        if active.is_empty() {
            return;
        }
        let peer = active[self.rng.random_range(0..active.len())];
        let first = self.sync_cursor;
        let mut rest = self.known.range(first..).skip(DIGEST);
        let last = rest.next().map_or(u64::MAX, |(next, _)| next - 1);
        self.sync_cursor = last.wrapping_add(1);
        self.chained = 0;
        self.pull(now, peer, first, last);
    }

    /// Goes on asking where an answer was not complete.
    pub(super) fn chain(&mut self, now: Now, peer: SocketAddr, first: u64, last: u64) {
        if self.chained < CHAIN {
            self.chained += 1;
            self.pull(now, peer, first, last);
        }
    }

    /// Asks `peer` for news of the nodes from `first` to `last`, or as far as one digest reaches.
    pub(super) fn pull(&mut self, now: Now, peer: SocketAddr, first: u64, last: u64) {
        // The range may come from a peer.
        if first > last {
            return;
        }
        let mut have = Vec::new();
        let mut reach = last;
        {
            let store = self.store.lock();
            for (&node, known) in self.known.range(first..=last) {
                if have.len() == DIGEST {
                    reach = node - 1;
                    break;
                }
                have.push(Have {
                    node,
                    generation: known.id.generation,
                    gone: !known.state.is_active(),
                    soft: store.version(node),
                });
            }
        }
        let digest = Aside::Digest {
            from: *self.foca.identity(),
            first,
            last: reach,
            have,
        };
        self.send_aside(now, peer, &digest);
        if reach < last && self.chained < CHAIN {
            self.chained += 1;
            self.pull(now, peer, reach + 1, last);
        }
    }

    pub(super) fn send_aside(&mut self, now: Now, to: SocketAddr, aside: &Aside) {
        if let Ok(body) = postcard::to_stdvec(aside) {
            self.send(now, to, KIND_ASIDE, &body);
        }
    }
}
