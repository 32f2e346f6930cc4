//! What is wrong with what users and watchers saw. Pure: records in, a verdict out.

use super::record::{Key, Outcome, Record};
use super::watchers::{Seen as Watched, Sequence};
use crate::linearizability::object::{Input, Object, Output, Seen};
use crate::linearizability::{Limit, Operation, Partition, Verdict, check_all};
use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use swarm_api::model::{Event, EventAction, Kind};

/// What was seen, where nothing was wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations in all.
    pub operations: usize,
    /// Changes that were acknowledged.
    pub acknowledged: usize,
    /// Changes of which nobody knows whether they were made.
    pub unknown: usize,
    /// Changes that are said not to have been made.
    pub not_done: usize,
    /// Answers that said they were stale.
    pub stale: usize,
    /// Operations that were tried in the search for an order.
    pub steps: u64,
    /// Events that a watcher saw.
    pub events: usize,
    /// How often watchers went on after their stream had ended.
    pub resumed: usize,
    /// How often they were told that events were no longer kept.
    pub gaps: usize,
    /// Reads that were compared with the events up to their index.
    pub compared: usize,
    /// Whether the history would have been found wrong if its stale answers had been given as fresh ones.
    pub sharp: bool,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} operations: {} changes acknowledged, {} unknown, {} not made; {} stale answers; ordered in {} steps; \
             {} events, streams resumed {} times, {} gaps told; {} reads compared with the events; stale answers \
             taken for fresh ones {}",
            self.operations,
            self.acknowledged,
            self.unknown,
            self.not_done,
            self.stale,
            self.steps,
            self.events,
            self.resumed,
            self.gaps,
            self.compared,
            if self.sharp {
                "would be found"
            } else {
                "would not be found"
            }
        )
    }
}

/// Judges all of it.
pub(super) fn judge(keys: &[Key], records: &[Record], watched: &[Watched]) -> Result<Report> {
    let mut report = count(records);
    for record in records {
        if let Outcome::Odd(why) = &record.outcome {
            bail!(
                "{} was answered to {:?} on {}",
                why,
                record.input,
                keys[record.key]
            );
        }
    }
    fresh_answers_never_go_back(keys, records)?;
    a_node_never_goes_back(keys, records)?;
    match check_all(&partitions(keys, records, false), limit()) {
        Verdict::Linearizable { steps } => report.steps = steps,
        Verdict::Violation(failure) => bail!("not linearizable: {failure}"),
        Verdict::Unknown { keys } => bail!(
            "whether {} is linearizable was not found out in time",
            keys.join(", ")
        ),
    }
    // For comparison only: not worth a long search.
    let short = Limit::steps(500_000).within(Duration::from_secs(5));
    let as_if_fresh = check_all(&partitions(keys, records, true), short);
    report.sharp = matches!(as_if_fresh, Verdict::Violation(_));
    report.resumed = watched.iter().map(|w| w.resumed).sum();
    report.gaps = watched.iter().map(|w| w.sequences.len() - 1).sum();
    watchers_agree(watched)?;
    if let Some(complete) = watched.iter().find(|w| w.sequences.len() == 1) {
        let sequence = &complete.sequences[0];
        report.events = sequence.events.len();
        report.compared = compare(keys, records, sequence)?;
    }
    Ok(report)
}

fn limit() -> Limit {
    Limit::steps(30_000_000).within(Duration::from_secs(120))
}

fn count(records: &[Record]) -> Report {
    let number = |wanted: &dyn Fn(&Record) -> bool| records.iter().filter(|r| wanted(r)).count();
    let changes = |r: &Record| r.input != Input::Read;
    Report {
        operations: records.len(),
        acknowledged: number(&|r| changes(r) && matches!(r.outcome, Outcome::Answer { .. })),
        unknown: number(&|r| changes(r) && r.outcome == Outcome::Unknown),
        not_done: number(&|r| r.outcome == Outcome::NotDone),
        stale: number(&|r| matches!(r.outcome, Outcome::Stale { .. })),
        ..Report::default()
    }
}

/// The history of each object. What was not done is no part of it, nor are stale answers, unless for comparison.
fn partitions(keys: &[Key], records: &[Record], with_stale: bool) -> Vec<Partition<Object>> {
    let of = |(n, key): (usize, &Key)| {
        let model = key.model();
        let mut operations = Vec::new();
        for record in records.iter().filter(|r| r.key == n) {
            let returned = match &record.outcome {
                Outcome::Answer { output, .. } => Some((record.returned, output.clone())),
                Outcome::Stale { output, .. } if with_stale => {
                    Some((record.returned, output.clone()))
                }
                Outcome::Unknown if record.input != Input::Read => None,
                _ => continue,
            };
            let goes = record.input == Input::Remove
                && !model.goes_at_once
                && returned
                    .as_ref()
                    .is_none_or(|(_, output)| *output == Output::Done);
            let operation = |input, returned| Operation {
                client: record.user,
                input,
                called: record.called,
                returned,
            };
            operations.push(operation(record.input.clone(), returned));
            if goes {
                operations.push(operation(Input::Gone, None));
            }
        }
        Partition {
            key: key.to_string(),
            model,
            operations,
        }
    };
    keys.iter().enumerate().map(of).collect()
}

/// Whoever asks, through whichever host: what was asked later is not answered from an earlier place in the log.
fn fresh_answers_never_go_back(keys: &[Key], records: &[Record]) -> Result<()> {
    let fresh = records.iter().filter_map(|r| match r.outcome {
        Outcome::Answer {
            index: Some(index), ..
        } => Some((r, index)),
        _ => None,
    });
    never_back(keys, fresh, "fresh answers")
}

/// Also what one node answers while it says that it is stale does not go back, as long as its agent lives.
fn a_node_never_goes_back(keys: &[Key], records: &[Record]) -> Result<()> {
    let mut by_life: BTreeMap<(usize, u64), Vec<(&Record, u64)>> = BTreeMap::new();
    for record in records {
        let index = match record.outcome {
            Outcome::Stale { index, .. } => index,
            Outcome::Answer {
                index: Some(index), ..
            } => index,
            _ => continue,
        };
        if let Some(life) = record.life {
            by_life
                .entry((record.host, life))
                .or_default()
                .push((record, index));
        }
    }
    by_life
        .into_values()
        .try_for_each(|answers| never_back(keys, answers.into_iter(), "answers of one node"))
}

fn never_back<'a>(
    keys: &[Key],
    answers: impl Iterator<Item = (&'a Record, u64)>,
    what: &str,
) -> Result<()> {
    let mut calls: Vec<(&Record, u64)> = answers.collect();
    let mut returns = calls.clone();
    calls.sort_by_key(|(r, _)| r.called);
    returns.sort_by_key(|(r, _)| r.returned);
    let mut returned = returns.into_iter().peekable();
    let mut highest: Option<(&Record, u64)> = None;
    for (record, index) in calls {
        while let Some((r, i)) = returned.next_if(|(r, _)| r.returned < record.called) {
            if highest.is_none_or(|(_, h)| h < i) {
                highest = Some((r, i));
            }
        }
        if let Some((before, high)) = highest
            && high > index
        {
            bail!(
                "{what} went back: from index {high} ({}, {} µs) to {index} ({}, {} µs)",
                keys[before.key],
                before.returned,
                keys[record.key],
                record.called
            );
        }
    }
    Ok(())
}

/// Every watcher is told the same, in the same order, as far as it watched without a gap.
fn watchers_agree(watched: &[Watched]) -> Result<()> {
    let mut all: Vec<(usize, &Sequence, u64)> = Vec::new();
    for (n, watcher) in watched.iter().enumerate() {
        for (m, sequence) in watcher.sequences.iter().enumerate() {
            let events = &sequence.events;
            for pair in events.windows(2) {
                ensure!(
                    pair[0].index <= pair[1].index,
                    "watcher {n} was told {:?} after {:?}",
                    pair[1],
                    pair[0]
                );
            }
            let Some(last) = events.last() else { continue };
            let is_last = m + 1 == watcher.sequences.len();
            // Of the entry where it broke off some may be missing.
            all.push((
                n,
                sequence,
                if is_last { last.index } else { last.index - 1 },
            ));
        }
    }
    for (i, (n, a, a_end)) in all.iter().enumerate() {
        for (m, b, b_end) in &all[i + 1..] {
            let (after, end) = (a.after.max(b.after), (*a_end).min(*b_end));
            let within = |e: &&Event| e.index > after && e.index <= end;
            let (of_a, of_b): (Vec<_>, Vec<_>) = (
                a.events.iter().filter(within).collect(),
                b.events.iter().filter(within).collect(),
            );
            if of_a != of_b {
                let differ = of_a.iter().zip(&of_b).position(|(x, y)| x != y);
                let at = differ.unwrap_or(of_a.len().min(of_b.len()));
                bail!(
                    "watchers {n} and {m} were told different things after {at} events: {:?} and {:?}",
                    of_a.get(at),
                    of_b.get(at)
                );
            }
        }
    }
    Ok(())
}

/// One object's states, by the events: from which entry on it was so.
type Life = Vec<(u64, Option<Seen>)>;

fn lives(keys: &[Key], sequence: &Sequence) -> Result<Vec<Option<Life>>> {
    let of = |key: &Key| -> Result<Option<Life>> {
        let (kind, name) = match key {
            Key::Service { name, .. } => (Kind::Service, name),
            Key::Network { name } => (Kind::Network, name),
            // Events of a node do not tell its labels.
            Key::Label { .. } => return Ok(None),
        };
        let mut life: Life = Vec::new();
        let mut ids = BTreeSet::new();
        let events = sequence.events.iter();
        for event in events.filter(|e| e.kind == kind && e.name == *name) {
            let before = life.last().and_then(|(_, seen)| seen.clone());
            let value = |e: &Event| -> u64 {
                let text = e.attributes.get("replicas");
                text.and_then(|t| t.parse().ok()).unwrap_or_default()
            };
            let is_same = before.as_ref().is_some_and(|b| b.id == event.id.as_str());
            let after = match event.action {
                EventAction::Created => {
                    ensure!(before.is_none(), "{key} was made twice: {event:?}");
                    ensure!(ids.insert(event.id.clone()), "an id came twice: {event:?}");
                    Some(Seen {
                        id: event.id.to_string(),
                        version: Some(1),
                        value: value(event),
                    })
                }
                EventAction::Updated => {
                    ensure!(
                        is_same,
                        "{key} was changed, but it was {before:?}: {event:?}"
                    );
                    before.map(|b| Seen {
                        version: b.version.map(|v| v + 1),
                        value: value(event),
                        ..b
                    })
                }
                EventAction::Removed => {
                    ensure!(
                        is_same,
                        "{key} was removed, but it was {before:?}: {event:?}"
                    );
                    None
                }
            };
            life.push((event.index, after));
        }
        Ok(Some(life))
    };
    keys.iter().map(of).collect()
}

/// Compares what was acknowledged and what was read with the events. Returns how many reads were.
fn compare(keys: &[Key], records: &[Record], sequence: &Sequence) -> Result<usize> {
    let lives = lives(keys, sequence)?;
    let mut compared = 0;
    let mut made = BTreeMap::new();
    for record in records {
        let Some(life) = &lives[record.key] else {
            continue;
        };
        let key = &keys[record.key];
        match &record.outcome {
            Outcome::Answer {
                output: Output::Is(seen),
                index: None,
            } => {
                let event = life.iter().find(|(_, state)| state.as_ref() == Some(seen));
                let Some((index, _)) = event else {
                    bail!(
                        "{key} was acknowledged as {seen:?}, of which no event tells: {record:?}"
                    );
                };
                if matches!(record.input, Input::Create(_)) {
                    let twice = made.insert(seen.id.clone(), (record, *index));
                    ensure!(twice.is_none(), "{seen:?} was acknowledged to two users");
                }
            }
            Outcome::Answer {
                output,
                index: Some(index),
            }
            | Outcome::Stale { output, index }
                if *index >= sequence.after =>
            {
                let at = life.iter().rev().find(|(at, _)| at <= index);
                let expected = match at.and_then(|(_, state)| state.clone()) {
                    Some(seen) => Output::Is(seen),
                    None => Output::Absent,
                };
                ensure!(
                    *output == expected,
                    "{key} was read at index {index} as {output:?}, where by the events it was {expected:?}: {record:?}"
                );
                compared += 1;
            }
            _ => {}
        }
    }
    made_by_someone(keys, records, &lives)?;
    // Across objects too, what returned before another was called comes before it in the log.
    let creations: Vec<_> = made.into_values().collect();
    never_back(keys, creations.into_iter(), "acknowledged creations")?;
    Ok(compared)
}

/// No more is in the log than users have asked for: of changes without an acknowledgement at the most as many as there
/// are of which nobody knows.
fn made_by_someone(keys: &[Key], records: &[Record], lives: &[Option<Life>]) -> Result<()> {
    for (n, (key, life)) in keys.iter().zip(lives).enumerate() {
        let Some(life) = life else { continue };
        let of_key = || records.iter().filter(move |r| r.key == n);
        let unknown = |is: fn(&Input) -> bool| {
            let asked = of_key().filter(|r| is(&r.input) && r.outcome == Outcome::Unknown);
            asked.count()
        };
        let told: BTreeSet<(&str, Option<u64>)> = of_key()
            .filter(|r| r.input != Input::Read)
            .filter_map(|r| match &r.outcome {
                Outcome::Answer {
                    output: Output::Is(seen),
                    ..
                } => Some((seen.id.as_str(), seen.version)),
                _ => None,
            })
            .collect();
        let states = || life.iter().filter_map(|(_, state)| state.as_ref());
        let untold = |first: bool| {
            states()
                .filter(|s| (s.version == Some(1)) == first)
                .filter(|s| !told.contains(&(s.id.as_str(), s.version)))
                .count()
        };
        let (made, may) = (untold(true), unknown(|i| matches!(i, Input::Create(_))));
        ensure!(
            made <= may,
            "{key} was made {made} times without an acknowledgement, but only {may} creations are unknown"
        );
        let (changed, may) = (untold(false), unknown(|i| matches!(i, Input::Update(_))));
        ensure!(
            changed <= may,
            "{key} was changed {changed} times without an acknowledgement, but only {may} changes are unknown"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
