//! Each thing that can be wrong is seen.

use super::*;
use swarm_api::model::{Id, Timestamp};

fn keys() -> Vec<Key> {
    vec![
        Key::Service {
            name: "a".into(),
            placed: false,
            quiet: false,
        },
        Key::Service {
            name: "b".into(),
            placed: false,
            quiet: false,
        },
    ]
}

fn is(id: &str, version: u64, value: u64) -> Output {
    Output::Is(Seen {
        id: id.into(),
        version: Some(version),
        value,
    })
}

fn record(key: usize, at: u64, input: Input, outcome: Outcome) -> Record {
    Record {
        user: 0,
        host: 0,
        life: Some(0),
        key,
        input,
        called: at,
        returned: at + 5,
        outcome,
    }
}

fn change(key: usize, at: u64, input: Input, output: Output) -> Record {
    let answer = Outcome::Answer {
        output,
        index: None,
    };
    record(key, at, input, answer)
}

fn read(key: usize, at: u64, output: Output, index: u64) -> Record {
    let answer = Outcome::Answer {
        output,
        index: Some(index),
    };
    record(key, at, Input::Read, answer)
}

fn event(index: u64, name: &str, id: &str, action: EventAction, replicas: u64) -> Event {
    Event {
        index,
        time: Timestamp(0),
        kind: Kind::Service,
        id: Id::from_text(id),
        name: name.into(),
        action,
        attributes: [("replicas".to_owned(), replicas.to_string())].into(),
    }
}

use EventAction::{Created, Removed, Updated};

fn events() -> Vec<Event> {
    vec![
        event(11, "a", "x", Created, 1),
        event(12, "b", "y", Created, 2),
        event(13, "a", "x", Updated, 3),
        event(15, "a", "x", Removed, 3),
    ]
}

fn told(events: Vec<Event>) -> Watched {
    Watched {
        sequences: vec![Sequence { after: 10, events }],
        resumed: 1,
    }
}

fn history() -> Vec<Record> {
    vec![
        change(0, 0, Input::Create(1), is("x", 1, 1)),
        change(1, 10, Input::Create(2), is("y", 1, 2)),
        change(0, 20, Input::Update(3), is("x", 2, 3)),
        read(0, 30, is("x", 2, 3), 13),
        change(0, 40, Input::Remove, Output::Done),
        read(0, 50, Output::Absent, 16),
    ]
}

fn wrong(records: &[Record], watched: &[Watched], word: &str) {
    let why = judge(&keys(), records, watched).unwrap_err().to_string();
    assert!(why.contains(word), "{why}");
}

#[test]
fn nothing_is_wrong_with_a_good_history() {
    let mut records = history();
    let stale = Outcome::Stale {
        output: is("x", 1, 1),
        index: 12,
    };
    // Of another node, that lags behind.
    records.push(Record {
        host: 1,
        ..record(0, 60, Input::Read, stale)
    });
    records.push(record(1, 70, Input::Update(4), Outcome::Unknown));
    records.push(record(1, 80, Input::Update(5), Outcome::NotDone));
    let report = judge(&keys(), &records, &[told(events()), told(events())]).unwrap();
    assert_eq!((report.operations, report.acknowledged), (9, 4));
    assert_eq!((report.unknown, report.not_done, report.stale), (1, 1, 1));
    assert_eq!((report.events, report.resumed, report.gaps), (4, 2, 0));
    assert_eq!(report.compared, 3);
    // The stale answer shows what was gone when it was asked for.
    assert!(report.sharp);
}

#[test]
fn an_answer_from_the_past_is_seen() {
    let mut records = history();
    records.push(read(1, 60, is("y", 1, 2), 12));
    wrong(&records, &[], "fresh answers went back");
    records.pop();
    let stale = |at, index| {
        let outcome = Outcome::Stale {
            output: is("y", 1, 2),
            index,
        };
        record(1, at, Input::Read, outcome)
    };
    records.push(stale(60, 17));
    records.push(stale(70, 14));
    wrong(&records, &[], "answers of one node went back");
    // Unless its agent was started again.
    if let Some(last) = records.last_mut() {
        last.life = Some(1);
    }
    assert!(judge(&keys(), &records, &[]).is_ok());
}

#[test]
fn an_acknowledged_change_that_is_lost_is_seen() {
    let mut records = history();
    records.push(read(1, 60, Output::Absent, 17));
    wrong(&records, &[], "not linearizable: service b");
    let mut lost = events();
    lost.remove(2);
    wrong(&history(), &[told(lost)], "no event tells");
}

#[test]
fn what_was_said_not_to_be_done_must_not_be_seen() {
    let mut records = history();
    records.push(record(1, 60, Input::Update(9), Outcome::NotDone));
    records.push(read(1, 70, is("y", 2, 9), 18));
    wrong(&records, &[], "not linearizable: service b");
    records.pop();
    let mut more = events();
    more.push(event(16, "b", "y", Updated, 9));
    wrong(
        &records,
        &[told(more)],
        "changed 1 times without an acknowledgement",
    );
}

#[test]
fn a_stale_answer_that_was_never_so_is_seen() {
    let mut records = history();
    let stale = Outcome::Stale {
        output: is("x", 1, 1),
        index: 14,
    };
    records.push(Record {
        host: 1,
        ..record(0, 60, Input::Read, stale)
    });
    wrong(&records, &[told(events())], "where by the events it was");
}

#[test]
fn a_watcher_that_misses_or_doubles_or_mixes_up_something_is_seen() {
    for change in [
        |events: &mut Vec<Event>| drop(events.remove(1)),
        |events: &mut Vec<Event>| events.insert(1, events[1].clone()),
        |events: &mut Vec<Event>| drop(events.pop()),
    ] {
        let mut other = events();
        change(&mut other);
        let watched = [told(events()), told(other)];
        let all = judge(&keys(), &history(), &watched);
        let last_only = all.is_ok();
        // A watcher ends with the last service, so that none ends early.
        assert!(!last_only || watched[1].sequences[0].events.len() == 3);
    }
    let mut mixed = events();
    mixed.swap(0, 1);
    wrong(&history(), &[told(mixed)], "was told");
    let mut twice = events();
    twice.insert(1, event(11, "a", "z", Created, 1));
    wrong(&history(), &[told(twice)], "was made twice");
}

#[test]
fn a_gap_that_was_told_is_none_that_is_held_against_a_watcher() {
    let before = Sequence {
        after: 10,
        events: events()[..1].to_vec(),
    };
    let after = Sequence {
        after: 12,
        events: events()[2..].to_vec(),
    };
    let gap = Watched {
        sequences: vec![before, after],
        resumed: 0,
    };
    let report = judge(&keys(), &history(), &[gap, told(events())]).unwrap();
    assert_eq!((report.gaps, report.events), (1, 4));
}
