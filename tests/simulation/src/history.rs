//! Runs one history: carries out what is planned, keeps what users know, looks at the invariants all the time, and sees that
//! everything comes right once faults have stopped.

mod faults;
mod wishes;

use crate::invariants::{self, Invariants};
use crate::plan::{Event, Plan};
use crate::sabotage::Bug;
use crate::simulation::Simulation;
use crate::users::Users;
use faults::Undo;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;
use wishes::Pending;

/// How often the invariants are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How soon everything is right again once faults have stopped: leases, back-offs and retries included.
const BOUND: Duration = Duration::from_secs(150);

/// What became of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// When it ended, in virtual time.
    pub ended: Duration,
    /// How long it took to come right after faults had stopped.
    pub healed_in: Duration,
    /// What all hosts did, as a number: the same for the same history.
    pub trace: u64,
    /// How many wishes were acknowledged, and how many were sent.
    pub wishes: (u64, u64),
}

/// What was wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it was seen, in virtual time.
    pub at: Duration,
    /// What was seen.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "after {:.3} s: {}", self.at.as_secs_f64(), self.what)
    }
}

struct History {
    sim: Simulation,
    invariants: Invariants,
    users: Users,
    pending: Vec<Pending>,
    undo: Vec<(Duration, Undo)>,
    trace: DefaultHasher,
    acknowledged: u64,
    sent: u64,
    bug: Option<Bug>,
}

/// Runs a history, with a deliberate bug or none.
///
/// # Errors
/// The first thing that was wrong.
pub fn run(plan: &Plan, bug: Option<Bug>) -> Result<Outcome, Failure> {
    crate::panics::take();
    let _bug = crate::sabotage::begin(bug);
    let mut history = History {
        sim: Simulation::new(plan.seed),
        invariants: Invariants::default(),
        users: Users::default(),
        pending: Vec::new(),
        undo: Vec::new(),
        trace: DefaultHasher::new(),
        acknowledged: 0,
        sent: 0,
        bug,
    };
    let outcome = history.run(plan);
    outcome.map_err(|what| Failure {
        at: history.sim.now(),
        what,
    })
}

impl History {
    fn run(&mut self, plan: &Plan) -> Result<Outcome, String> {
        (self.sim.cluster(plan.hosts, plan.managers))
            .map_err(|why| format!("the cluster did not come about: {why}"))?;
        if let Some(bug) = self.bug {
            for host in &self.sim.hosts {
                bug.apply(host);
            }
        }
        for planned in &plan.events {
            self.go_on_until(planned.at)?;
            self.carry_out(planned.event, planned.chance);
        }
        self.go_on_until(plan.end)?;
        self.stop_faults();
        let stopped = self.sim.now();
        self.come_right(stopped)?;
        self.compare_with_what_users_know()?;
        Ok(Outcome {
            ended: self.sim.now(),
            healed_in: self.sim.now().saturating_sub(stopped),
            trace: self.trace.finish(),
            wishes: (self.acknowledged, self.sent),
        })
    }

    fn carry_out(&mut self, event: Event, chance: u64) {
        match event {
            Event::Run { .. }
            | Event::Scale { .. }
            | Event::Remove { .. }
            | Event::Look { .. }
            | Event::Drain { .. }
            | Event::Activate { .. }
            | Event::Join { .. }
            | Event::Leave { .. }
            | Event::Import
            | Event::Token
            | Event::Exit { .. } => self.wish(event, chance),
            _ => self.fault(event),
        }
    }

    fn go_on_until(&mut self, time: Duration) -> Result<(), String> {
        while self.sim.now() < time {
            self.go_on(LOOK)?;
        }
        Ok(())
    }

    fn go_on(&mut self, time: Duration) -> Result<(), String> {
        self.sim.run_for(time);
        self.undo_what_is_due();
        self.collect_answers()?;
        self.invariants.check(&self.sim)?;
        if let Some(panic) = crate::panics::take() {
            return Err(format!("nothing panics: {panic}"));
        }
        for host in &self.sim.hosts {
            let status = host.look(swarm_member::Member::status);
            let seen = status.map(|s| (s.applied, s.term, s.leader));
            let traffic = self.sim.fabric.traffic_of(host.ip);
            // Not the bytes: HTTP tells the real date.
            (seen, traffic.segments, traffic.datagrams).hash(&mut self.trace);
            tracing::trace!(now = ?self.sim.now(), host = host.name, ?seen, ?traffic);
        }
        Ok(())
    }

    /// Waits until nothing is wrong, twice in a row and some time apart.
    fn come_right(&mut self, stopped: Duration) -> Result<(), String> {
        let mut right_since = None;
        loop {
            self.go_on(LOOK)?;
            let now = self.sim.now();
            let wrong = match invariants::converged(&self.sim) {
                Ok(()) if self.pending.is_empty() => None,
                Ok(()) => Some("wishes are under way".to_owned()),
                Err(why) => Some(why),
            };
            match wrong {
                None => {
                    let since = *right_since.get_or_insert(now);
                    if now - since >= Duration::from_secs(2) {
                        return Ok(());
                    }
                }
                Some(why) => {
                    right_since = None;
                    if now - stopped > BOUND {
                        return Err(format!("not right within {BOUND:?}: {why}"));
                    }
                }
            }
        }
    }

    fn compare_with_what_users_know(&mut self) -> Result<(), String> {
        let mut there = std::collections::BTreeMap::new();
        for host in &self.sim.hosts {
            let services = host.look(|m| {
                let state = m.state();
                let known = state.services.values().filter(|r| !r.removing);
                known
                    .map(|r| (r.service.spec.name.clone(), r.service.spec.replicas))
                    .collect::<Vec<_>>()
            });
            there.extend(services.into_iter().flatten());
        }
        let names: Vec<String> = self.users.names().cloned().collect();
        for name in names {
            self.users
                .saw(&name, there.get(&name).copied())
                .map_err(|why| format!("nothing acknowledged is lost: {why}"))?;
        }
        Ok(())
    }
}
