//! The core of membership: foca, the seals, the soft states and the local health, put together without I/O.
//!
//! In: datagrams, commands, and the time. Out: datagrams to send, events, and a new list of members when it changed.
//! It keeps its own timers ([`Core::next_deadline`]), stretched by the local health; it must not know of sockets,
//! clocks or tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, OwnedNotification, State, Timer};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::codec::{GossipCodec, Tap};
use super::config::{MAX_DATAGRAM, MAX_GOSSIP, MembershipConfig};
use super::health::{HealthEvent, LocalHealth};
use super::identity::NodeIdentity;
use super::seal::{KeyRing, Rejected, Sealer};
use super::soft_state::{Item, SharedStore, Version};
use super::timers::Timers;
use super::view::{Member, MemberEvent, MemberState};
use crate::DiscoveryError;

const KIND_FOCA: u8 = 0;
const KIND_ASIDE: u8 = 1;
/// How many members one digest lists, and one answer to it: what fits a datagram whatever their ids and addresses.
const DIGEST: usize = 30;
const ANSWER: usize = 26;
/// How many answers in a row may each lead to the next question; the next sync goes on from there.
const CHAIN: u32 = 64;
/// Up to this size of cluster, a new member is asked for its soft state at once; in larger ones the sync will do.
const PULL_AT_ONCE: usize = 64;
/// How often contact is sought while this node has never had any.
const JOIN_PERIOD: Duration = Duration::from_millis(500);
/// About how many members tell a suspect, each probe period, that it is one.
const BUDDIES: f64 = 10.0;
/// Join targets that are remembered, configured seeds included.
const MAX_SEEDS: usize = 64;

/// The time at which an event happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since an origin of the owner's choice; never goes back.
    pub mono: Duration,
    /// The wall clock, Unix time in milliseconds; only for the stamps in datagrams.
    pub wall_ms: u64,
}

/// Everything that can happen to the core.
#[derive(Debug)]
pub enum Event {
    /// A datagram arrived.
    Datagram(Vec<u8>),
    /// Time passed: run what is due.
    Tick,
    /// Join the cluster through these addresses, and keep them as seeds.
    Join(Vec<SocketAddr>),
    /// Publish a new soft state.
    SoftState(Bytes),
    /// Use other keys from now on.
    Keys(KeyRing),
    /// This node is reached at another address from now on.
    Address(SocketAddr),
    /// Say good-bye; once more when asked again.
    Leave,
}

/// Everything that the core can ask for.
#[derive(Debug)]
pub enum Effect {
    /// Send a datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// What.
        datagram: Vec<u8>,
    },
    /// Tell subscribers.
    Event(MemberEvent),
    /// The list of members changed; this node comes first.
    Members(Arc<Vec<Member>>),
}

/// What has been counted since the start, and the current health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received, good or bad.
    pub received: u64,
    /// Datagrams that could not be sent (counted by the shell).
    pub send_errors: u64,
    /// Dropped: too short, too long, of another version, or not understood once opened.
    pub malformed: u64,
    /// Dropped: sealed with a key that is not in the ring.
    pub unknown_key: u64,
    /// Dropped: the seal does not open.
    pub bad_seal: u64,
    /// Dropped: seen before.
    pub replayed: u64,
    /// Dropped: the sender's clock and this node's differ too much.
    pub clock_skew: u64,
    /// Dropped: claims to be this node.
    pub own: u64,
    /// Timers that ran well after they were due.
    pub late_timers: u64,
    /// Suspicions about this node that it refuted.
    pub refuted: u64,
    /// Times that this node was declared down and came back.
    pub rejoined: u64,
    /// The local health score now: 0 is healthy.
    pub health_score: u32,
}

/// What members tell each other beside foca.
#[derive(Debug, Serialize, Deserialize)]
enum Aside {
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
struct Have {
    node: u64,
    generation: u64,
    gone: bool,
    soft: Version,
}

enum Due {
    Foca(Timer<NodeIdentity>),
    Heal,
    Sync,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    id: NodeIdentity,
    state: MemberState,
}

/// The membership of one node.
pub struct Core {
    config: MembershipConfig,
    foca: Foca<NodeIdentity, GossipCodec, StdRng, SharedStore>,
    runtime: AccumulatingRuntime<NodeIdentity>,
    rng: StdRng,
    sealer: Sealer,
    tap: Arc<Tap>,
    store: SharedStore,
    health: LocalHealth,
    timers: Timers<Due>,
    stats: Stats,
    effects: Vec<Effect>,

    seeds: Vec<SocketAddr>,
    known: BTreeMap<u64, Known>,
    changed: bool,
    left: bool,
    soft_seq: u64,
    payload: Bytes,
    sync_cursor: u64,
    chained: u32,

    last_incarnation: u32,
    acks_at_probe: u64,
    echo_nonce: u64,
    echo_expected: bool,
    rejoin_streak: u32,
    last_rejoin: Option<Duration>,
    sized_for: usize,
}

impl Core {
    /// A node that knows nobody yet. `seed` drives every random choice, `session` names this start in the seals and
    /// must never repeat.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(
        config: MembershipConfig,
        seed: u64,
        session: u64,
        now: Now,
    ) -> Result<(Self, Vec<Effect>), DiscoveryError> {
        config.validate()?;
        let identity = NodeIdentity {
            node: config.node,
            addr: config.advertise,
            generation: config.generation.max(1),
        };
        let tap = Arc::new(Tap::default());
        let store = SharedStore::new(config.node);
        let foca = Foca::with_custom_broadcast(
            identity,
            config.foca(1),
            StdRng::seed_from_u64(seed),
            GossipCodec::new(config.node, tap.clone()),
            store.clone(),
        );
        let sealer = Sealer::new(
            config.keys.clone(),
            config.node,
            session,
            config.timing.max_clock_skew,
        );
        let mut core = Self {
            foca,
            runtime: AccumulatingRuntime::new(),
            rng: StdRng::seed_from_u64(seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15),
            sealer,
            tap,
            store,
            health: LocalHealth::new(config.timing.max_health_score),
            timers: Timers::new(),
            stats: Stats::default(),
            effects: Vec::new(),
            seeds: Vec::new(),
            known: BTreeMap::new(),
            changed: true,
            left: false,
            soft_seq: 0,
            payload: config.soft_state.clone(),
            sync_cursor: 0,
            chained: 0,
            last_incarnation: 0,
            acks_at_probe: 0,
            echo_nonce: 0,
            echo_expected: false,
            rejoin_streak: 0,
            last_rejoin: None,
            sized_for: 1,
            config,
        };
        core.publish();
        core.join(core.config.seeds.clone());
        core.timers.push(now.mono + JOIN_PERIOD, Due::Heal);
        core.timers
            .push(now.mono + core.config.timing.sync_period, Due::Sync);
        let effects = core.finish(now);
        Ok((core, effects))
    }

    /// Takes one event and says what is to be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        match event {
            Event::Datagram(packet) => self.datagram(now, packet),
            Event::Tick => self.tick(now),
            Event::Join(addrs) => self.join(addrs),
            Event::SoftState(payload) => {
                self.payload = payload;
                self.changed = true;
                self.publish();
            }
            Event::Keys(keys) => {
                self.sealer.set_ring(keys.clone());
                self.config.keys = keys;
            }
            Event::Address(addr) => {
                let id = *self.foca.identity();
                if id.addr != addr && !self.left {
                    self.change_identity(NodeIdentity {
                        addr,
                        generation: id.generation.saturating_add(1),
                        ..id
                    });
                }
            }
            Event::Leave => self.leave(),
        }
        self.finish(now)
    }

    /// When the core wants its next [`Event::Tick`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next_due()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            health_score: self.health.score(),
            ..self.stats
        }
    }

    /// The members, this node first.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let own = *self.foca.identity();
        let own_state = if self.left {
            MemberState::Left
        } else {
            MemberState::Alive
        };
        std::iter::once(self.member(own, own_state))
            .chain(
                self.known
                    .values()
                    .map(|known| self.member(known.id, known.state)),
            )
            .collect()
    }

    fn member(&self, id: NodeIdentity, state: MemberState) -> Member {
        Member {
            node: id.node,
            addr: id.addr,
            generation: id.generation,
            state,
            soft_state: self
                .store
                .lock()
                .get(id.node)
                .map(|item| item.payload.clone())
                .unwrap_or_default(),
        }
    }

    // ---- what comes in

    fn datagram(&mut self, now: Now, mut packet: Vec<u8>) {
        self.stats.received += 1;
        if packet.len() > MAX_DATAGRAM {
            self.stats.malformed += 1;
            return;
        }
        let (kind, body) = match self.sealer.open(now.wall_ms, &mut packet) {
            Ok((_, kind, body)) => (kind, body),
            Err(reason) => {
                let counter = match reason {
                    Rejected::Malformed => &mut self.stats.malformed,
                    Rejected::UnknownKey => &mut self.stats.unknown_key,
                    Rejected::BadSeal => &mut self.stats.bad_seal,
                    Rejected::Replayed => &mut self.stats.replayed,
                    Rejected::ClockSkew => &mut self.stats.clock_skew,
                    Rejected::Own => &mut self.stats.own,
                };
                *counter += 1;
                return;
            }
        };
        if self.left {
            return;
        }
        match kind {
            KIND_FOCA => {
                let outcome = self.foca.handle_data(body, &mut self.runtime);
                self.check(outcome);
            }
            KIND_ASIDE => match postcard::from_bytes::<Aside>(body) {
                Ok(aside) => self.aside(now, aside),
                Err(_) => self.stats.malformed += 1,
            },
            _ => self.stats.malformed += 1,
        }
    }

    fn aside(&mut self, now: Now, aside: Aside) {
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
    fn answer_digest(
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

    fn tick(&mut self, now: Now) {
        let late_after = (self.config.timing.probe_rtt / 2).max(Duration::from_millis(50));
        let mut late = false;
        while let Some((due, what)) = self.timers.pop(now.mono) {
            if self.left {
                continue;
            }
            let lag = now.mono.saturating_sub(due);
            late |= lag > late_after;
            match what {
                Due::Foca(timer) => self.foca_timer(now, timer, lag),
                Due::Heal => self.heal(now),
                Due::Sync => self.sync(now),
            }
            // Before the next timer: what this one scheduled may itself be due.
            self.drain(now);
        }
        if late {
            self.stats.late_timers += 1;
            self.health.note(HealthEvent::LateTimer);
        }
    }

    fn foca_timer(&mut self, now: Now, timer: Timer<NodeIdentity>, lag: Duration) {
        match &timer {
            Timer::ChangeSuspectToDown { .. } if lag > self.config.timing.probe_period => {
                // This node did not run for a while: the refutation may wait in its socket. Give it its time.
                let grace = self.suspicion();
                self.timers.push(now.mono + grace, Due::Foca(timer));
            }
            Timer::ChangeSuspectToDown { .. } => {
                let before = self.foca.num_members();
                let outcome = self.foca.handle_timer(timer, &mut self.runtime);
                self.check(outcome);
                if self.foca.num_members() < before {
                    // Bad news travels at once, not with the next round.
                    let outcome = self.foca.gossip(&mut self.runtime);
                    self.check(outcome);
                }
            }
            Timer::SendIndirectProbe { .. } => {
                let outcome = self.foca.handle_timer(timer, &mut self.runtime);
                self.check(outcome);
                if self.tap.acks() > self.acks_at_probe {
                    self.health.note(HealthEvent::ProbeAnswered);
                }
                self.ask_helpers(now);
            }
            Timer::ProbeRandomMember(_) => {
                if std::mem::take(&mut self.echo_expected) {
                    self.health.note(HealthEvent::HelpersSilent);
                }
                self.acks_at_probe = self.tap.acks();
                let outcome = self.foca.handle_timer(timer, &mut self.runtime);
                self.check(outcome);
                self.sweep(now);
            }
            _ => {
                let outcome = self.foca.handle_timer(timer, &mut self.runtime);
                self.check(outcome);
            }
        }
    }

    /// A probe went unanswered and foca asks others for help: ask them as well whether they hear us. If nobody does,
    /// the fault is likely here.
    fn ask_helpers(&mut self, now: Now) {
        let mut helpers = Vec::new();
        while let Some((to, data)) = self.runtime.to_send() {
            helpers.push(to.addr);
            self.send(now, to.addr, KIND_FOCA, &data);
        }
        if helpers.is_empty() {
            return;
        }
        self.echo_nonce = self.rng.random();
        self.echo_expected = true;
        let echo = Aside::Echo {
            from: *self.foca.identity(),
            nonce: self.echo_nonce,
        };
        for helper in helpers {
            self.send_aside(now, helper, &echo);
        }
    }

    /// Notices what foca does not announce: members that became suspect, or are no longer. Tells the suspects.
    fn sweep(&mut self, now: Now) {
        let mut suspects = Vec::new();
        for member in self.foca.iter_members() {
            let state = match member.state() {
                State::Suspect => {
                    suspects.push((*member.id(), member.incarnation()));
                    MemberState::Suspect
                }
                _ => MemberState::Alive,
            };
            if let Some(known) = self.known.get_mut(&member.id().node)
                && known.state.is_active()
                && known.state != state
            {
                known.state = state;
                self.changed = true;
            }
        }
        // In a large cluster a few of those who know are enough.
        let tell = (BUDDIES / (self.foca.num_members() + 1) as f64).min(1.0);
        for (suspect, incarnation) in suspects {
            if self.rng.random_bool(tell) {
                let aside = Aside::Suspected {
                    from: *self.foca.identity(),
                    suspect,
                    incarnation,
                };
                self.send_aside(now, suspect.addr, &aside);
            }
        }
        let nodes = self.foca.num_members() + 1;
        if nodes > self.sized_for * 2 || nodes * 4 < self.sized_for {
            self.sized_for = nodes;
            let outcome = self.foca.set_config(self.config.foca(nodes));
            self.check(outcome);
        }
    }

    /// Seeks lost contact: members that are down, and seeds that are nobody's address.
    fn heal(&mut self, now: Now) {
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
    fn forget(&mut self) {
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
    fn sync(&mut self, now: Now) {
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
    fn chain(&mut self, now: Now, peer: SocketAddr, first: u64, last: u64) {
        if self.chained < CHAIN {
            self.chained += 1;
            self.pull(now, peer, first, last);
        }
    }

    /// Asks `peer` for news of the nodes from `first` to `last`, or as far as one digest reaches.
    fn pull(&mut self, now: Now, peer: SocketAddr, first: u64, last: u64) {
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

    fn join(&mut self, addrs: Vec<SocketAddr>) {
        for addr in addrs {
            if addr == self.foca.identity().addr {
                continue;
            }
            if !self.seeds.contains(&addr) {
                if self.seeds.len() >= MAX_SEEDS {
                    self.seeds.remove(0);
                }
                self.seeds.push(addr);
            }
            if !self.left {
                self.announce(NodeIdentity::seed(addr));
            }
        }
    }

    fn announce(&mut self, to: NodeIdentity) {
        let outcome = self.foca.announce(to, &mut self.runtime);
        self.check(outcome);
    }

    fn leave(&mut self) {
        if self.left {
            let outcome = self.foca.gossip(&mut self.runtime);
            self.check(outcome);
            return;
        }
        self.left = true;
        self.changed = true;
        self.publish();
        let outcome = self.foca.leave_cluster(&mut self.runtime);
        self.check(outcome);
    }

    /// Puts this node's soft state, with a new version, into the store and into gossip.
    fn publish(&mut self) {
        self.soft_seq += 1;
        let item = Item {
            node: self.config.node,
            generation: self.foca.identity().generation,
            seq: self.soft_seq,
            leaving: self.left,
            payload: self.payload.clone(),
        };
        if let Ok(data) = postcard::to_stdvec(&item) {
            self.store.lock().set_own(item);
            let outcome = self.foca.add_broadcast(&data).map(drop);
            self.check(outcome);
        }
    }

    fn change_identity(&mut self, id: NodeIdentity) {
        let outcome = self.foca.change_identity(id, &mut self.runtime);
        self.check(outcome);
        self.last_incarnation = 0;
        self.changed = true;
        self.publish();
    }

    // ---- what goes out

    fn finish(&mut self, now: Now) -> Vec<Effect> {
        self.drain(now);
        let soft = self.store.lock().take_changed();
        for node in soft {
            if let Some(known) = self.known.get(&node).copied() {
                self.changed = true;
                let leaving = self.said_good_bye(known.id);
                if leaving && known.state == MemberState::Down {
                    // The news that it went down came before its good-bye.
                    self.set_known(known.id, MemberState::Left);
                    let member = self.member(known.id, MemberState::Left);
                    self.effects.push(Effect::Event(MemberEvent::Left(member)));
                } else {
                    let member = self.member(known.id, known.state);
                    self.effects
                        .push(Effect::Event(MemberEvent::SoftState(member)));
                }
            }
        }
        if std::mem::take(&mut self.changed) {
            self.effects.push(Effect::Members(Arc::new(self.members())));
        }
        std::mem::take(&mut self.effects)
    }

    /// Carries foca's wishes over into ours, until there are none.
    fn drain(&mut self, now: Now) {
        while self.runtime.backlog() > 0 {
            while let Some((to, data)) = self.runtime.to_send() {
                self.send(now, to.addr, KIND_FOCA, &data);
            }
            while let Some((after, timer)) = self.runtime.to_schedule() {
                let after = match &timer {
                    Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => {
                        self.health.stretch(after)
                    }
                    Timer::ChangeSuspectToDown { .. } => self.suspicion(),
                    _ => after,
                };
                self.timers.push(now.mono + after, Due::Foca(timer));
            }
            while let Some(notification) = self.runtime.to_notify() {
                self.notified(now, notification);
            }
        }
        let incarnation = self.tap.incarnation();
        if incarnation > self.last_incarnation {
            self.stats.refuted += 1;
            self.health.note(HealthEvent::Refuted);
        }
        self.last_incarnation = incarnation;
    }

    fn suspicion(&self) -> Duration {
        let nodes = (self.foca.num_members() + 1) as f64;
        self.health
            .stretch(self.config.timing.suspicion.mul_f64(nodes.log10().max(1.0)))
    }

    fn notified(&mut self, now: Now, notification: OwnedNotification<NodeIdentity>) {
        match notification {
            OwnedNotification::MemberUp(id) => {
                let back = self.known.contains_key(&id.node);
                let member = self.now_known(now, id);
                let event = if back {
                    MemberEvent::Recovered(member)
                } else {
                    MemberEvent::Joined(member)
                };
                self.effects.push(Effect::Event(event));
            }
            OwnedNotification::MemberDown(id) => {
                let (state, event): (_, fn(Member) -> MemberEvent) = if self.said_good_bye(id) {
                    (MemberState::Left, MemberEvent::Left)
                } else {
                    (MemberState::Down, MemberEvent::Down)
                };
                self.set_known(id, state);
                let member = self.member(id, state);
                self.effects.push(Effect::Event(event(member)));
            }
            OwnedNotification::Rename(_, id) => {
                // If it was down, the news that it is up follows.
                if let Some(known) = self.known.get(&id.node).copied() {
                    if known.state.is_active() {
                        let member = self.now_known(now, id);
                        self.effects
                            .push(Effect::Event(MemberEvent::Renewed(member)));
                    } else {
                        self.set_known(id, known.state);
                    }
                }
            }
            OwnedNotification::Rejoin(id) => self.rejoined(now, id),
            OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => {}
        }
    }

    /// This node had been declared down and took a new generation.
    fn rejoined(&mut self, now: Now, id: NodeIdentity) {
        self.stats.rejoined += 1;
        let again = self
            .last_rejoin
            .is_some_and(|last| now.mono.saturating_sub(last) < Duration::from_secs(10));
        self.rejoin_streak = if again { self.rejoin_streak + 1 } else { 1 };
        self.last_rejoin = Some(now.mono);
        if self.rejoin_streak > 3 {
            // Others know a much higher generation, from before this host's clock went back: leap over it.
            let leap = 1u64 << (10 * (self.rejoin_streak - 3)).min(50);
            self.change_identity(NodeIdentity {
                generation: id.generation.saturating_add(leap),
                ..id
            });
        } else {
            self.last_incarnation = 0;
            self.changed = true;
            self.publish();
        }
    }

    fn now_known(&mut self, now: Now, id: NodeIdentity) -> Member {
        self.set_known(id, MemberState::Alive);
        if self.known.len() == 1 {
            // The first contact: ask it for everything.
            self.chained = 0;
            self.pull(now, id.addr, 0, u64::MAX);
        } else if self.known.len() <= PULL_AT_ONCE {
            // Its soft state may have been gossiped long before this node knew it.
            self.pull(now, id.addr, id.node, id.node);
        }
        self.member(id, MemberState::Alive)
    }

    fn set_known(&mut self, id: NodeIdentity, state: MemberState) {
        if id.node != self.config.node {
            self.known.insert(id.node, Known { id, state });
            self.changed = true;
        }
    }

    fn said_good_bye(&self, id: NodeIdentity) -> bool {
        self.store
            .lock()
            .get(id.node)
            .is_some_and(|item| item.leaving && item.generation == id.generation)
    }

    fn send_aside(&mut self, now: Now, to: SocketAddr, aside: &Aside) {
        if let Ok(body) = postcard::to_stdvec(aside) {
            self.send(now, to, KIND_ASIDE, &body);
        }
    }

    fn send(&mut self, now: Now, to: SocketAddr, kind: u8, body: &[u8]) {
        if let Some(datagram) = self.sealer.seal(now.wall_ms, kind, body) {
            self.stats.sent += 1;
            self.effects.push(Effect::Send { to, datagram });
        }
    }

    /// foca's errors are about single messages, never about its state: count, say so, go on.
    fn check(&mut self, outcome: Result<(), foca::Error>) {
        match outcome {
            Ok(()) => {}
            Err(foca::Error::DataFromOurselves) => self.stats.own += 1,
            Err(error) => {
                self.stats.malformed += 1;
                tracing::debug!(node = self.config.node, %error, "gossip message refused");
            }
        }
    }
}
