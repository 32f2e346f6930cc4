//! Faults: how each is made, and taken back.

use super::History;
use crate::network::Link;
use crate::plan::Event;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How soon an agent that could not start is started again, as an init system does.
const AGAIN: Duration = Duration::from_secs(1);

/// What ends a fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    /// The host's agent is started.
    Start(usize),
    /// The link is as usual.
    Heal(IpAddr, IpAddr),
    /// The disk is fast.
    Fast(usize),
    /// The disk has room.
    Room(usize),
    /// The disk is honest, and the host loses power for so long.
    Lie(usize, Duration),
}

impl History {
    pub(super) fn fault(&mut self, event: Event) {
        let now = self.sim.now();
        match event {
            Event::Kill { host, gone } => {
                self.sim.hosts[host].kill();
                self.undo.push((now + gone, Undo::Start(host)));
            }
            Event::PowerLoss { host, gone } => {
                self.sim.hosts[host].lose_power();
                self.undo.push((now + gone, Undo::Start(host)));
            }
            Event::Blackout { gone } => {
                for host in 0..self.sim.hosts.len() {
                    self.sim.hosts[host].lose_power();
                    let late = Duration::from_millis(self.sim.dice.roll(4_000));
                    self.undo.push((now + gone + late, Undo::Start(host)));
                }
            }
            Event::Cut {
                from,
                to,
                both,
                lasts,
            } => {
                self.cut(from, to, lasts);
                if both {
                    self.cut(to, from, lasts);
                }
            }
            Event::Alone {
                host,
                mute,
                deaf,
                lasts,
            } => {
                for other in (0..self.sim.hosts.len()).filter(|other| *other != host) {
                    if mute {
                        self.cut(host, other, lasts);
                    }
                    if deaf {
                        self.cut(other, host, lasts);
                    }
                }
            }
            Event::Storm { loss, delay, lasts } => {
                let link = Link {
                    loss,
                    double: loss / 2,
                    delay: (2_000, u64::from(delay) * 1_000),
                    ..Link::default()
                };
                let hosts = self.sim.hosts.len();
                for from in 0..hosts {
                    for to in (0..hosts).filter(|to| *to != from) {
                        self.link(from, to, link, lasts);
                    }
                }
            }
            Event::Clock { host, off } => {
                self.sim.hosts[host].skew.store(off, Ordering::Relaxed);
            }
            Event::Pace { host, ahead } => self.sim.hosts[host].set_pace(ahead),
            Event::SlowDisk {
                host,
                latency,
                lasts,
            } => {
                self.sim.hosts[host].disk.set(|c| c.latency = latency);
                self.undo.push((now + lasts, Undo::Fast(host)));
            }
            Event::FullDisk { host, lasts } => {
                self.sim.hosts[host].disk.set(|c| c.full = true);
                self.undo.push((now + lasts, Undo::Room(host)));
            }
            Event::Upgrade { host } => {
                let host_ = &mut self.sim.hosts[host];
                host_.kill();
                host_.version.push('+');
                self.undo
                    .push((now + Duration::from_millis(300), Undo::Start(host)));
            }
            Event::Misdirect { host, writes } => {
                self.sim.hosts[host].disk.set(|c| c.misdirects = writes);
            }
            Event::Lie { host, lasts, gone } => {
                self.sim.hosts[host].disk.set(|c| c.lies = true);
                self.undo.push((now + lasts, Undo::Lie(host, gone)));
            }
            _ => {}
        }
    }

    fn cut(&mut self, from: usize, to: usize, lasts: Duration) {
        let link = Link {
            cut: true,
            ..Link::default()
        };
        self.link(from, to, link, lasts);
    }

    fn link(&mut self, from: usize, to: usize, link: Link, lasts: Duration) {
        let (from, to) = (self.sim.hosts[from].ip, self.sim.hosts[to].ip);
        self.sim.fabric.set_link(from, to, link);
        let end = self.sim.now() + lasts;
        self.undo.push((end, Undo::Heal(from, to)));
    }

    pub(super) fn undo_what_is_due(&mut self) {
        let now = self.sim.now();
        let due: Vec<Undo> = self
            .undo
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, undo)| undo)
            .collect();
        for undo in due {
            self.take_back(undo);
        }
        self.start_what_has_failed();
    }

    fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Start(host) => {
                let host = &mut self.sim.hosts[host];
                if host.agent().is_none()
                    && let Err(why) = host.start()
                {
                    tracing::error!(%why, "a host cannot be started");
                }
                if let Some(bug) = self.bug {
                    bug.apply(host);
                }
            }
            Undo::Heal(from, to) => self.sim.fabric.set_link(from, to, Link::default()),
            Undo::Fast(host) => self.sim.hosts[host]
                .disk
                .set(|c| c.latency = Duration::ZERO),
            Undo::Room(host) => self.sim.hosts[host].disk.set(|c| c.full = false),
            Undo::Lie(host, gone) => {
                self.sim.hosts[host].lose_power();
                self.sim.hosts[host].disk.set(|c| c.lies = false);
                let again = self.sim.now() + gone;
                self.undo.push((again, Undo::Start(host)));
            }
        }
    }

    /// Whoever could not start is started again, as an init system does.
    fn start_what_has_failed(&mut self) {
        let now = self.sim.now();
        for host in 0..self.sim.hosts.len() {
            if self.sim.hosts[host].trouble().is_some() {
                self.sim.hosts[host].kill();
                self.undo.push((now + AGAIN, Undo::Start(host)));
            }
        }
    }

    /// No more faults: everything that was broken is whole.
    pub(super) fn stop_faults(&mut self) {
        self.sim.fabric.heal();
        while let Some((_, undo)) = self.undo.pop() {
            self.take_back(undo);
        }
        for number in 0..self.sim.hosts.len() {
            let host = &mut self.sim.hosts[number];
            host.set_clock_right();
            host.disk.set(|c| {
                c.full = false;
                c.misdirects = 0;
                c.latency = Duration::ZERO;
            });
            // One whose joining came to nothing may have its place all the same.
            if host.look(|_| ()).is_none() {
                host.kill();
                self.take_back(Undo::Start(number));
            }
        }
    }
}
