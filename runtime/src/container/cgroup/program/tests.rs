use super::super::devices::{self, MKNOD, READ, WRITE};
use super::*;
use oci_spec::runtime::LinuxDeviceCgroup;
use proptest::prelude::*;

/// What the kernel would do with a program; also checks what its verifier does: only forward jumps, to steps that there are, all steps reachable.
fn interpret(program: &[Instruction], kind: i32, access: u8, major: u32, minor: u32) -> bool {
    let context = [
        u32::from(access) << 16 | u32::try_from(kind).unwrap(),
        major,
        minor,
    ];
    let mut registers = [0u64; 11];
    let mut at = 0;
    loop {
        let step = program[at];
        let destination = usize::from(step.registers & 15);
        let source = usize::from(step.registers >> 4);
        let number = i64::from(step.number) as u64;
        assert!(step.offset >= 0);
        at += 1;
        match step.code {
            LOAD => registers[destination] = u64::from(context[step.offset as usize / 4]),
            SET => registers[destination] = number,
            COPY => registers[destination] = registers[source],
            AND => registers[destination] &= number,
            SHIFT => registers[destination] >>= number,
            UNLESS_EQUAL if registers[destination] != number => at += step.offset as usize,
            IF_BITS if registers[destination] & number != 0 => at += step.offset as usize,
            UNLESS_EQUAL | IF_BITS => {}
            JUMP => at += step.offset as usize,
            EXIT => return registers[0] == 1,
            other => panic!("unknown step {other:#x}"),
        }
    }
}

fn all_reached(program: &[Instruction]) -> bool {
    let mut reached = vec![false; program.len()];
    reached[0] = true;
    for (at, step) in program.iter().enumerate() {
        if !reached[at] {
            return false;
        }
        let there = at + 1 + usize::try_from(step.offset).unwrap();
        match step.code {
            EXIT => {}
            JUMP => reached[there] = true,
            UNLESS_EQUAL | IF_BITS => {
                reached[at + 1] = true;
                reached[there] = true;
            }
            _ => reached[at + 1] = true,
        }
    }
    true
}

/// The rules themselves: for each kind of access the last rule about the device decides.
fn allowed(rules: &[Rule], kind: Kind, access: u8, major: u32, minor: u32) -> bool {
    [MKNOD, READ, WRITE]
        .into_iter()
        .filter(|bit| access & bit != 0)
        .all(|bit| {
            rules
                .iter()
                .rev()
                .find(|r| {
                    r.kind.is_none_or(|k| k == kind)
                        && r.major.is_none_or(|m| m == major)
                        && r.minor.is_none_or(|m| m == minor)
                        && r.access & bit != 0
                })
                .is_some_and(|r| r.allow)
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    let number = || prop_oneof![Just(None), (0u32..4).prop_map(Some), Just(Some(u32::MAX))];
    (
        any::<bool>(),
        prop_oneof![
            Just(None),
            Just(Some(Kind::Block)),
            Just(Some(Kind::Character))
        ],
        number(),
        number(),
        1u8..8,
    )
        .prop_map(|(allow, kind, major, minor, access)| Rule {
            allow,
            kind,
            major,
            minor,
            access,
        })
}

proptest! {
    #[test]
    fn the_program_answers_as_the_rules_say(rules in prop::collection::vec(rule(), 0..12)) {
        let program = assemble(&rules);
        prop_assert!(all_reached(&program));
        for kind in [Kind::Block, Kind::Character] {
            for access in 1..8 {
                for major in 0..5 {
                    for minor in 0..5 {
                        prop_assert_eq!(
                            interpret(&program, number(kind), access, major, minor),
                            allowed(&rules, kind, access, major, minor),
                            "{:?} {} {}:{} {:?}", kind, access, major, minor, rules
                        );
                    }
                }
            }
        }
    }
}

fn from(json: &str) -> Vec<Instruction> {
    let spec: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
    assemble(&devices::rules(&spec).unwrap())
}

#[test]
fn a_container_without_rules_has_the_usual_devices_and_no_others() {
    let program = from("[]");
    let character = number(Kind::Character);
    assert!(interpret(&program, character, READ | WRITE, 1, 3));
    assert!(interpret(&program, character, READ | WRITE, 136, 7));
    assert!(interpret(&program, number(Kind::Block), MKNOD, 254, 0));
    assert!(!interpret(&program, number(Kind::Block), READ, 254, 0));
    assert!(!interpret(&program, character, READ, 1, 11));
}

#[test]
fn a_rule_of_the_spec_allows_just_what_it_says() {
    let program = from(
        r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"r"}]"#,
    );
    let character = number(Kind::Character);
    assert!(interpret(&program, character, READ, 10, 229));
    assert!(!interpret(&program, character, READ | WRITE, 10, 229));
    assert!(!interpret(&program, character, READ, 10, 200));
    let all = from(r#"[{"allow":true,"access":"rwm"}]"#);
    assert!(interpret(&all, number(Kind::Block), READ | WRITE, 8, 0));
}
