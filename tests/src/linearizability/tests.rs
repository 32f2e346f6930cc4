//! The checker against histories that one knows, and against every order of small ones.

use super::check::{Found, check};
use super::{Failure, Limit, Model, Operation, Partition, Verdict, check_all};
use proptest::prelude::*;

/// A register of small numbers: read, write, and compare-and-set.
#[derive(Debug, Clone)]
struct Register;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Read,
    Write(u8),
    Swap(u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Value(u8),
    Done,
    Differs,
}

impl Model for Register {
    type State = u8;
    type Input = Ask;
    type Output = Answer;

    fn init(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, input: &Ask, output: Option<&Answer>) -> Option<u8> {
        let (after, right) = carry_out(*state, *input);
        output.is_none_or(|o| *o == right).then_some(after)
    }

    fn is_read(&self, input: &Ask) -> bool {
        *input == Ask::Read
    }
}

fn carry_out(state: u8, ask: Ask) -> (u8, Answer) {
    match ask {
        Ask::Read => (state, Answer::Value(state)),
        Ask::Write(value) => (value, Answer::Done),
        Ask::Swap(from, to) if from == state => (to, Answer::Done),
        Ask::Swap(..) => (state, Answer::Differs),
    }
}

type Op = Operation<Ask, Answer>;

fn op(client: usize, called: u64, returned: u64, input: Ask, output: Answer) -> Op {
    Operation {
        client,
        input,
        called,
        returned: Some((returned, output)),
    }
}

fn open(client: usize, called: u64, input: Ask) -> Op {
    Operation {
        client,
        input,
        called,
        returned: None,
    }
}

fn verdict(operations: &[Op]) -> bool {
    match check(&Register, operations, Limit::default()) {
        Found::Order { .. } => true,
        Found::None { .. } => false,
        Found::GaveUp => panic!("the search gave up"),
    }
}

use Answer::{Differs, Done, Value};
use Ask::{Read, Swap, Write};

#[test]
fn nothing_is_linearizable() {
    assert!(verdict(&[]));
    assert!(verdict(&[open(0, 0, Write(1))]));
}

#[test]
fn a_read_during_a_write_may_see_either_value_but_not_go_back() {
    // Herlihy and Wing, 1990, figure 1 and 2 in kind.
    let write = op(0, 0, 100, Write(1), Done);
    let read = |from, to, value| op(1, from, to, Read, Value(value));
    assert!(verdict(&[write.clone(), read(10, 20, 0), read(30, 40, 1)]));
    assert!(verdict(&[write.clone(), read(10, 20, 1), read(30, 40, 1)]));
    assert!(!verdict(&[write.clone(), read(10, 20, 1), read(30, 40, 0)]));
    assert!(!verdict(&[write, read(101, 110, 0)]));
}

#[test]
fn a_lost_update_is_found() {
    assert!(!verdict(&[
        op(0, 0, 1, Write(1), Done),
        op(0, 2, 3, Write(2), Done),
        op(1, 4, 5, Read, Value(1)),
    ]));
}

#[test]
fn two_swaps_of_the_same_value_cannot_both_succeed() {
    let first = op(0, 0, 10, Swap(0, 1), Done);
    assert!(verdict(&[first.clone(), op(1, 0, 10, Swap(0, 2), Differs)]));
    assert!(!verdict(&[first, op(1, 0, 10, Swap(0, 2), Done)]));
}

#[test]
fn an_operation_without_an_outcome_may_take_effect_late_or_never_but_not_early_and_once() {
    let write = open(0, 50, Write(1));
    let read = |from, value| op(1, from, from + 5, Read, Value(value));
    assert!(verdict(&[write.clone(), read(60, 0), read(1000, 0)]));
    assert!(verdict(&[write.clone(), read(60, 0), read(1000, 1)]));
    assert!(!verdict(&[write.clone(), read(10, 1)]));
    let back = op(1, 2000, 2001, Write(2), Done);
    assert!(!verdict(&[write, read(1000, 1), back, read(3000, 1)]));
}

#[test]
fn a_call_at_the_moment_of_a_return_is_concurrent_with_it() {
    assert!(verdict(&[
        op(0, 0, 5, Write(1), Done),
        op(1, 5, 9, Read, Value(0))
    ]));
    assert!(!verdict(&[
        op(0, 0, 5, Write(1), Done),
        op(1, 6, 9, Read, Value(0))
    ]));
}

#[test]
fn many_operations_without_an_outcome_do_not_make_it_slow() {
    let mut history: Vec<Op> = (0..60).map(|n| open(1, n, Write(n as u8))).collect();
    history.extend((0..300).map(|n| op(0, 100 + 2 * n, 101 + 2 * n, Write(200), Done)));
    history.push(op(0, 1000, 1001, Read, Value(30)));
    history.push(op(0, 1002, 1003, Read, Value(31)));
    let found = check(&Register, &history, Limit::steps(200_000));
    assert!(matches!(found, Found::Order { .. }), "{found:?}");
}

#[test]
fn a_search_that_takes_too_long_says_so() {
    let history: Vec<Op> = (0..12)
        .map(|n| op(n, 0, 100, Write(n as u8), Done))
        .chain([op(20, 101, 102, Read, Value(99))])
        .collect();
    assert_eq!(check(&Register, &history, Limit::steps(100)), Found::GaveUp);
    let partition = Partition {
        key: "r".into(),
        model: Register,
        operations: history,
    };
    let verdict = check_all(&[partition], Limit::steps(100));
    assert!(
        matches!(&verdict, Verdict::Unknown { keys } if keys == &["r"]),
        "{verdict:?}"
    );
}

#[test]
fn each_object_is_judged_by_itself_and_the_smallest_failure_is_shown() {
    let good = vec![op(0, 0, 1, Write(1), Done), op(0, 2, 3, Read, Value(1))];
    let mut large = good.clone();
    large.extend((2..9).map(|n| op(0, 10 * u64::from(n), 10 * u64::from(n) + 1, Write(n), Done)));
    large.push(op(3, 900, 901, Swap(1, 4), Done));
    let small = vec![
        op(0, 0, 4, Read, Value(0)),
        op(0, 5, 10, Write(1), Done),
        op(1, 20, 30, Read, Value(0)),
        op(2, 40, 50, Read, Value(1)),
        open(4, 60, Write(7)),
    ];
    let partition = |key: &str, operations| Partition {
        key: key.into(),
        model: Register,
        operations,
    };
    let all = [
        partition("good", good),
        partition("large", large),
        partition("small", small),
    ];
    let Verdict::Violation(failure) = check_all(&all, Limit::default()) else {
        panic!("not found");
    };
    assert_eq!(failure.key(), "small");
    assert_eq!(failure.operations(), 2, "{failure}");
    let text = failure.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "small: no order of these 2 operations explains what they returned"
    );
    assert!(
        lines[1].contains("client 0") && lines[1].contains("Write(1) -> Done"),
        "{text}"
    );
    assert!(
        lines[2].contains("client 1") && lines[2].contains("20 .. 30"),
        "{text}"
    );
    assert_eq!(
        lines[3],
        "the longest order found is 1; then it is 1, and nothing that could come next fits"
    );
}

// ---- Random histories ----

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        2 => Just(Read),
        2 => (0..3_u8).prop_map(Write),
        1 => (0..3_u8, 0..3_u8).prop_map(|(from, to)| Swap(from, to)),
    ]
}

/// Operations with a moment in which they took effect, and their answers by that order: linearizable as they are made.
/// One in `open` has no outcome; of these every second never took effect.
fn linearizable(most: usize, span: u64, open: u64) -> impl Strategy<Value = Vec<Op>> {
    let one = (ask(), 0..span, 0..10_u64, 0..10_u64, 0..2 * open);
    prop::collection::vec(one, 1..=most).prop_map(move |mut all| {
        // No two at the same moment, so that the order is the one in which the answers are made.
        all.sort_by_key(|(_, at, ..)| *at);
        let mut state = 0;
        all.into_iter()
            .enumerate()
            .map(|(n, (input, at, before, after, luck))| {
                let at = 100 * at + 10 * (n as u64) + 1000;
                let never = luck == 0;
                let answer = if never {
                    Done
                } else {
                    let (next, answer) = carry_out(state, input);
                    state = next;
                    answer
                };
                let is_open = luck < 2;
                Operation {
                    client: n,
                    input,
                    called: at - 40 * before,
                    returned: (!is_open).then_some((at + 40 * after, answer)),
                }
            })
            .collect()
    })
}

/// Whether any order of any of the operations without an outcome, and of all others, will do.
fn by_brute_force(operations: &[Op]) -> bool {
    fn go(state: u8, left: &[Op]) -> bool {
        if left.iter().all(|o| o.returned.is_none()) {
            return true;
        }
        let first_return = left
            .iter()
            .filter_map(|o| o.returned.map(|(at, _)| at))
            .min();
        let first_return = first_return.unwrap_or(u64::MAX);
        (0..left.len()).any(|n| {
            let operation = &left[n];
            if operation.called > first_return {
                return false;
            }
            let (after, right) = carry_out(state, operation.input);
            if operation
                .returned
                .is_some_and(|(_, answer)| answer != right)
            {
                return false;
            }
            let mut rest = left.to_vec();
            rest.remove(n);
            go(after, &rest)
        })
    }
    go(0, operations)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_was_made_linearizable_is_found_to_be(history in linearizable(60, 40, 8)) {
        prop_assert!(verdict(&history));
    }

    #[test]
    fn every_small_history_is_judged_as_by_trying_all_orders(
        history in linearizable(7, 8, 4),
        changed in any::<prop::sample::Index>(),
        value in 0..3_u8,
        what in 0..4_u8,
    ) {
        prop_assert!(by_brute_force(&history));
        let mut mutated = history;
        let n = changed.index(mutated.len());
        match (what, &mut mutated[n].returned) {
            (0, Some((_, answer))) => *answer = match answer {
                Value(_) => Value(value),
                Done => Differs,
                Differs => Done,
            },
            (1, returned) => *returned = None,
            (2, Some((at, _))) => *at = at.saturating_sub(300),
            _ => mutated[n].input = Write(value),
        }
        let called = mutated[n].called;
        if let Some((at, _)) = &mut mutated[n].returned {
            *at = (*at).max(called);
        }
        prop_assert_eq!(verdict(&mutated), by_brute_force(&mutated), "{:#?}", mutated);
    }

    #[test]
    fn a_failure_s_account_is_one_itself(
        history in linearizable(12, 8, 6),
        changed in any::<prop::sample::Index>(),
        value in 0..3_u8,
    ) {
        let mut mutated = history;
        let n = changed.index(mutated.len());
        if let Some((_, answer)) = &mut mutated[n].returned {
            *answer = Value(value);
            mutated[n].input = Read;
        }
        if !verdict(&mutated) {
            let before = mutated.len();
            let partition = Partition { key: "r".into(), model: Register, operations: mutated };
            let failure = Failure::explain(&partition, Limit::default());
            prop_assert!((1..=before).contains(&failure.operations()));
            let text = failure.to_string();
            prop_assert_eq!(text.lines().count(), failure.operations() + 2);
        }
    }
}
