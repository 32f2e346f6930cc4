//! Why there is no order: the shortest beginning of the history that has none, without the reads that are not needed for
//! that, as a picture.

use super::check::{Found, check};
use super::{Limit, Model, Operation, Partition};
use std::fmt;

/// Columns of the picture.
const WIDTH: usize = 48;
/// The most reads that are tried to be left out, one by one.
const MOST_READS: usize = 300;

/// A partition that is not linearizable.
#[derive(Debug, Clone)]
pub struct Failure {
    key: String,
    lines: Vec<Line>,
    /// The longest order that was found, as places in `lines`.
    longest: Vec<usize>,
    state: String,
}

#[derive(Debug, Clone)]
struct Line {
    client: usize,
    called: u64,
    returned: Option<u64>,
    what: String,
}

impl Failure {
    /// Explains a partition for which there is no order.
    #[must_use]
    pub fn explain<M: Model>(partition: &Partition<M>, limit: Limit) -> Self {
        let model = &partition.model;
        let shortest = shortest_beginning(model, &partition.operations, limit);
        let mut operations = without_reads(model, shortest, limit);
        operations.sort_by_key(|o| (o.called, o.returned.as_ref().map(|(at, _)| *at)));
        let longest = match check(model, &operations, limit) {
            Found::None { longest } => longest,
            Found::Order { .. } | Found::GaveUp => Vec::new(),
        };
        let mut state = model.init();
        for n in &longest {
            let operation = &operations[*n];
            let output = operation.returned.as_ref().map(|(_, o)| o);
            state = model
                .step(&state, &operation.input, output)
                .unwrap_or(state);
        }
        let line = |o: &Operation<M::Input, M::Output>| Line {
            client: o.client,
            called: o.called,
            returned: o.returned.as_ref().map(|(at, _)| *at),
            what: model.describe(&o.input, o.returned.as_ref().map(|(_, output)| output)),
        };
        Self {
            key: partition.key.clone(),
            lines: operations.iter().map(line).collect(),
            longest,
            state: format!("{state:?}"),
        }
    }

    /// How many operations it takes to show it.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.lines.len()
    }

    /// Which object it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// The history up to the first return with which it has no order; what had not returned by then has no outcome. Every
/// beginning of a linearizable history is linearizable, so that the first one that is not can be searched by halves.
fn shortest_beginning<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    limit: Limit,
) -> Vec<Operation<M::Input, M::Output>> {
    let mut returns: Vec<u64> = operations
        .iter()
        .filter_map(|o| o.returned.as_ref().map(|(at, _)| *at))
        .collect();
    returns.sort_unstable();
    returns.dedup();
    let until = |end: u64| -> Vec<Operation<M::Input, M::Output>> {
        let begun = operations.iter().filter(|o| o.called <= end).cloned();
        begun
            .map(|mut o| {
                o.returned = o.returned.filter(|(at, _)| *at <= end);
                o
            })
            .collect()
    };
    let fails = |end: u64| matches!(check(model, &until(end), limit), Found::None { .. });
    let (mut good, mut bad) = (0, returns.len());
    while good < bad {
        let middle = (good + bad) / 2;
        if fails(returns[middle]) {
            bad = middle;
        } else {
            good = middle + 1;
        }
    }
    match returns.get(good) {
        Some(end) => until(*end),
        None => operations.to_vec(),
    }
}

/// The history without the reads that it has no order without as well: to leave a read out only makes it easier to find
/// one.
fn without_reads<M: Model>(
    model: &M,
    mut operations: Vec<Operation<M::Input, M::Output>>,
    limit: Limit,
) -> Vec<Operation<M::Input, M::Output>> {
    let open_reads =
        |o: &Operation<M::Input, M::Output>| !(o.returned.is_none() && model.is_read(&o.input));
    operations.retain(open_reads);
    let mut n = 0;
    for _ in 0..MOST_READS {
        while n < operations.len() && !model.is_read(&operations[n].input) {
            n += 1;
        }
        if n >= operations.len() {
            break;
        }
        let read = operations.remove(n);
        if !matches!(check(model, &operations, limit), Found::None { .. }) {
            operations.insert(n, read);
            n += 1;
        }
    }
    operations
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: no order of these {} operations explains what they returned",
            self.key,
            self.lines.len()
        )?;
        let start = self
            .lines
            .iter()
            .map(|l| l.called)
            .min()
            .unwrap_or_default();
        let last = |l: &Line| l.returned.unwrap_or(l.called);
        let end = self.lines.iter().map(last).max().unwrap_or_default();
        let column = |at: u64| {
            let of = u128::from((end - start).max(1));
            let column = u128::from(at - start) * (WIDTH as u128 - 1) / of;
            usize::try_from(column).unwrap_or(WIDTH - 1)
        };
        for (n, line) in self.lines.iter().enumerate() {
            let from = column(line.called);
            let (to, tail) = match line.returned {
                Some(at) => (column(at), '|'),
                None => (WIDTH - 1, '>'),
            };
            let mut bar = vec![' '; WIDTH];
            bar[from..=to].fill('-');
            bar[to] = tail;
            bar[from] = '|';
            let until = line.returned.map_or("?".to_owned(), |at| at.to_string());
            writeln!(
                f,
                "{:>4} {} client {:<3} {:>12} .. {:<12} {}",
                n + 1,
                bar.into_iter().collect::<String>(),
                line.client,
                line.called,
                until,
                line.what
            )?;
        }
        let order: Vec<String> = self.longest.iter().map(|n| (n + 1).to_string()).collect();
        write!(
            f,
            "the longest order found is {}; then it is {}, and nothing that could come next fits",
            if order.is_empty() {
                "empty".to_owned()
            } else {
                order.join(" ")
            },
            self.state
        )
    }
}
