//! What happens in a history, and when: users' wishes and faults, drawn from a seed before anything runs, so that a history
//! can be shortened and still be the same where it is left. Pure.

use crate::dice::Dice;
use std::time::Duration;

/// How many names of services there are.
pub const NAMES: u64 = 6;

/// One history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// Hosts that are there from the beginning.
    pub hosts: usize,
    /// How many of them may vote.
    pub managers: usize,
    /// What happens, in order.
    pub events: Vec<Planned>,
    /// When faults stop.
    pub end: Duration,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its place in the whole history, from 0.
    pub number: usize,
    /// When.
    pub at: Duration,
    /// What.
    pub event: Event,
    /// Chance of its own.
    pub chance: u64,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A user wants a service.
    Run {
        /// Which name.
        service: u64,
        /// How many tasks.
        replicas: u32,
        /// Whether it has a published port, the same for all that have one of that number.
        port: Option<u16>,
    },
    /// A user wants another number of tasks.
    Scale {
        /// Which name.
        service: u64,
        /// How many.
        replicas: u32,
    },
    /// A user wants a service gone.
    Remove {
        /// Which name.
        service: u64,
    },
    /// A user looks at a service.
    Look {
        /// Which name.
        service: u64,
    },
    /// A user empties a node.
    Drain {
        /// Which host.
        host: usize,
    },
    /// A user gives a node tasks again.
    Activate {
        /// Which host.
        host: usize,
    },
    /// A host that is new joins.
    Join {
        /// Whether it may vote.
        manager: bool,
    },
    /// A host leaves.
    Leave {
        /// Which host.
        host: usize,
    },
    /// A user imports an image on some host.
    Import,
    /// A user makes a token, and voids it.
    Token,
    /// A process of a container ends.
    Exit {
        /// On which host.
        host: usize,
        /// With which code.
        code: i32,
    },
    /// An agent is killed, and started again after a while.
    Kill {
        /// Whose.
        host: usize,
        /// For how long it is gone.
        gone: Duration,
    },
    /// A host loses power.
    PowerLoss {
        /// Which.
        host: usize,
        /// For how long.
        gone: Duration,
    },
    /// All hosts lose power at once.
    Blackout {
        /// For how long.
        gone: Duration,
    },
    /// The link from one host to another is cut, one way or both.
    Cut {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// Both ways.
        both: bool,
        /// For how long.
        lasts: Duration,
    },
    /// A host is cut off from all others, or only hears or only speaks.
    Alone {
        /// Which.
        host: usize,
        /// It cannot be heard.
        mute: bool,
        /// It cannot hear.
        deaf: bool,
        /// For how long.
        lasts: Duration,
    },
    /// All links lose, delay, double and reorder.
    Storm {
        /// How many of 1000 are lost.
        loss: u16,
        /// The longest delay, in milliseconds.
        delay: u16,
        /// For how long.
        lasts: Duration,
    },
    /// A host's clock jumps.
    Clock {
        /// Which.
        host: usize,
        /// By how many milliseconds it is off then.
        off: i64,
    },
    /// A host's time goes at another speed, its timers and its wall clock.
    Pace {
        /// Which.
        host: usize,
        /// How much faster, of 1000; slower where it is negative.
        ahead: i16,
    },
    /// A host's disk is slow.
    SlowDisk {
        /// Which.
        host: usize,
        /// How long each write takes.
        latency: Duration,
        /// For how long.
        lasts: Duration,
    },
    /// A host's disk is full.
    FullDisk {
        /// Which.
        host: usize,
        /// For how long.
        lasts: Duration,
    },
    /// A host gets another version of the program.
    Upgrade {
        /// Which.
        host: usize,
    },
    /// Some writes to a host's log go to other places.
    Misdirect {
        /// Which.
        host: usize,
        /// How many.
        writes: u8,
    },
    /// A host's disk says for a while that things are durable which are not; then the host loses power, and what was said is
    /// gone.
    Lie {
        /// Which.
        host: usize,
        /// For how long it lies.
        lasts: Duration,
        /// For how long the power is gone.
        gone: Duration,
    },
}

impl Plan {
    /// Draws a history.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed).fork(77);
        let hosts = dice.index(4) + 3;
        let managers = if hosts >= 5 && dice.chance(500) { 5 } else { 3 };
        let count = dice.between(10, 60);
        // Some histories are calm, some are not.
        let faults = [100, 300, 600][dice.index(3)];
        let mut at = Duration::from_secs(3);
        let mut events = Vec::new();
        for _ in 0..count {
            at += Duration::from_millis(dice.roll(4_000));
            let event = if dice.chance(faults) {
                fault(&mut dice, hosts)
            } else {
                wish(&mut dice, hosts)
            };
            let chance = dice.draw();
            events.push(Planned {
                number: events.len(),
                at,
                event,
                chance,
            });
        }
        bad_disk(&mut Dice::new(seed).fork(78), hosts, at, &mut events);
        bad_clocks(&mut Dice::new(seed).fork(79), hosts, at, &mut events);
        Self {
            seed,
            hosts,
            managers,
            events,
            end: at + Duration::from_secs(5),
        }
    }

    /// The same history with only those events.
    #[must_use]
    pub fn only(&self, keep: impl Fn(usize) -> bool) -> Self {
        let kept = self.events.iter().enumerate().filter(|(at, _)| keep(*at));
        Self {
            events: kept.map(|(_, event)| event.clone()).collect(),
            ..self.clone()
        }
    }
}

/// In some histories one host's disk is bad: what a cluster survives is a minority of them. Drawn by itself, so that what else
/// happens is the same without it.
fn bad_disk(dice: &mut Dice, hosts: usize, end: Duration, events: &mut Vec<Planned>) {
    if !dice.chance(250) {
        return;
    }
    let host = dice.index(hosts);
    for _ in 0..dice.between(1, 3) {
        let event = if dice.chance(500) {
            let writes = u8::try_from(dice.between(1, 8)).unwrap_or(1);
            Event::Misdirect { host, writes }
        } else {
            Event::Lie {
                host,
                lasts: Duration::from_millis(dice.between(50, 6_000)),
                gone: Duration::from_millis(dice.between(50, 8_000)),
            }
        };
        put(dice, events, end, event);
    }
}

/// In some histories time does not go at the same speed on all hosts, by up to a fifth. Drawn by itself as well.
fn bad_clocks(dice: &mut Dice, hosts: usize, end: Duration, events: &mut Vec<Planned>) {
    if !dice.chance(300) {
        return;
    }
    for _ in 0..dice.between(1, 2 * hosts as u64) {
        let event = Event::Pace {
            host: dice.index(hosts),
            ahead: i16::try_from(dice.roll(401)).unwrap_or_default() - 200,
        };
        put(dice, events, end, event);
    }
}

/// Puts an event somewhere into a history that lasts until `end`.
fn put(dice: &mut Dice, events: &mut Vec<Planned>, end: Duration, event: Event) {
    events.push(Planned {
        number: events.len(),
        at: Duration::from_secs(3) + end.mul_f64(dice.roll(1000) as f64 / 1000.0),
        event,
        chance: dice.draw(),
    });
    events.sort_by_key(|planned| planned.at);
}

fn wish(dice: &mut Dice, hosts: usize) -> Event {
    let service = dice.roll(NAMES);
    let replicas = u32::try_from(dice.roll(6)).unwrap_or_default();
    match dice.roll(20) {
        0..=5 => Event::Run {
            service,
            replicas: replicas.max(1),
            port: dice
                .chance(300)
                .then(|| 8000 + u16::try_from(dice.roll(3)).unwrap_or_default()),
        },
        6..=9 => Event::Scale { service, replicas },
        10..=12 => Event::Remove { service },
        13..=14 => Event::Look { service },
        15 => Event::Drain {
            host: dice.index(hosts),
        },
        16 => Event::Activate {
            host: dice.index(hosts),
        },
        17 => match dice.roll(4) {
            0 => Event::Join {
                manager: dice.chance(300),
            },
            1 => Event::Leave {
                host: dice.index(hosts),
            },
            2 => Event::Import,
            _ => Event::Token,
        },
        _ => Event::Exit {
            host: dice.index(hosts),
            code: i32::from(dice.chance(700)),
        },
    }
}

fn fault(dice: &mut Dice, hosts: usize) -> Event {
    let host = dice.index(hosts);
    let mut lasts = || Duration::from_millis(dice.between(50, 12_000));
    let (short, long) = (lasts(), lasts());
    match dice.roll(16) {
        0..=2 => Event::Kill { host, gone: short },
        3..=4 => Event::PowerLoss { host, gone: long },
        5 if dice.chance(400) => Event::Blackout { gone: short },
        5 | 6 => Event::Cut {
            from: host,
            to: (host + 1 + dice.index(hosts - 1)) % hosts,
            both: dice.chance(500),
            lasts: long,
        },
        7..=9 => {
            let (mute, deaf) =
                [(true, true), (true, true), (true, false), (false, true)][dice.index(4)];
            Event::Alone {
                host,
                mute,
                deaf,
                lasts: long,
            }
        }
        10 | 11 => Event::Storm {
            loss: u16::try_from(dice.roll(300)).unwrap_or_default(),
            delay: u16::try_from(dice.between(5, 400)).unwrap_or_default(),
            lasts: long,
        },
        12 => Event::Clock {
            host,
            off: i64::try_from(dice.roll(20_000)).unwrap_or_default() - 10_000,
        },
        13 => Event::SlowDisk {
            host,
            latency: Duration::from_millis(dice.between(5, 1_000)),
            lasts: long,
        },
        14 => Event::FullDisk { host, lasts: short },
        _ => Event::Upgrade { host },
    }
}
