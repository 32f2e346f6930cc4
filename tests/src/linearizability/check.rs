//! The search for an order.

use super::bits::Bits;
use super::{Limit, Model, Operation};
use std::collections::HashSet;

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is an order.
    Order {
        /// How many operations were tried.
        steps: u64,
    },
    /// There is none.
    None {
        /// The longest order that was found, as places in the history.
        longest: Vec<usize>,
    },
    /// The limit was reached first.
    GaveUp,
}

/// Searches an order of `operations` that `model` explains.
#[must_use]
pub fn check<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    limit: Limit,
) -> Found {
    Search::new(model, operations).run(limit)
}

/// A place in the list of calls and returns.
type Place = usize;
const HEAD: Place = 0;

/// Calls and returns of the operations that returned, in the order of time, as a doubly linked list: an operation that
/// has its place in the order is taken out, and put back where the search goes back.
struct Timeline {
    /// The operation of each place; none at the head.
    operation: Vec<usize>,
    /// When.
    time: Vec<u64>,
    /// The place of the return, for a call.
    returns: Vec<Option<Place>>,
    next: Vec<Option<Place>>,
    previous: Vec<Place>,
}

impl Timeline {
    fn new<I, O>(operations: &[Operation<I, O>]) -> Self {
        // A call at the time of a return counts as before it: the two are concurrent.
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (n, operation) in operations.iter().enumerate() {
            if let Some((returned, _)) = operation.returned {
                moments.push((operation.called, false, n));
                moments.push((returned.max(operation.called), true, n));
            }
        }
        moments.sort_unstable();
        let mut line = Self {
            operation: vec![usize::MAX],
            time: vec![0],
            returns: vec![None],
            next: vec![(!moments.is_empty()).then_some(1)],
            previous: vec![HEAD],
        };
        let mut calls = vec![HEAD; operations.len()];
        for (n, (time, is_return, operation)) in moments.iter().copied().enumerate() {
            let place = n + 1;
            line.operation.push(operation);
            line.time.push(time);
            line.returns.push(None);
            line.next.push((place < moments.len()).then_some(place + 1));
            line.previous.push(n);
            if is_return {
                line.returns[calls[operation]] = Some(place);
            } else {
                calls[operation] = place;
            }
        }
        line
    }

    fn take(&mut self, place: Place) {
        self.next[self.previous[place]] = self.next[place];
        if let Some(next) = self.next[place] {
            self.previous[next] = self.previous[place];
        }
    }

    fn put_back(&mut self, place: Place) {
        self.next[self.previous[place]] = Some(place);
        if let Some(next) = self.next[place] {
            self.previous[next] = place;
        }
    }
}

/// What is tried next in a configuration. First what returned: what nobody knows the outcome of most often did nothing,
/// or what only its effect explains comes up sooner or later.
#[derive(Debug, Clone, Copy)]
enum Next {
    At(Option<Place>),
    /// Of the operations without an outcome, this one; and only those that were called by this time.
    Open(usize, u64),
}

struct Step<S> {
    before: S,
    operation: usize,
    /// Where the search went on when it made this step.
    at: Next,
}

struct Search<'a, M: Model> {
    model: &'a M,
    operations: &'a [Operation<M::Input, M::Output>],
    line: Timeline,
    /// Operations without an outcome, by their calls.
    open: Vec<usize>,
    /// For each of them the one before it that asked for the same: of these the first goes first, as it could stand
    /// wherever a later one does.
    same: Vec<Option<usize>>,
    /// Operations that returned and have no place in the order yet.
    left: usize,
    placed: Bits,
    state: M::State,
    seen: HashSet<(Bits, M::State)>,
    steps: Vec<Step<M::State>>,
    longest: Vec<usize>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &'a [Operation<M::Input, M::Output>]) -> Self {
        let mut open: Vec<usize> = (0..operations.len())
            .filter(|n| operations[*n].returned.is_none())
            .collect();
        open.sort_by_key(|n| operations[*n].called);
        let same = |k: usize| {
            let input = &operations[open[k]].input;
            (0..k)
                .rev()
                .find(|other| operations[open[*other]].input == *input)
        };
        let same = (0..open.len()).map(same).collect();
        Self {
            model,
            operations,
            line: Timeline::new(operations),
            left: operations.len() - open.len(),
            open,
            same,
            placed: Bits::new(operations.len()),
            state: model.init(),
            seen: HashSet::new(),
            steps: Vec::new(),
            longest: Vec::new(),
        }
    }

    fn run(mut self, limit: Limit) -> Found {
        let mut tried = 0;
        let mut next = self.first();
        loop {
            if self.left == 0 {
                return Found::Order { steps: tried };
            }
            tried += 1;
            if limit.is_reached(tried) {
                return Found::GaveUp;
            }
            next = match next {
                Next::At(Some(place)) if self.line.returns[place].is_some() => {
                    if self.place(self.line.operation[place], next) {
                        self.first()
                    } else {
                        Next::At(self.line.next[place])
                    }
                }
                // A return: what is called after it cannot come before what returned there.
                Next::At(Some(place)) => Next::Open(0, self.line.time[place]),
                Next::At(None) => Next::Open(0, u64::MAX),
                Next::Open(k, by) => match self.open.get(k).copied() {
                    Some(operation) if self.operations[operation].called <= by => {
                        if self.may_be_tried(k) && self.place(operation, next) {
                            self.first()
                        } else {
                            Next::Open(k + 1, by)
                        }
                    }
                    _ => match self.back() {
                        Some(next) => next,
                        None => {
                            return Found::None {
                                longest: self.longest,
                            };
                        }
                    },
                },
            };
        }
    }

    fn first(&self) -> Next {
        Next::At(self.line.next[HEAD])
    }

    fn may_be_tried(&self, k: usize) -> bool {
        !self.placed.contains(self.open[k])
            && self.same[k].is_none_or(|first| self.placed.contains(self.open[first]))
    }

    /// Puts `operation` next in the order, if the model explains it there and this is not a configuration that the
    /// search has been in.
    fn place(&mut self, operation: usize, at: Next) -> bool {
        let asked = &self.operations[operation];
        let output = asked.returned.as_ref().map(|(_, output)| output);
        let Some(after) = self.model.step(&self.state, &asked.input, output) else {
            return false;
        };
        // Without an outcome and without an effect it may as well never have happened.
        if output.is_none() && after == self.state {
            return false;
        }
        self.placed.insert(operation);
        if !self.seen.insert((self.placed.clone(), after.clone())) {
            self.placed.remove(operation);
            return false;
        }
        if let Next::At(Some(place)) = at {
            if let Some(returns) = self.line.returns[place] {
                self.line.take(place);
                self.line.take(returns);
            }
            self.left -= 1;
        }
        self.steps.push(Step {
            before: std::mem::replace(&mut self.state, after),
            operation,
            at,
        });
        if self.steps.len() > self.longest.len() {
            self.longest = self.steps.iter().map(|s| s.operation).collect();
        }
        true
    }

    /// Takes the last operation out of the order again, and says what to try in its place.
    fn back(&mut self) -> Option<Next> {
        let step = self.steps.pop()?;
        self.state = step.before;
        self.placed.remove(step.operation);
        Some(match step.at {
            Next::At(Some(place)) => {
                if let Some(returns) = self.line.returns[place] {
                    self.line.put_back(returns);
                    self.line.put_back(place);
                }
                self.left += 1;
                Next::At(self.line.next[place])
            }
            Next::At(None) => Next::At(None),
            Next::Open(k, by) => Next::Open(k + 1, by),
        })
    }
}
