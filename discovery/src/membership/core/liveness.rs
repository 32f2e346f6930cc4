//! Liveness: foca's timers stretched by the local health, suspicions, and what foca's news mean for the list of
//! members. A part of the core: no I/O.

use std::time::Duration;

use foca::{OwnedNotification, State, Timer};
use rand::RngExt;

use super::super::health::HealthEvent;
use super::super::identity::NodeIdentity;
use super::super::view::{Member, MemberEvent, MemberState};
use super::exchange::Aside;
use super::{Core, Due, Effect, KIND_FOCA, Known, Now};

/// Up to this size of cluster, a new member is asked for its soft state at once; in larger ones the sync will do.
const PULL_AT_ONCE: usize = 64;
/// About how many members tell a suspect, each probe period, that it is one.
const BUDDIES: f64 = 10.0;

impl Core {
    pub(super) fn tick(&mut self, now: Now) {
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

    pub(super) fn foca_timer(&mut self, now: Now, timer: Timer<NodeIdentity>, lag: Duration) {
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
    pub(super) fn ask_helpers(&mut self, now: Now) {
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
    pub(super) fn sweep(&mut self, now: Now) {
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

    /// Carries foca's wishes over into ours, until there are none.
    pub(super) fn drain(&mut self, now: Now) {
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

    pub(super) fn suspicion(&self) -> Duration {
        let nodes = (self.foca.num_members() + 1) as f64;
        self.health
            .stretch(self.config.timing.suspicion.mul_f64(nodes.log10().max(1.0)))
    }

    pub(super) fn notified(&mut self, now: Now, notification: OwnedNotification<NodeIdentity>) {
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
    pub(super) fn rejoined(&mut self, now: Now, id: NodeIdentity) {
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

    pub(super) fn now_known(&mut self, now: Now, id: NodeIdentity) -> Member {
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

    pub(super) fn set_known(&mut self, id: NodeIdentity, state: MemberState) {
        if id.node != self.config.node {
            self.known.insert(id.node, Known { id, state });
            self.changed = true;
        }
    }

    pub(super) fn said_good_bye(&self, id: NodeIdentity) -> bool {
        self.store
            .lock()
            .get(id.node)
            .is_some_and(|item| item.leaving && item.generation == id.generation)
    }
}
