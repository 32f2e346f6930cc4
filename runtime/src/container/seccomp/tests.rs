use super::{run::run, *};
use oci_spec::runtime::Capability;
use std::collections::HashSet;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn call(spec: &LinuxSeccomp, name: &str, args: &[u64]) -> u32 {
    let filter = compile(spec).unwrap();
    run(
        &filter.program,
        NATIVE.audit,
        number(name, false).unwrap().unwrap(),
        args,
    )
}

fn spec(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_tables_are_sorted_so_that_names_are_found() {
    for table in [NATIVE.numbers, NATIVE.others] {
        assert!(table.is_sorted_by_key(|(name, _)| *name));
    }
    assert_eq!(
        number("mount", false).unwrap(),
        Some(libc::SYS_mount as u32)
    );
}

#[test]
fn the_default_filter_denies_what_leads_out_of_a_container() {
    let spec = default_seccomp();
    assert!(!spec.syscalls().as_ref().unwrap().is_empty());
    for name in [
        "mount",
        "umount2",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "kexec_load",
        "init_module",
        "setns",
        "unshare",
        "reboot",
        "swapon",
        "pivot_root",
        "io_uring_setup",
        "open_by_handle_at",
        "userfaultfd",
        "perf_event_open",
        "acct",
        "fsopen",
        "move_mount",
        "syslog",
        "settimeofday",
    ] {
        assert_eq!(call(&spec, name, &[]), EPERM, "{name}");
    }
    for name in [
        "read",
        "write",
        "openat",
        "execve",
        "chroot",
        "capset",
        "prctl",
        "seccomp",
        "wait4",
        "futex_waitv",
    ] {
        assert_eq!(call(&spec, name, &[]), ALLOW, "{name}");
    }
    assert_eq!(call(&spec, "clone", &[libc::CLONE_NEWUSER as u64]), EPERM);
    assert_eq!(call(&spec, "clone", &[libc::SIGCHLD as u64]), ALLOW);
    assert_eq!(call(&spec, "clone3", &[]), ENOSYS);
    assert_eq!(call(&spec, "socket", &[libc::AF_INET as u64]), ALLOW);
    assert_eq!(call(&spec, "socket", &[libc::AF_ALG as u64]), EPERM);
    assert_eq!(call(&spec, "socket", &[libc::AF_VSOCK as u64]), EPERM);
    assert_eq!(call(&spec, "personality", &[4]), EPERM);
    assert_eq!(call(&spec, "personality", &[0xffff_ffff]), ALLOW);
}

#[test]
fn the_default_filter_allows_more_with_more_capabilities() {
    let spec = default_seccomp_for(&HashSet::from([Capability::SysAdmin]));
    assert_eq!(call(&spec, "mount", &[]), ALLOW);
    assert_eq!(call(&spec, "clone3", &[]), ALLOW);
    assert_eq!(call(&spec, "chroot", &[]), EPERM);
}

#[test]
fn calls_of_other_architectures_end_the_process_and_newer_ones_do_not_exist() {
    let program = compile(&default_seccomp()).unwrap().program;
    assert_eq!(run(&program, 0x4000_0003, 3, &[]), bpf::KILL_PROCESS);
    assert_eq!(run(&program, NATIVE.audit, 5000, &[]), ENOSYS);
    if cfg!(target_arch = "x86_64") {
        assert_eq!(
            run(&program, NATIVE.audit, 0x4000_0000, &[]),
            bpf::KILL_PROCESS
        );
    }
}

#[test]
fn every_comparison_looks_at_all_64_bits() {
    let big = 0x1_0000_0005u64;
    let cases = [
        (
            "SCMP_CMP_EQ",
            vec![(big, true), (5, false), (big + 1, false)],
        ),
        (
            "SCMP_CMP_NE",
            vec![(big, false), (5, true), (big + 1, true)],
        ),
        (
            "SCMP_CMP_LT",
            vec![(big, false), (5, true), (big - 1, true), (2 << 32, false)],
        ),
        (
            "SCMP_CMP_LE",
            vec![(big, true), (6, true), (big + 1, false), (2 << 32, false)],
        ),
        (
            "SCMP_CMP_GE",
            vec![(big, true), (9, false), (big + 1, true), (2 << 32, true)],
        ),
        (
            "SCMP_CMP_GT",
            vec![(big, false), (9, false), (big + 1, true), (2 << 32, true)],
        ),
    ];
    for (operator, values) in cases {
        let spec = spec(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":2,"value":{big},"op":"{operator}"}},{{"index":0,"value":0,"op":"SCMP_CMP_EQ"}}]}}]}}"#
        ));
        for (value, holds) in values {
            let expected = if holds { ALLOW } else { EPERM };
            assert_eq!(
                call(&spec, "read", &[0, 0, value]),
                expected,
                "{value:#x} {operator}"
            );
            assert_eq!(
                call(&spec, "read", &[1, 0, value]),
                EPERM,
                "both tests must hold"
            );
        }
    }
}

#[test]
fn the_first_rule_that_holds_decides() {
    let spec = spec(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97,"args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
    );
    assert_eq!(call(&spec, "socket", &[38]), 0x0005_0061);
    assert_eq!(call(&spec, "socket", &[2]), 0x0005_000d);
    assert_eq!(call(&spec, "bind", &[2]), ALLOW);
}

#[test]
fn a_rule_that_asks_needs_somebody_to_be_asked() {
    let with = |more: &str, name: &str| {
        let rule = format!(r#"{{"names":["{name}"],"action":"SCMP_ACT_NOTIFY"}}"#);
        compile(&spec(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW"{more},"syscalls":[{rule}]}}"#
        )))
    };
    let path = r#","listenerPath":"/run/x","listenerMetadata":"m""#;
    let filter = with(path, "mkdir").unwrap();
    assert_eq!(filter.listener, Some(("/run/x".into(), "m".to_owned())));
    assert_eq!(filter.flags & 8, 8, "a new listener");
    assert!(with("", "mkdir").is_err());
    assert!(with(path, "sendmsg").is_err());
}

#[test]
fn a_prohibition_of_an_unknown_call_is_an_error_and_a_permission_is_passed_over() {
    let deny = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mont"],"action":"SCMP_ACT_ERRNO"}]}"#;
    assert!(
        compile(&spec(deny))
            .unwrap_err()
            .to_string()
            .contains("mont")
    );
    let allow = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mont"],"action":"SCMP_ACT_ALLOW"}]}"#;
    assert!(compile(&spec(allow)).is_ok());
    let both = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mont"],"action":"SCMP_ACT_ERRNO"}]}"#;
    assert!(compile(&spec(both)).is_ok(), "it is denied anyway");
    let foreign = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_S390X"]}"#;
    assert!(compile(&spec(foreign)).is_err());
    let notify = r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#;
    assert!(matches!(compile(&spec(notify)), Err(Error::Invalid(_))));
}

/// Found by fuzzing: the jump out of a rule was cut to 255 instructions, so that a call was allowed where a late condition failed.
#[test]
fn a_rule_of_many_conditions_holds_only_if_all_do() {
    let holds = r#"{"index":0,"value":7,"op":"SCMP_CMP_EQ"}"#;
    let fails = r#"{"index":1,"value":7,"op":"SCMP_CMP_GT"}"#;
    for count in [1, 49, 50, 51, 60, 63, 64, 65, 200, 500] {
        for at in [0, count / 2, count - 1] {
            let mut args = vec![holds; count];
            let whole = |args: &[&str]| {
                spec(&format!(
                    r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{}]}},
                        {{"names":["write"],"action":"SCMP_ACT_KILL_PROCESS"}}]}}"#,
                    args.join(",")
                ))
            };
            assert_eq!(call(&whole(&args), "read", &[7]), ALLOW, "{count}");
            args[at] = fails;
            assert_eq!(call(&whole(&args), "read", &[7]), EPERM, "{count} {at}");
        }
    }
}
