//! Makes a failing history shorter: events are left out, many at first, as long as it still fails in the same way.

use crate::history::{self, Failure};
use crate::plan::Plan;
use crate::sabotage::Bug;

/// The shortest history found that still fails, and how.
#[must_use]
pub fn shrink(plan: &Plan, failure: Failure, bug: Option<Bug>) -> (Plan, Failure) {
    let (mut plan, mut failure) = (plan.clone(), failure);
    let mut chunk = plan.events.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < plan.events.len() {
            let without = plan.only(|n| n < at || n >= at + chunk);
            match history::run(&without, bug) {
                Err(other) if kind(&other) == kind(&failure) => (plan, failure) = (without, other),
                _ => at += chunk,
            }
        }
        chunk /= 2;
    }
    (plan, failure)
}

/// Which invariant it is: what comes before the colon.
fn kind(failure: &Failure) -> &str {
    let what = failure.what.as_str();
    what.split_once(':').map_or(what, |(kind, _)| kind)
}
