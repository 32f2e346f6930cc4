//! Classic BPF for seccomp: a search tree over the numbers of system calls, and tests of 64-bit arguments. Knows no names.

use super::{Instruction, Rules};
use crate::{Error, Result};
use std::collections::BTreeMap;

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

/// The whole program: `default` for calls without a rule, `unknown` for those above `newest`.
pub(super) fn program(
    audit: u32,
    rules: &BTreeMap<u32, Rules>,
    default: u32,
    newest: u32,
    unknown: u32,
) -> Result<Vec<Instruction>> {
    let mut program = vec![
        step(LOAD, ARCH),
        branch(EQUAL, audit, 1, 0),
        step(RETURN, KILL_PROCESS),
        step(LOAD, NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        // x32: the same architecture, marked in the number.
        program.extend([
            branch(AT_LEAST, 0x4000_0000, 0, 1),
            step(RETURN, KILL_PROCESS),
        ]);
    }
    program.extend([branch(ABOVE, newest, 0, 1), step(RETURN, unknown)]);
    program.extend(tree(&ranges(rules, default)));
    if program.len() > LONGEST {
        return Err(Error::Invalid(format!(
            "the seccomp filter needs {} instructions, the kernel takes {LONGEST}",
            program.len()
        )));
    }
    Ok(program)
}

/// Numbers from the first on that are treated alike.
struct Range {
    first: u32,
    code: Vec<Instruction>,
}

fn ranges(rules: &BTreeMap<u32, Rules>, default: u32) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |first: u32, code: Vec<Instruction>| match ranges.last() {
        Some(last) if last.code == code => {}
        _ => ranges.push(Range { first, code }),
    };
    let mut next = 0;
    for (&number, rules) in rules {
        if number > next {
            push(next, vec![step(RETURN, default)]);
        }
        push(number, leaf(rules, default));
        next = number + 1;
    }
    push(next, vec![step(RETURN, default)]);
    ranges
}

fn tree(ranges: &[Range]) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [one] => one.code.clone(),
        many => {
            let (low, high) = many.split_at(many.len() / 2);
            let first = high.first().map_or(0, |range| range.first);
            let (low, high) = (tree(low), tree(high));
            // Conditional jumps reach 255 instructions; the plain one reaches all.
            let over = u32::try_from(low.len()).unwrap_or(u32::MAX);
            let mut code = vec![branch(AT_LEAST, first, 0, 1), step(JUMP, over)];
            code.extend(low);
            code.extend(high);
            code
        }
    }
}

/// One call's rules, the first that holds wins.
fn leaf(rules: &Rules, default: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (conditions, action) in rules {
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
