//! Device rules as an eBPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`), which the kernel asks about each use of a device by the processes
//! of a cgroup. Pure: a small assembler.
//!
//! The kernel's question is `struct bpf_cgroup_dev_ctx`: kind of device and of access, major, minor. The answer is 1 (allowed) or 0. The
//! rules are gone through from the last to the first; a register holds the kinds of access that no rule has decided yet.

use super::devices::{ALL, Kind, Rule};

/// One instruction, as the kernel has it (`struct bpf_insn`): operation, registers (destination low, source high), offset, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) number: i32,
}

pub(super) const LOAD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
pub(super) const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
pub(super) const COPY: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
pub(super) const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
pub(super) const SHIFT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
pub(super) const UNLESS_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
pub(super) const IF_BITS: u8 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
pub(super) const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
pub(super) const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// Registers.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const UNDECIDED: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The kernel's numbers of the kinds (`BPF_DEVCG_DEV_…`).
pub(super) fn number(kind: Kind) -> i32 {
    match kind {
        Kind::Block => 1,
        Kind::Character => 2,
    }
}

fn step(code: u8, destination: u8, source: u8, offset: i16, number: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | source << 4,
        offset,
        number,
    }
}

/// The program for these rules. What no rule is about is denied.
pub(super) fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        step(LOAD, UNDECIDED, CONTEXT, 0, 0),
        step(COPY, KIND, UNDECIDED, 0, 0),
        step(AND, KIND, 0, 0, 0xffff),
        step(SHIFT, UNDECIDED, 0, 0, 16),
        step(LOAD, MAJOR, CONTEXT, 4, 0),
        step(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        if rule.is_about_all() {
            // The kernel refuses a program with steps that are never reached.
            program.extend(answer(rule.allow));
            return program;
        }
        program.extend(one(rule).unwrap_or_default());
    }
    program.extend(answer(false));
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        step(SET, ANSWER, 0, 0, i32::from(allow)),
        step(EXIT, 0, 0, 0, 0),
    ]
}

/// One rule's steps; none if no device has such a number.
fn one(rule: &Rule) -> Option<Vec<Instruction>> {
    let mut tests = Vec::new();
    if let Some(kind) = rule.kind {
        tests.push((KIND, number(kind)));
    }
    for (register, wanted) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(wanted) = wanted {
            tests.push((register, i32::try_from(wanted).ok()?));
        }
    }
    let access = i32::from(rule.access);
    let mut verdict = Vec::new();
    if rule.allow {
        if rule.access != ALL {
            verdict.push(step(AND, UNDECIDED, 0, 0, i32::from(ALL & !rule.access)));
            // Something is left to decide: on to the next rule.
            verdict.push(step(UNLESS_EQUAL, UNDECIDED, 0, 2, 0));
        }
    } else if rule.access != ALL {
        verdict.push(step(IF_BITS, UNDECIDED, 0, 1, access));
        verdict.push(step(JUMP, 0, 0, 2, 0));
    }
    verdict.extend(answer(rule.allow));
    let mut steps = Vec::new();
    for (at, &(register, wanted)) in tests.iter().enumerate() {
        let over = tests.len() - at - 1 + verdict.len();
        steps.push(step(
            UNLESS_EQUAL,
            register,
            0,
            i16::try_from(over).ok()?,
            wanted,
        ));
    }
    steps.extend(verdict);
    Some(steps)
}

#[cfg(test)]
mod tests;
