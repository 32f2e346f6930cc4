//! The shell of membership: one task that owns the core, a socket and the clock, and a handle to talk to it.
//!
//! Sockets, wall clock and seed are handed in; time is `tokio::time`, so that a simulation may drive it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::config::{MAX_DATAGRAM, MembershipConfig, check_soft_state};
use super::core::{Core, Effect, Event, Now, Stats};
use super::seal::KeyRing;
use super::view::{Member, MemberEvent};
use crate::DiscoveryError;

/// How many datagrams may be taken in a row before due timers get their turn.
const BATCH: u32 = 128;
/// How many events a slow subscriber may lag behind before it loses the oldest.
const EVENT_BUFFER: usize = 1024;
/// How often a good-bye is said, and how long between.
const GOOD_BYES: u32 = 3;
const GOOD_BYE_GAP: Duration = Duration::from_millis(40);

/// Where datagrams come from and go to.
pub trait DatagramSocket: Send + Sync + 'static {
    /// Waits for a datagram, as `recvfrom(2)`.
    fn recv_from(
        &self,
        buf: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;
    /// Sends a datagram, as `sendto(2)`.
    fn send_to(&self, buf: &[u8], to: SocketAddr) -> impl Future<Output = io::Result<()>> + Send;
}

impl DatagramSocket for UdpSocket {
    async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        UdpSocket::recv_from(self, buf).await
    }

    async fn send_to(&self, buf: &[u8], to: SocketAddr) -> io::Result<()> {
        UdpSocket::send_to(self, buf, to).await.map(drop)
    }
}

/// Tells Unix time in milliseconds.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's clock.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

enum Command {
    Event(Event),
    Leave(oneshot::Sender<()>),
    Shutdown,
}

/// A handle to this node's membership. When it is dropped, the loop ends without a good-bye.
pub struct Membership {
    commands: mpsc::UnboundedSender<Command>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    events: broadcast::Sender<MemberEvent>,
    stats: Arc<Mutex<Stats>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Membership {
    /// Starts membership on `socket` with the system's wall clock. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work, or the system gives no random numbers.
    pub fn start(
        config: MembershipConfig,
        socket: impl DatagramSocket,
    ) -> Result<Self, DiscoveryError> {
        Self::start_with_clock(config, socket, Arc::new(unix_millis))
    }

    /// As [`Membership::start`], with a wall clock handed in.
    ///
    /// # Errors
    /// As [`Membership::start`].
    pub fn start_with_clock(
        config: MembershipConfig,
        socket: impl DatagramSocket,
        clock: WallClock,
    ) -> Result<Self, DiscoveryError> {
        let (seed, session) = match config.seed {
            Some(seed) => (seed, seed.rotate_left(17) ^ config.generation),
            None => (random_u64()?, random_u64()?),
        };
        let origin = Instant::now();
        let now = Now {
            mono: Duration::ZERO,
            wall_ms: clock(),
        };
        let (core, effects) = Core::new(config, seed, session, now)?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (members_tx, members) = watch::channel(Arc::new(core.members()));
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        let stats = Arc::new(Mutex::new(Stats::default()));
        let driver = Driver {
            core,
            socket,
            clock,
            origin,
            inbox,
            members: members_tx,
            events: events.clone(),
            stats: stats.clone(),
            send_errors: 0,
        };
        let task = tokio::spawn(driver.run(effects));
        Ok(Self {
            commands,
            members,
            events,
            stats,
            task: Mutex::new(Some(task)),
        })
    }

    /// The members as this node sees them now, itself first.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.borrow().clone()
    }

    /// Follows the list of members: always the newest, intermediate ones may be skipped.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.clone()
    }

    /// Follows what happens to members, from now on. Who lags far behind loses the oldest and should read
    /// [`Membership::members`] anew.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<MemberEvent> {
        self.events.subscribe()
    }

    /// Publishes this node's soft state to all members; the newest wins.
    ///
    /// # Errors
    /// When it exceeds [`super::MAX_SOFT_STATE`], or membership has been shut down.
    pub fn set_soft_state(&self, state: Bytes) -> Result<(), DiscoveryError> {
        check_soft_state(&state)?;
        self.tell("publish a soft state", Event::SoftState(state))
    }

    /// Joins through these addresses and keeps them as seeds.
    ///
    /// # Errors
    /// When membership has been shut down.
    pub fn join(&self, seeds: Vec<SocketAddr>) -> Result<(), DiscoveryError> {
        self.tell("join", Event::Join(seeds))
    }

    /// Seals and opens with other keys from now on.
    ///
    /// # Errors
    /// When membership has been shut down.
    pub fn set_keys(&self, keys: KeyRing) -> Result<(), DiscoveryError> {
        self.tell("change the gossip keys", Event::Keys(keys))
    }

    /// Tells the members that this node is reached at another address.
    ///
    /// # Errors
    /// When membership has been shut down.
    pub fn set_address(&self, addr: SocketAddr) -> Result<(), DiscoveryError> {
        self.tell("change the gossip address", Event::Address(addr))
    }

    /// Says good-bye to the members and stops.
    pub async fn leave(&self) {
        let (done, said) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).is_ok() {
            // An error here means that the loop has ended: nothing is left to wait for.
            said.await.ok();
        }
        self.join_task().await;
    }

    /// Stops without a good-bye: to the others this node looks like one that crashed.
    pub async fn shutdown(&self) {
        self.commands.send(Command::Shutdown).ok();
        self.join_task().await;
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, attempted: &'static str, event: Event) -> Result<(), DiscoveryError> {
        self.commands
            .send(Command::Event(event))
            .map_err(|_| DiscoveryError::Stopped {
                attempted,
                part: "membership",
            })
    }

    async fn join_task(&self) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the membership loop failed");
        }
    }
}

fn random_u64() -> Result<u64, DiscoveryError> {
    let mut bytes = [0u8; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).map_err(|_| {
        DiscoveryError::Config {
            part: "membership",
            reason: "the system gives no random numbers".to_owned(),
        }
    })?;
    Ok(u64::from_ne_bytes(bytes))
}

struct Driver<S> {
    core: Core,
    socket: S,
    clock: WallClock,
    origin: Instant,
    inbox: mpsc::UnboundedReceiver<Command>,
    members: watch::Sender<Arc<Vec<Member>>>,
    events: broadcast::Sender<MemberEvent>,
    stats: Arc<Mutex<Stats>>,
    send_errors: u64,
}

impl<S: DatagramSocket> Driver<S> {
    async fn run(mut self, effects: Vec<Effect>) {
        let mut buf = vec![0u8; MAX_DATAGRAM + 1];
        let sleep = tokio::time::sleep_until(self.origin);
        tokio::pin!(sleep);
        let mut in_a_row = 0;
        self.carry_out(effects).await;
        loop {
            let deadline = self.core.next_deadline().map_or_else(
                || Instant::now() + Duration::from_secs(3600),
                |due| self.origin + due,
            );
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            if in_a_row >= BATCH {
                in_a_row = 0;
                self.feed(Event::Tick).await;
                tokio::task::yield_now().await;
                continue;
            }
            // Datagrams before timers: after a pause, what was said meanwhile counts before what is concluded.
            tokio::select! {
                biased;
                command = self.inbox.recv() => match command {
                    Some(Command::Event(event)) => self.feed(event).await,
                    Some(Command::Leave(done)) => {
                        for round in 0..GOOD_BYES {
                            if round > 0 {
                                tokio::time::sleep(GOOD_BYE_GAP).await;
                            }
                            self.feed(Event::Leave).await;
                        }
                        done.send(()).ok();
                        return;
                    }
                    Some(Command::Shutdown) | None => return,
                },
                received = self.socket.recv_from(&mut buf) => match received {
                    Ok((len, _)) => {
                        in_a_row += 1;
                        let packet = buf[..len].to_vec();
                        self.feed(Event::Datagram(packet)).await;
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot receive gossip");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                },
                () = sleep.as_mut() => self.feed(Event::Tick).await,
            }
            in_a_row = 0;
        }
    }

    async fn feed(&mut self, event: Event) {
        let now = Now {
            mono: self.origin.elapsed(),
            wall_ms: (self.clock)(),
        };
        let effects = self.core.handle(now, event);
        self.carry_out(effects).await;
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, datagram } => {
                    if let Err(error) = self.socket.send_to(&datagram, to).await {
                        self.send_errors += 1;
                        tracing::debug!(%to, %error, "cannot send gossip");
                    }
                }
                Effect::Event(event) => {
                    // Nobody may be listening.
                    self.events.send(event).ok();
                }
                Effect::Members(members) => {
                    self.members.send_replace(members);
                }
            }
        }
        let mut stats = self.core.stats();
        stats.send_errors = self.send_errors;
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}
