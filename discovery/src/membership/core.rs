//! The core of membership: foca, the seals, the soft states and the local health, put together without I/O.
//!
//! In: datagrams, commands, and the time. Out: datagrams to send, events, and a new list of members when it changed.
//! It keeps its own timers ([`Core::next_deadline`]), stretched by the local health; it must not know of sockets,
//! clocks or tasks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, Timer};
use rand::SeedableRng;
use rand::rngs::StdRng;

mod exchange;
mod liveness;

use self::exchange::Aside;
use super::codec::{GossipCodec, Tap};
use super::config::{MAX_DATAGRAM, MembershipConfig};
use super::health::LocalHealth;
use super::identity::NodeIdentity;
use super::seal::{KeyRing, Rejected, Sealer};
use super::soft_state::{Item, SharedStore};
use super::timers::Timers;
use super::view::{Member, MemberEvent, MemberState};
use crate::DiscoveryError;

const KIND_FOCA: u8 = 0;
const KIND_ASIDE: u8 = 1;
/// How often contact is sought while this node has never had any.
const JOIN_PERIOD: Duration = Duration::from_millis(500);
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
