//! The network between simulated hosts: streams that arrive in order or not at all, datagrams that may be lost, doubled
//! and overtaken, links that are cut one way or both. Everything sent in a step arrives in a later one.
//!
//! It must not know what is sent.

mod endpoint;
mod stream;

pub use endpoint::HostNetwork;

use crate::dice::Dice;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use stream::{Ends, Pipe, SimStream};

/// Microseconds of virtual time since the simulation began.
pub type Micros = u64;

/// A lost segment of a stream is sent again after this, doubled with each loss in a row.
const RETRANSMIT: Micros = 200_000;
const LONGEST_RETRANSMIT: Micros = 3_200_000;
/// Datagrams that wait to be taken in at one socket; further ones are dropped.
const QUEUE: usize = 4096;

/// What a link does to what is sent over it, one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Nothing passes.
    pub cut: bool,
    /// How many of 1000 are lost; a stream's are sent again.
    pub loss: u16,
    /// How many of 1000 datagrams arrive twice.
    pub double: u16,
    /// How long it takes, from and to.
    pub delay: (Micros, Micros),
}

impl Default for Link {
    fn default() -> Self {
        Self {
            cut: false,
            loss: 0,
            double: 0,
            delay: (2_000, 3_000),
        }
    }
}

/// What has passed since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Segments of streams sent.
    pub segments: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Streams opened.
    pub connections: u64,
}

/// The whole network. Clones are the same.
#[derive(Clone)]
pub struct Fabric(Arc<Mutex<Inner>>);

struct Inner {
    now: Micros,
    sequence: u64,
    dice: Dice,
    hosts: BTreeMap<IpAddr, Ports>,
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    usual: Link,
    due: BTreeMap<(Micros, u64), Delivery>,
    streams: BTreeMap<u64, Ends>,
    traffic: BTreeMap<IpAddr, Traffic>,
}

/// What one host listens to, in one life.
#[derive(Default)]
struct Ports {
    /// 0 while the host is off.
    life: u64,
    /// Counts lives.
    lives: u64,
    listeners: BTreeMap<u16, Incoming>,
    sockets: BTreeMap<u16, Mailbox>,
}

impl Ports {
    /// Begins a new life; what nobody took in the old one is the caller's.
    fn begin(&mut self) -> BTreeMap<u16, Incoming> {
        self.lives += 1;
        self.life = self.lives;
        self.sockets.clear();
        std::mem::take(&mut self.listeners)
    }
}

#[derive(Default)]
struct Incoming {
    streams: VecDeque<(SimStream, SocketAddr)>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Mailbox {
    datagrams: VecDeque<(Vec<u8>, SocketAddr)>,
    waker: Option<Waker>,
}

enum Delivery {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Asks for a stream.
    Open { stream: u64, attempt: u32 },
    /// Moves what is under way in one direction of a stream.
    Pump { stream: u64, side: usize },
}

impl Fabric {
    /// A network without hosts.
    #[must_use]
    pub fn new(dice: Dice) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now: 0,
            sequence: 0,
            dice,
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            usual: Link::default(),
            due: BTreeMap::new(),
            streams: BTreeMap::new(),
            traffic: BTreeMap::new(),
        })))
    }

    /// The host at this address is there from now on, in a new life: what it sends and listens to as seen by its programs.
    #[must_use]
    pub fn boot(&self, ip: IpAddr) -> HostNetwork {
        let mut inner = self.lock();
        let ports = inner.hosts.entry(ip).or_default();
        let before = ports.begin();
        let life = ports.life;
        drop(inner);
        // Streams that nobody took are closed, which needs the lock.
        drop(before);
        HostNetwork::new(self.clone(), ip, life)
    }

    /// The host's programs have ended; its kernel is there and says so to whoever asks.
    pub fn end(&self, ip: IpAddr) {
        let mut inner = self.lock();
        let Some(ports) = inner.hosts.get_mut(&ip) else {
            return;
        };
        let before = ports.begin();
        inner.reset_streams_of(ip);
        drop(inner);
        drop(before);
    }

    /// The host is off from now on: silent, and nothing is taken in.
    pub fn power_off(&self, ip: IpAddr) {
        let mut inner = self.lock();
        let Some(ports) = inner.hosts.get_mut(&ip) else {
            return;
        };
        let before = ports.begin();
        ports.life = 0;
        // Its ends are gone; the others' stay half open until they say something and the host is there again.
        for ends in inner.streams.values_mut() {
            for side in 0..2 {
                if ends.pipes[side].from.ip() == ip {
                    ends.pipes[side].forget();
                }
            }
        }
        drop(inner);
        drop(before);
    }

    /// Sets what the link from one host to another does.
    pub fn set_link(&self, from: IpAddr, to: IpAddr, link: Link) {
        let mut inner = self.lock();
        if link == inner.usual {
            inner.links.remove(&(from, to));
        } else {
            inner.links.insert((from, to), link);
        }
    }

    /// All links are as usual from now on.
    pub fn heal(&self) {
        self.lock().links.clear();
    }

    /// What this host has sent.
    #[must_use]
    pub fn traffic_of(&self, ip: IpAddr) -> Traffic {
        self.lock().traffic.get(&ip).copied().unwrap_or_default()
    }

    /// Time goes on to `now`: what is due by then arrives.
    pub fn advance(&self, now: Micros) {
        let mut wakers = Vec::new();
        {
            let mut inner = self.lock();
            inner.now = now;
            while let Some(entry) = inner.due.first_entry()
                && entry.key().0 <= now
            {
                let delivery = entry.remove();
                inner.deliver(self, delivery, &mut wakers);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long after its last attempt something is sent again that was lost so many times before.
fn retransmit(attempts: u32) -> Micros {
    (RETRANSMIT << attempts.min(4)).min(LONGEST_RETRANSMIT)
}

impl Inner {
    fn link(&self, from: IpAddr, to: IpAddr) -> Link {
        if from == to {
            // Within a host nothing is lost.
            return Link {
                delay: (0, 0),
                ..Link::default()
            };
        }
        self.links.get(&(from, to)).copied().unwrap_or(self.usual)
    }

    fn is_off(&self, ip: IpAddr) -> bool {
        self.hosts.get(&ip).is_none_or(|p| p.life == 0)
    }

    fn schedule(&mut self, at: Micros, delivery: Delivery) {
        self.sequence += 1;
        // Never within the step that it is sent in.
        let at = at.max(self.now + 1);
        self.due.insert((at, self.sequence), delivery);
    }

    fn delay(&mut self, link: Link) -> Micros {
        self.dice.between(link.delay.0, link.delay.1)
    }

    fn lost(&mut self, link: Link) -> bool {
        link.cut || (link.loss > 0 && self.dice.chance(u64::from(link.loss)))
    }

    fn send_datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let traffic = self.traffic.entry(from.ip()).or_default();
        traffic.datagrams += 1;
        traffic.bytes += bytes.len() as u64;
        let link = self.link(from.ip(), to.ip());
        if self.lost(link) {
            return;
        }
        let doubled = link.double > 0 && self.dice.chance(u64::from(link.double));
        for _ in 0..1 + usize::from(doubled) {
            let at = self.now + self.delay(link);
            let bytes = bytes.to_vec();
            self.schedule(at, Delivery::Datagram { from, to, bytes });
        }
    }

    fn deliver(&mut self, fabric: &Fabric, delivery: Delivery, wakers: &mut Vec<Waker>) {
        match delivery {
            Delivery::Datagram { from, to, bytes } => {
                // Cut meanwhile.
                if self.link(from.ip(), to.ip()).cut {
                    return;
                }
                let ports = self.hosts.get_mut(&to.ip());
                if let Some(mailbox) = ports.and_then(|p| p.sockets.get_mut(&to.port()))
                    && mailbox.datagrams.len() < QUEUE
                {
                    mailbox.datagrams.push_back((bytes, from));
                    wakers.extend(mailbox.waker.take());
                }
            }
            Delivery::Open { stream, attempt } => self.open(fabric, stream, attempt, wakers),
            Delivery::Pump { stream, side } => self.pump(stream, side, wakers),
        }
    }

    /// A request for a stream arrives, or is sent again.
    fn open(&mut self, fabric: &Fabric, id: u64, attempt: u32, wakers: &mut Vec<Waker>) {
        let Some(ends) = self.streams.get(&id) else {
            return;
        };
        let (from, to) = (ends.pipes[0].from, ends.pipes[1].from);
        let (there, back) = (self.link(from.ip(), to.ip()), self.link(to.ip(), from.ip()));
        if self.is_off(to.ip()) || self.lost(there) || self.lost(back) {
            let again = retransmit(attempt);
            let attempt = attempt + 1;
            self.schedule(
                self.now + again,
                Delivery::Open {
                    stream: id,
                    attempt,
                },
            );
            return;
        }
        let listener = self
            .hosts
            .get_mut(&to.ip())
            .and_then(|p| p.listeners.get_mut(&to.port()));
        let Some(listener) = listener else {
            if let Some(ends) = self.streams.get_mut(&id) {
                ends.refused = true;
                wakers.extend(ends.opening.take());
            }
            return;
        };
        let stream = SimStream::new(fabric.clone(), id, 1);
        listener.streams.push_back((stream, from));
        wakers.extend(listener.waker.take());
        if let Some(ends) = self.streams.get_mut(&id) {
            ends.open = true;
            wakers.extend(ends.opening.take());
        }
    }

    /// Moves what is due in one direction of a stream to its other end.
    fn pump(&mut self, id: u64, side: usize, wakers: &mut Vec<Waker>) {
        let Some(ends) = self.streams.get(&id) else {
            return;
        };
        let (from, to) = (ends.pipes[side].from, ends.pipes[1 - side].from);
        let (retries, gone) = (ends.pipes[side].retries, ends.pipes[1 - side].gone);
        let link = self.link(from.ip(), to.ip());
        if self.is_off(to.ip()) || self.lost(link) {
            if let Some(ends) = self.streams.get_mut(&id) {
                ends.pipes[side].retries += 1;
            }
            let at = self.now + retransmit(retries);
            self.schedule(at, Delivery::Pump { stream: id, side });
            return;
        }
        let now = self.now;
        let Some(ends) = self.streams.get_mut(&id) else {
            return;
        };
        if gone {
            // Its other end knows nothing of it any more, and says so.
            let pipe = &mut ends.pipes[side];
            pipe.reset = true;
            pipe.drop_under_way();
            pipe.pumping = false;
            wakers.extend(pipe.wakers());
            let other = &mut ends.pipes[1 - side];
            other.reset = true;
            wakers.extend(other.wakers());
            self.tidy(id);
            return;
        }
        let pipe = &mut ends.pipes[side];
        pipe.retries = 0;
        wakers.extend(pipe.arrive(now));
        if let Some(at) = pipe.next_due() {
            self.schedule(at, Delivery::Pump { stream: id, side });
        } else {
            pipe.pumping = false;
            self.tidy(id);
        }
    }

    /// The programs at this address have ended: whoever they spoke with is told.
    fn reset_streams_of(&mut self, ip: IpAddr) {
        let mut told = Vec::new();
        for (id, ends) in &mut self.streams {
            for side in 0..2 {
                if ends.pipes[side].from.ip() == ip && !ends.pipes[side].gone {
                    ends.pipes[side].forget();
                    told.push((*id, side));
                }
            }
        }
        for (id, side) in told {
            if let Some(ends) = self.streams.get_mut(&id) {
                ends.pipes[side].break_off(self.now);
            }
            self.start_pump(id, side);
        }
    }

    fn start_pump(&mut self, id: u64, side: usize) {
        let Some(ends) = self.streams.get_mut(&id) else {
            return;
        };
        let pipe = &mut ends.pipes[side];
        if !pipe.pumping
            && let Some(at) = pipe.next_due()
        {
            pipe.pumping = true;
            self.schedule(at, Delivery::Pump { stream: id, side });
        }
    }

    fn new_stream(&mut self, from: SocketAddr, to: SocketAddr) -> u64 {
        self.sequence += 1;
        let id = self.sequence;
        self.traffic.entry(from.ip()).or_default().connections += 1;
        let ends = Ends {
            pipes: [Pipe::new(from), Pipe::new(to)],
            open: false,
            refused: false,
            opening: None,
        };
        self.streams.insert(id, ends);
        let link = self.link(from.ip(), to.ip());
        let at = self.now + self.delay(link) + link.delay.0;
        self.schedule(
            at,
            Delivery::Open {
                stream: id,
                attempt: 0,
            },
        );
        id
    }

    /// Forgets a stream whose ends are both gone.
    fn tidy(&mut self, id: u64) {
        let done = self
            .streams
            .get(&id)
            .is_some_and(|ends| ends.pipes.iter().all(|p| p.gone && !p.pumping));
        if done {
            self.streams.remove(&id);
        }
    }
}
