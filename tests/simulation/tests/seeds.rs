//! Histories that must go well, and deliberate bugs that must be seen. `make sim` runs thousands more.
#![allow(clippy::unwrap_used)]

use swarm_simulation::history::{self, Failure};
use swarm_simulation::plan::Plan;
use swarm_simulation::sabotage::Bug;
use swarm_simulation::shrink::shrink;

/// The first failure of these seeds.
fn first_failure(
    seeds: std::ops::RangeInclusive<u64>,
    bug: Option<Bug>,
) -> Option<(Plan, Failure)> {
    let plans = seeds.map(Plan::draw);
    plans.into_iter().find_map(|plan| {
        history::run(&plan, bug)
            .err()
            .map(|failure| (plan, failure))
    })
}

fn seen(bug: Bug, invariant: &str) {
    let Some((_, failure)) = first_failure(1..=20, Some(bug)) else {
        panic!("{bug:?} was not seen");
    };
    assert!(failure.what.contains(invariant), "{bug:?}: {failure}");
}

#[test]
fn the_fixed_seeds_go_well() {
    if let Some((plan, failure)) = first_failure(1..=8, None) {
        panic!("seed {}: {failure}", plan.seed);
    }
}

#[test]
fn containers_that_go_on_unwanted_are_seen() {
    seen(Bug::Zombies, "unwanted");
}

#[test]
fn tasks_that_never_run_are_seen() {
    seen(Bug::Stuck, "not right within");
}

#[test]
fn names_that_lag_for_ever_are_seen() {
    seen(Bug::OldNames, "discovery is what runs");
}

#[test]
fn memory_that_grows_is_seen() {
    seen(Bug::Leak, "memory is bounded");
}

#[test]
fn a_failing_history_is_shortened_to_what_it_takes() {
    let (plan, failure) = first_failure(1..=20, Some(Bug::OldNames)).unwrap();
    let (short, _) = shrink(&plan, failure, Some(Bug::OldNames));
    assert!(
        short.events.len() < plan.events.len() && short.events.len() <= 4,
        "{:#?}",
        short.events
    );
}
