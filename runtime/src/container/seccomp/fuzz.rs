//! What fuzzers call here; see `crate::fuzz`.
#![allow(clippy::unwrap_used)]

use super::{compile, run};
use crate::fuzz::Bytes;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

const CALLS: &[&str] = &[
    "read", "write", "openat", "mount", "clone", "clone3", "socket", "ioctl", "ptrace", "bpf",
    "prctl", "futex",
];
const ACTIONS: &[(Action, u32)] = &[
    (Action::ScmpActAllow, 0x7fff_0000),
    (Action::ScmpActErrno, 0x0005_0001),
    (Action::ScmpActKillProcess, 0x8000_0000),
    (Action::ScmpActTrap, 0x0003_0000),
    (Action::ScmpActLog, 0x7ffc_0000),
];
const OPERATORS: &[Operator] = &[
    Operator::ScmpCmpEq,
    Operator::ScmpCmpNe,
    Operator::ScmpCmpLt,
    Operator::ScmpCmpLe,
    Operator::ScmpCmpGe,
    Operator::ScmpCmpGt,
    Operator::ScmpCmpMaskedEq,
];

/// One test of an argument: which, how, and with what.
#[derive(Debug, Clone, Copy)]
struct Test {
    index: u8,
    operator: Operator,
    value: u64,
    two: u64,
}

impl Test {
    fn holds(self, args: &[u64; 6]) -> bool {
        let arg = args[usize::from(self.index)];
        match self.operator {
            Operator::ScmpCmpEq => arg == self.value,
            Operator::ScmpCmpNe => arg != self.value,
            Operator::ScmpCmpLt => arg < self.value,
            Operator::ScmpCmpLe => arg <= self.value,
            Operator::ScmpCmpGe => arg >= self.value,
            Operator::ScmpCmpGt => arg > self.value,
            Operator::ScmpCmpMaskedEq => arg & self.value == self.two,
        }
    }
}

/// A filter drawn from the input, and calls to put to it: the program for the kernel answers as the rules say.
pub fn seccomp(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (default, default_number) = *bytes.one(ACTIONS);
    let mut rules: Vec<(&str, Vec<Test>, u32)> = Vec::new();
    let mut written: Vec<LinuxSyscall> = Vec::new();
    for _ in 0..bytes.byte() % 24 {
        let name = *bytes.one(CALLS);
        let (action, number) = *bytes.one(ACTIONS);
        let count = match bytes.byte() {
            many @ 250.. => usize::from(many - 240) * 16,
            few => usize::from(few % 7),
        };
        let tests: Vec<Test> = (0..count)
            .map(|_| Test {
                index: bytes.byte() % 6,
                operator: *bytes.one(OPERATORS),
                value: bytes.number(),
                two: bytes.number(),
            })
            .collect();
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec![name.to_owned()]).set_action(action);
        let args = tests.iter().map(|test| {
            LinuxSeccompArgBuilder::default()
                .index(test.index)
                .op(test.operator)
                .value(test.value)
                .value_two(test.two)
                .build()
                .unwrap()
        });
        rule.set_args(Some(args.collect()));
        written.push(rule);
        rules.push((name, tests, number));
    }
    let mut spec = LinuxSeccomp::default();
    spec.set_default_action(default).set_syscalls(Some(written));
    let Ok(filter) = compile(&spec) else {
        return;
    };
    for _ in 0..8 {
        let name = *bytes.one(CALLS);
        let mut args = [0; 6];
        for arg in &mut args {
            // Mostly the very values that are compared with.
            let known: Vec<u64> = rules
                .iter()
                .flat_map(|(_, tests, _)| tests.iter().flat_map(|test| [test.value, test.two]))
                .collect();
            *arg = match bytes.byte() {
                _ if known.is_empty() => bytes.number(),
                0..100 => *bytes.one(&known),
                100..150 => bytes.one(&known).wrapping_add(1),
                150..200 => bytes.one(&known).wrapping_sub(1),
                _ => bytes.number(),
            };
        }
        let number = super::number(name, false).unwrap().unwrap();
        let newest = rules
            .iter()
            .filter_map(|(name, ..)| super::number(name, false).ok().flatten())
            .max()
            .unwrap_or(0);
        let expected = rules
            .iter()
            .find(|(rule, tests, _)| *rule == name && tests.iter().all(|test| test.holds(&args)))
            .map_or(
                // Newer than all that the filter knows.
                if number > newest && newest > 300 && default == Action::ScmpActErrno {
                    0x0005_0026
                } else {
                    default_number
                },
                |(_, _, action)| *action,
            );
        let answer = run::run(&filter.program, super::NATIVE.audit, number, &args);
        assert_eq!(answer, expected, "{name} {args:x?} under {rules:?}");
    }
    // Other architectures' calls are never let through.
    assert_eq!(
        run::run(&filter.program, 0x4000_0003, 0, &[0; 6]),
        0x8000_0000
    );
}
