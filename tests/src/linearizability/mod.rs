//! Whether a history of concurrent operations is linearizable: whether there is one order of them that respects the real
//! time (what had returned before another was called comes before it) and in which each returned what a sequential
//! [`Model`] says.
//!
//! The search is Wing and Gong's (1993) with Lowe's cache of configurations that were seen already (2017), on one
//! partition at a time (linearizability is compositional: Herlihy and Wing, 1990), as Porcupine does it. Pure: it
//! knows no cluster, no sockets and no randomness; the clock only where a limit asks for it.

mod bits;
mod check;
mod failure;
pub mod object;
#[cfg(test)]
mod tests;

pub use check::check;
pub use failure::Failure;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What operations do to a state, one at a time.
pub trait Model {
    /// The state between two operations.
    type State: Clone + Eq + Hash + Debug;
    /// What was asked for.
    type Input: Clone + PartialEq + Debug;
    /// What was answered.
    type Output: Clone + Debug;

    /// The state before the first operation.
    fn init(&self) -> Self::State;

    /// The state after `input`; `None` where `input` cannot have been answered with `output` in `state`.
    ///
    /// Without an output nobody knows what was answered: then any answer will do, and `None` means that the operation
    /// can do nothing in this state.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;

    /// Whether `input` never changes the state. Such operations are left out of a failure's account where it is one
    /// without them.
    fn is_read(&self, input: &Self::Input) -> bool {
        let _ = input;
        false
    }

    /// One operation, for people.
    fn describe(&self, input: &Self::Input, output: Option<&Self::Output>) -> String {
        match output {
            Some(output) => format!("{input:?} -> {output:?}"),
            None => format!("{input:?} -> ?"),
        }
    }
}

/// One operation of a client. Times are of one clock, in whatever unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// Who asked; for people only.
    pub client: usize,
    /// What was asked for.
    pub input: I,
    /// When, at the latest, it was not asked for yet.
    pub called: u64,
    /// When, at the earliest, the answer was there, and the answer. `None` where there was none: then the operation
    /// may take effect at any time after its call, or never.
    pub returned: Option<(u64, O)>,
}

/// The operations on one object, in any order.
#[derive(Debug, Clone)]
pub struct Partition<M: Model> {
    /// The object's name.
    pub key: String,
    /// What it is.
    pub model: M,
    /// What was done to it.
    pub operations: Vec<Operation<M::Input, M::Output>>,
}

/// How long an order is searched for.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    steps: u64,
    until: Option<Instant>,
}

impl Limit {
    /// So many operations are tried at the most, for each partition.
    #[must_use]
    pub fn steps(steps: u64) -> Self {
        Self { steps, until: None }
    }

    /// And not longer than this from now on, for all partitions together.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.until = Instant::now().checked_add(time);
        self
    }

    /// Whether it is reached after `steps`. The clock is not looked at each time.
    fn is_reached(&self, steps: u64) -> bool {
        steps >= self.steps
            || (steps.is_multiple_of(1024)
                && self.until.is_some_and(|until| Instant::now() >= until))
    }
}

impl Default for Limit {
    /// Some seconds of a slow machine.
    fn default() -> Self {
        Self::steps(5_000_000)
    }
}

/// What came out.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// There is an order, for each partition.
    Linearizable {
        /// How many operations were tried in all.
        steps: u64,
    },
    /// There is none for this partition, the smallest of those for which there is none.
    Violation(Box<Failure>),
    /// The limit was reached before an order was found, and before it was sure that there is none.
    Unknown {
        /// For which partitions.
        keys: Vec<String>,
    },
}

impl Verdict {
    /// Whether an order was found for everything.
    #[must_use]
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable { .. })
    }
}

/// Checks each partition by itself.
#[must_use]
pub fn check_all<M: Model>(partitions: &[Partition<M>], limit: Limit) -> Verdict {
    let mut all = 0;
    let mut unknown = Vec::new();
    let mut smallest: Option<Failure> = None;
    for partition in partitions {
        match check(&partition.model, &partition.operations, limit) {
            check::Found::Order { steps } => all += steps,
            check::Found::None { .. } => {
                let failure = Failure::explain(partition, limit);
                if smallest
                    .as_ref()
                    .is_none_or(|s| failure.operations() < s.operations())
                {
                    smallest = Some(failure);
                }
            }
            check::Found::GaveUp => unknown.push(partition.key.clone()),
        }
    }
    match smallest {
        Some(failure) => Verdict::Violation(Box::new(failure)),
        None if unknown.is_empty() => Verdict::Linearizable { steps: all },
        None => Verdict::Unknown { keys: unknown },
    }
}
