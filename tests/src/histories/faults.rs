//! Faults that befall the hosts of a cluster, one after another or two at a time, each for a while.

use super::dice::Dice;
use super::record::Lives;
use crate::{Cluster, Host, processes};
use anyhow::{Context, Result};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// What can befall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An agent is killed, and started again after a while.
    Kill,
    /// The leading agent is.
    KillLeader,
    /// All agents are, at once.
    KillAll,
    /// An agent is asked to end, and started again.
    Stop,
    /// An agent does not run for a while (SIGSTOP).
    Freeze,
    /// The leading one does not.
    FreezeLeader,
    /// A host hears and is heard by nobody.
    Cut,
    /// The leading one.
    CutLeader,
    /// A host hears nothing from another one.
    Deafen,
    /// Two hosts lose each other.
    Part,
    /// A host loses many packets.
    Lose,
    /// A host's disk is full.
    FillDisk,
    /// A host loses power, its containers with it.
    PowerOff,
}

impl Kind {
    /// Those that leave containers alone and need no disk of a host's own.
    pub const QUICK: &[Self] = &[
        Self::Kill,
        Self::KillLeader,
        Self::KillAll,
        Self::Stop,
        Self::Freeze,
        Self::FreezeLeader,
        Self::Cut,
        Self::CutLeader,
        Self::Deafen,
        Self::Part,
        Self::Lose,
    ];
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Kill,
        Self::KillLeader,
        Self::KillAll,
        Self::Stop,
        Self::Freeze,
        Self::FreezeLeader,
        Self::Cut,
        Self::CutLeader,
        Self::Deafen,
        Self::Part,
        Self::Lose,
        Self::FillDisk,
        Self::PowerOff,
    ];
}

/// What befalls at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Down(usize),
    AllDown,
    Frozen(usize),
    Network(usize, usize),
    Full(usize),
    Off(usize),
}

/// The faults of one cluster.
#[derive(Debug)]
pub struct Faults<'a> {
    cluster: &'a Cluster,
    kinds: Vec<Kind>,
    dice: Dice,
    lives: Lives,
    spared: Option<usize>,
    present: Vec<Fault>,
}

impl<'a> Faults<'a> {
    /// Faults of these kinds, as `dice` has it.
    #[must_use]
    pub fn new(cluster: &'a Cluster, kinds: Vec<Kind>, dice: Dice) -> Self {
        Self::telling(cluster, kinds, dice, Lives::of(cluster.hosts().len()))
    }

    /// As [`Faults::new`]; `lives` is told whose agent ends.
    pub(super) fn telling(
        cluster: &'a Cluster,
        kinds: Vec<Kind>,
        dice: Dice,
        lives: Lives,
    ) -> Self {
        Self {
            cluster,
            kinds,
            dice,
            lives,
            spared: None,
            present: Vec::new(),
        }
    }

    /// The agent of this host, from 0, is never ended.
    #[must_use]
    pub fn sparing(mut self, host: usize) -> Self {
        self.spared = Some(host);
        self
    }

    /// Lets faults befall for `time`; `say` hears of each.
    ///
    /// # Errors
    /// Where one cannot be made or healed, or an agent ends by itself.
    pub fn befall(&mut self, time: Duration, say: &dyn Fn(&str)) -> Result<()> {
        let until = Instant::now() + time;
        let wait = |time: Duration| {
            std::thread::sleep(time.min(until.saturating_duration_since(Instant::now())));
        };
        while Instant::now() < until {
            wait(
                self.dice
                    .time(Duration::from_millis(200), Duration::from_secs(2)),
            );
            if self.kinds.is_empty() || Instant::now() >= until {
                continue;
            }
            for host in self.cluster.hosts() {
                super::alive(host)?;
            }
            self.one(say)?;
            while self.dice.percent(35) {
                wait(self.dice.time(Duration::ZERO, Duration::from_secs(2)));
                self.one(say)?;
            }
            // Some are over before a host is declared dead, some are not.
            let long = self.dice.percent(40);
            let most = Duration::from_secs(if long { 12 } else { 3 });
            wait(self.dice.time(Duration::from_millis(200), most));
            self.heal_all()?;
            say("healed");
        }
        Ok(())
    }

    /// One more, of a host that none befalls at present.
    fn one(&mut self, say: &dyn Fn(&str)) -> Result<()> {
        let kind = *self.dice.one(&self.kinds.clone());
        if let Some(what) = self.make(kind)? {
            say(&what);
        }
        Ok(())
    }

    fn is_struck(&self, n: usize) -> bool {
        self.present.iter().any(|fault| match fault {
            Fault::AllDown => true,
            Fault::Network(a, b) => n == *a || n == *b,
            Fault::Down(m) | Fault::Frozen(m) | Fault::Full(m) | Fault::Off(m) => n == *m,
        })
    }

    fn make(&mut self, kind: Kind) -> Result<Option<String>> {
        let hosts = self.cluster.hosts();
        let count = hosts.len() as u64;
        let any = |dice: &mut Dice| usize::try_from(dice.below(count)).unwrap_or_default();
        let first = match kind {
            Kind::KillLeader | Kind::FreezeLeader | Kind::CutLeader => self.leader(),
            _ => None,
        };
        let n = match first {
            Some(n) => n,
            None => any(&mut self.dice),
        };
        let other =
            (n + 1 + usize::try_from(self.dice.below(count.max(2) - 1)).unwrap_or_default())
                % hosts.len();
        let is_end = matches!(
            kind,
            Kind::Kill | Kind::KillLeader | Kind::Stop | Kind::PowerOff
        );
        let is_spared = self.spared.is_some_and(|spared| is_end && spared == n)
            || (self.spared.is_some() && kind == Kind::KillAll);
        let is_of_two = matches!(kind, Kind::Deafen | Kind::Part);
        let is_of_all = kind == Kind::KillAll && !self.present.is_empty();
        if is_spared || is_of_all || self.is_struck(n) || (is_of_two && self.is_struck(other)) {
            return Ok(None);
        }
        let host = &hosts[n];
        let name = &host.name;
        // Known before it is made, so that what is half made is healed.
        let mut set = |fault| {
            ends(&self.lives, fault);
            self.present.push(fault);
        };
        Ok(Some(match kind {
            Kind::Kill | Kind::KillLeader => {
                set(Fault::Down(n));
                host.kill_agent()?;
                format!("{name}'s agent is killed")
            }
            Kind::KillAll => {
                set(Fault::AllDown);
                for host in hosts {
                    host.kill_agent()?;
                }
                "all agents are killed".into()
            }
            Kind::Stop => {
                set(Fault::Down(n));
                host.stop_agent()?;
                format!("{name}'s agent is stopped")
            }
            Kind::Freeze | Kind::FreezeLeader => {
                set(Fault::Frozen(n));
                processes::signal_all(host.agent_pid(), Signal::STOP)?;
                format!("{name}'s agent is frozen")
            }
            Kind::Cut | Kind::CutLeader => {
                set(Fault::Network(n, n));
                host.cut()?;
                format!("{name} is cut off")
            }
            Kind::Deafen => {
                set(Fault::Network(n, other));
                host.deafen_to(&hosts[other])?;
                format!("{name} hears nothing of {}", hosts[other].name)
            }
            Kind::Part => {
                set(Fault::Network(n, other));
                host.cut_from(&hosts[other])?;
                format!("{name} and {} lose each other", hosts[other].name)
            }
            Kind::Lose => {
                set(Fault::Network(n, n));
                let percent = u8::try_from(10 + self.dice.below(50)).unwrap_or(50);
                host.lose(percent)?;
                format!("{name} loses {percent} % of what comes in")
            }
            Kind::FillDisk => {
                set(Fault::Full(n));
                host.fill_disk()?;
                format!("{name}'s disk is full")
            }
            Kind::PowerOff => {
                set(Fault::Off(n));
                host.power_off()?;
                format!("{name} loses power")
            }
        }))
    }

    fn leader(&self) -> Option<usize> {
        let hosts = self.cluster.hosts();
        let leader = hosts.iter().find_map(|h| self.cluster.leader(h).ok())?;
        hosts.iter().position(|h| h.name == leader.name)
    }

    /// Takes away what befalls at present.
    ///
    /// # Errors
    /// Where that fails.
    pub fn heal_all(&mut self) -> Result<()> {
        let hosts = self.cluster.hosts();
        for fault in std::mem::take(&mut self.present) {
            // Who asked between the end that was announced and the real one asked the old one still.
            ends(&self.lives, fault);
            let healed = match fault {
                Fault::Down(n) => start(&hosts[n]),
                Fault::AllDown => hosts.iter().try_for_each(start),
                Fault::Frozen(n) => processes::signal_all(hosts[n].agent_pid(), Signal::CONT),
                Fault::Network(a, b) => hosts[a].heal().and_then(|()| hosts[b].heal()),
                Fault::Full(n) => hosts[n].empty_disk(),
                Fault::Off(n) => hosts[n].power_on(),
            };
            healed.with_context(|| format!("cannot heal {fault:?}"))?;
        }
        Ok(())
    }
}

/// Tells whose agents end by it.
fn ends(lives: &Lives, fault: Fault) {
    match fault {
        Fault::Down(n) | Fault::Off(n) => lives.end(n),
        Fault::AllDown => lives.end_all(),
        Fault::Frozen(_) | Fault::Network(..) | Fault::Full(_) => {}
    }
}

fn start(host: &Host) -> Result<()> {
    match host.agent_pid() {
        Some(_) => Ok(()),
        None => host.spawn_agent(),
    }
}
