//! Classic BPF for seccomp: a search tree over the numbers of system calls, and tests of 64-bit arguments. Knows no names.

use super::{Instruction, Rule};
use crate::{Error, Result};

/// `SECCOMP_RET_KILL_PROCESS`.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
/// `BPF_MAXINSNS`.
const LONGEST: usize = 4096;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const ABOVE: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `SECCOMP_RET_ERRNO`.
pub(super) fn errno(number: u32) -> u32 {
    0x0005_0000 | (number & 0xffff)
}

/// A test of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u8,
    pub(super) test: Test,
}

/// How an argument is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Below(u64),
    AtMost(u64),
    AtLeast(u64),
    Above(u64),
    Masked { mask: u64, value: u64 },
}

/// The whole program: `default` for calls without a rule, `unknown` for those above the last of `calls`, which are sorted numbers, each
/// with the place of its rule.
///
/// It is written from its end to its beginning, so that each jump knows how far it goes. The shorter it is, the sooner the kernel has
/// checked and translated it, which it does for each container.
pub(super) fn program(
    audit: u32,
    rules: &[Rule],
    calls: &[(u32, usize)],
    default: u32,
    unknown: u32,
) -> Result<Vec<Instruction>> {
    let newest = calls.last().map_or(0, |(number, _)| *number);
    let mut code = Backwards::default();
    let mut next = code.tree(&ranges(rules, calls, default), rules, default);
    let unknown = code.answer(unknown);
    next = code.branch(ABOVE, newest, unknown, next);
    if cfg!(target_arch = "x86_64") {
        // x32: the same architecture, marked in the number.
        let kill = code.answer(KILL_PROCESS);
        next = code.branch(AT_LEAST, 0x4000_0000, kill, next);
    }
    code.lead_to(next);
    next = code.push(step(LOAD, NUMBER));
    let kill = code.answer(KILL_PROCESS);
    code.branch(EQUAL, audit, next, kill);
    code.push(step(LOAD, ARCH));
    let program = code.forwards();
    if program.len() > LONGEST {
        return Err(Error::Invalid(format!(
            "the seccomp filter needs {} instructions, the kernel takes {LONGEST}",
            program.len()
        )));
    }
    Ok(program)
}

/// What is done about the calls of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done<'a> {
    /// One answer, whatever the arguments.
    Always(u32),
    /// What these rules say.
    Depends(&'a [(u32, usize)]),
}

/// Numbers from the first on that are treated alike.
struct Range<'a> {
    first: u32,
    done: Done<'a>,
}

fn ranges<'a>(rules: &[Rule], calls: &'a [(u32, usize)], default: u32) -> Vec<Range<'a>> {
    let mut ranges: Vec<Range<'_>> = Vec::with_capacity(calls.len());
    let mut push = |first: u32, done: Done<'a>| match ranges.last() {
        Some(last) if last.done == done => {}
        _ => ranges.push(Range { first, done }),
    };
    let mut next = 0;
    for run in calls.chunk_by(|a, b| a.0 == b.0) {
        let Some(&(number, rule)) = run.first() else {
            continue;
        };
        if number > next {
            push(next, Done::Always(default));
        }
        let always = rules
            .get(rule)
            .filter(|rule| rule.conditions.is_empty())
            .map(|rule| Done::Always(rule.action));
        push(number, always.unwrap_or(Done::Depends(run)));
        next = number + 1;
    }
    push(next, Done::Always(default));
    ranges
}

/// A program that is written from its end. A place in it is counted from there.
#[derive(Debug, Default)]
struct Backwards {
    code: Vec<Instruction>,
    /// Where an answer was written last.
    answers: Vec<(u32, usize)>,
}

impl Backwards {
    fn push(&mut self, instruction: Instruction) -> usize {
        self.code.push(instruction);
        self.newest()
    }

    /// The place of what was written last.
    fn newest(&self) -> usize {
        self.code.len().saturating_sub(1)
    }

    /// How many instructions the next one to be written would jump over.
    fn over(&self, place: usize) -> usize {
        self.code.len() - place - 1
    }

    /// The place of an answer, written anew where the last one is too far for a branch.
    fn answer(&mut self, answer: u32) -> usize {
        let known = self.answers.iter().position(|(known, _)| *known == answer);
        match known.and_then(|at| self.answers.get(at)) {
            Some(&(_, place)) if self.over(place) < NEAR => return place,
            _ => {}
        }
        let place = self.push(step(RETURN, answer));
        match known.and_then(|at| self.answers.get_mut(at)) {
            Some(entry) => entry.1 = place,
            None => self.answers.push((answer, place)),
        }
        place
    }

    /// A place from which a branch that is written soon gets to this one: conditional jumps reach 255 instructions, plain ones all.
    fn near(&mut self, place: usize) -> usize {
        if self.over(place) < NEAR {
            return place;
        }
        match self.code.get(place) {
            Some(answer) if answer.code == RETURN => self.answer(answer.k),
            _ => {
                let over = u32::try_from(self.over(place)).unwrap_or(u32::MAX);
                self.push(step(JUMP, over))
            }
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: usize, no: usize) -> usize {
        let yes = self.near(yes);
        let no = self.near(no);
        let far = |place| u8::try_from(self.over(place)).unwrap_or(u8::MAX);
        let branch = branch(code, k, far(yes), far(no));
        self.push(branch)
    }

    /// Makes what was written last lead to a place.
    fn lead_to(&mut self, place: usize) {
        if place != self.newest() {
            let over = u32::try_from(self.over(place)).unwrap_or(u32::MAX);
            self.push(step(JUMP, over));
        }
    }

    /// A search for the range that a number is in.
    fn tree(&mut self, ranges: &[Range<'_>], rules: &[Rule], default: u32) -> usize {
        match ranges {
            [] => self.answer(default),
            [one] => match one.done {
                Done::Always(answer) => self.answer(answer),
                Done::Depends(run) => {
                    let run = run.iter().filter_map(|(_, rule)| rules.get(*rule));
                    let code = leaf(run, default);
                    self.code.extend(code.iter().rev());
                    self.newest()
                }
            },
            many => {
                let (low, high) = many.split_at(many.len() / 2);
                let first = high.first().map_or(0, |range| range.first);
                let high = self.tree(high, rules, default);
                let low = self.tree(low, rules, default);
                self.branch(AT_LEAST, first, high, low)
            }
        }
    }

    fn forwards(mut self) -> Vec<Instruction> {
        self.code.reverse();
        self.code
    }
}

/// What a branch surely reaches, with the few instructions that may be written before it.
const NEAR: usize = 250;

/// One call's rules, the first that holds wins.
fn leaf<'a>(rules: impl Iterator<Item = &'a Rule>, default: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for Rule { conditions, action } in rules {
        if conditions.is_empty() {
            code.push(step(RETURN, *action));
            return code;
        }
        // Where a test fails, go on behind this rule. Conditional jumps reach 255 instructions: in a longer rule they lead to a plain one
        // behind the test.
        let mut tests: Vec<Vec<Instruction>> = conditions.iter().map(test).collect();
        let long = tests.iter().map(Vec::len).sum::<usize>() >= usize::from(HOLD);
        if long {
            for test in &mut tests {
                test.extend([step(JUMP, 1), step(JUMP, 0)]);
            }
        }
        let mut left: usize = tests.iter().map(Vec::len).sum::<usize>() + 1;
        for test in tests {
            for (at, mut instruction) in test.iter().copied().enumerate() {
                let rest = test.len() - at - 1;
                let fail = if long {
                    rest.saturating_sub(1)
                } else {
                    left - at - 1
                };
                for target in [&mut instruction.jt, &mut instruction.jf] {
                    *target = match *target {
                        FAIL => u8::try_from(fail).unwrap_or(u8::MAX),
                        HOLD => u8::try_from(rest).unwrap_or(u8::MAX),
                        other => other,
                    };
                }
                if long && rest == 0 {
                    instruction.k = u32::try_from(left - test.len()).unwrap_or(u32::MAX);
                }
                code.push(instruction);
            }
            left -= test.len();
        }
        code.push(step(RETURN, *action));
    }
    code.push(step(RETURN, default));
    code
}

/// Placeholders in a test's jumps: to behind the rule, and to behind the test.
const FAIL: u8 = 255;
const HOLD: u8 = 254;

/// A test: goes on behind itself if it holds.
fn test(condition: &Condition) -> Vec<Instruction> {
    let low = step(LOAD, ARGUMENTS + 8 * u32::from(condition.index));
    let high = step(LOAD, ARGUMENTS + 8 * u32::from(condition.index) + 4);
    let halves = |value: u64| ((value >> 32) as u32, (value & 0xffff_ffff) as u32);
    match condition.test {
        Test::Equal(value) => {
            let (h, l) = halves(value);
            vec![
                high,
                branch(EQUAL, h, 0, FAIL),
                low,
                branch(EQUAL, l, 0, FAIL),
            ]
        }
        Test::NotEqual(value) => {
            let (h, l) = halves(value);
            vec![
                high,
                branch(EQUAL, h, 0, HOLD),
                low,
                branch(EQUAL, l, FAIL, 0),
            ]
        }
        Test::Masked { mask, value } => {
            let ((mh, ml), (h, l)) = (halves(mask), halves(value));
            if (mh, h) == (0, 0) {
                return vec![low, step(AND, ml), branch(EQUAL, l, 0, FAIL)];
            }
            vec![
                high,
                step(AND, mh),
                branch(EQUAL, h, 0, FAIL),
                low,
                step(AND, ml),
                branch(EQUAL, l, 0, FAIL),
            ]
        }
        Test::Above(value) => order(high, low, halves(value), ABOVE, false),
        Test::AtLeast(value) => order(high, low, halves(value), AT_LEAST, false),
        Test::Below(value) => order(high, low, halves(value), AT_LEAST, true),
        Test::AtMost(value) => order(high, low, halves(value), ABOVE, true),
    }
}

/// `argument > value` or `>=` by the operator on the low half; or the contrary of it.
fn order(
    high: Instruction,
    low: Instruction,
    value: (u32, u32),
    operator: u16,
    not: bool,
) -> Vec<Instruction> {
    let (yes, no) = if not { (FAIL, HOLD) } else { (HOLD, FAIL) };
    vec![
        high,
        branch(ABOVE, value.0, yes, 0),
        branch(EQUAL, value.0, 0, no),
        low,
        branch(operator, value.1, yes, no),
    ]
}

fn step(code: u16, k: u32) -> Instruction {
    branch(code, k, 0, 0)
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}
