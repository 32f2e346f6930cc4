//! A few histories that must go well, named cases, and deliberate bugs that must be seen. `make sim` runs thousands more, in
//! a build that is made for it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;
use swarm_simulation::history::{self, Failure};
use swarm_simulation::plan::{Event, Plan, Planned};
use swarm_simulation::sabotage::Bug;
use swarm_simulation::shrink::shrink;

/// A history of these events, a few seconds apart.
fn of(hosts: usize, events: &[Event]) -> Plan {
    let planned = |(number, event): (usize, &Event)| Planned {
        number,
        at: Duration::from_secs(3 + 2 * number as u64),
        event: *event,
        chance: number as u64,
    };
    Plan {
        seed: 1,
        hosts,
        managers: 3,
        events: events.iter().enumerate().map(planned).collect(),
        end: Duration::from_secs(5 + 2 * events.len() as u64),
    }
}

const RUN: Event = Event::Run {
    service: 0,
    replicas: 3,
    port: Some(8000),
};

fn goes_well(plan: &Plan) {
    if let Err(failure) = history::run(plan, None) {
        panic!("{failure}\n{:#?}", plan.events);
    }
}

fn seen(bug: Bug, events: &[Event]) -> (Plan, Failure) {
    let plan = of(3, events);
    let failure = history::run(&plan, Some(bug)).unwrap_err();
    let (_, said) = Bug::ALL.iter().find(|(b, _)| *b == bug).unwrap();
    assert!(said.iter().any(|s| failure.what.contains(s)), "{failure}");
    (plan, failure)
}

#[test]
fn a_drawn_history_goes_well() {
    goes_well(&Plan::draw(1));
}

#[test]
fn a_voter_that_is_one_no_more_follows_the_leader() {
    goes_well(&of(4, &[RUN, Event::Leave { host: 0 }]));
}

#[test]
fn two_voters_leave_one_after_the_other_and_the_cluster_goes_on() {
    let mut plan = of(5, &[Event::Leave { host: 0 }, Event::Leave { host: 1 }]);
    for gap in [1_000, 3_640] {
        plan.events[1].at = plan.events[0].at + Duration::from_millis(gap);
        goes_well(&plan);
    }
}

#[test]
fn a_host_that_is_killed_while_it_leaves_ends_its_tasks_when_it_is_back() {
    let mut plan = of(
        4,
        &[
            RUN,
            Event::Leave { host: 0 },
            Event::Kill {
                host: 0,
                gone: Duration::from_secs(8),
            },
        ],
    );
    plan.events[2].at = plan.events[1].at + Duration::from_millis(100);
    goes_well(&plan);
}

#[test]
fn containers_that_go_on_unwanted_are_seen() {
    seen(Bug::Zombies, &[RUN, Event::Remove { service: 0 }]);
}

#[test]
fn tasks_that_never_run_are_seen() {
    seen(Bug::Stuck, &[RUN]);
}

#[test]
fn names_that_do_not_resolve_are_seen() {
    seen(Bug::NoNames, &[RUN]);
}

#[test]
fn memory_that_grows_is_seen() {
    let scale = |replicas| Event::Scale {
        service: 0,
        replicas,
    };
    seen(Bug::Leak, &[RUN, scale(0), scale(9), scale(0), scale(9)]);
}

#[test]
fn a_failing_history_is_shortened_to_what_it_takes() {
    let token = Event::Token;
    let (plan, failure) = seen(Bug::NoNames, &[token, Event::Import, RUN, token]);
    let (short, _) = shrink(&plan, failure, Some(Bug::NoNames));
    let left: Vec<Event> = short.events.iter().map(|p| p.event).collect();
    assert_eq!(left, [RUN]);
}
