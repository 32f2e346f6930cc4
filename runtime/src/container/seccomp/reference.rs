//! The default filter beside others' (tests). `tests/tests/oci/docker.rs` compares it with the one that Docker itself hands out.

use super::{NATIVE, compile, default_seccomp, number, run::run};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;

/// Podman's and Buildah's default profile, where it is installed (with podman).
const CONTAINERS_COMMON: &str = "/usr/share/containers/seccomp.json";

const ALLOW: u32 = 0x7fff_0000;

/// Allowed here and not there, with why. All of these are calls that a process does to itself or to what it may open anyway.
const MORE: &[(&str, &str)] = &[
    ("cachestat", NEWER),
    ("fchmodat2", NEWER),
    ("futex_requeue", NEWER),
    ("futex_wait", NEWER),
    ("futex_waitv", NEWER),
    ("futex_wake", NEWER),
    ("getxattrat", NEWER),
    ("listmount", NEWER),
    ("listxattrat", NEWER),
    ("map_shadow_stack", NEWER),
    ("mseal", NEWER),
    ("removexattrat", NEWER),
    ("setxattrat", NEWER),
    ("statmount", NEWER),
    ("uretprobe", NEWER),
    (
        "vmsplice",
        "denied there since CVE-2008-0600 of Linux 2.6.17 to 2.6.24; Docker allows it",
    ),
    (
        "io_pgetevents",
        "the wait for asynchronous I/O that io_getevents, allowed there, is too; Docker allows it",
    ),
];
const NEWER: &str =
    "newer than that profile; Docker's and newer ones of containers/common allow it";

#[test]
fn what_the_default_filter_allows_is_allowed_by_that_of_others_too() {
    let Ok(text) = std::fs::read(CONTAINERS_COMMON) else {
        println!("{CONTAINERS_COMMON} is not here: nothing to compare with");
        return;
    };
    let theirs = resolved(&serde_json::from_slice(&text).unwrap());
    let (ours, theirs) = (
        compile(&default_seccomp()).unwrap(),
        compile(&theirs).unwrap(),
    );
    let answer = |program, call: u32, args: &[u64]| run(program, NATIVE.audit, call, args);
    for (name, call) in NATIVE.numbers {
        // Whatever the arguments, and for those that some calls' rules look at.
        for first in [
            0,
            8,
            16,
            38,
            40,
            0x7e02_0000,
            0x1000_0000,
            u64::from(u32::MAX),
        ] {
            let args = [first, 0, 0, 0, 0, 0];
            if answer(&ours.program, *call, &args) != ALLOW {
                continue;
            }
            let there = answer(&theirs.program, *call, &args) == ALLOW;
            let known = MORE.iter().any(|(more, _)| more == name);
            assert!(there || known, "{name}({first:#x}) is allowed here only");
            assert!(
                !(there && known && first == 0),
                "{name} is allowed there too: it needs no reason"
            );
        }
    }
}

#[test]
fn families_and_flags_that_reach_out_of_namespaces_are_denied() {
    let filter = compile(&default_seccomp()).unwrap();
    let allowed = |name: &str, args: &[u64]| {
        let call = number(name, false).unwrap().unwrap();
        run(&filter.program, NATIVE.audit, call, args) == ALLOW
    };
    // As Docker, and AF_ALG: all families that there are but those that know no network namespace. The kernel looks at the low half
    // alone, so nobody gets by with a bit above it.
    for family in 0..48 {
        for above in [0, 1 << 32, u64::from(u32::MAX) << 32] {
            let fine = ![38, 40].contains(&family);
            assert_eq!(
                allowed("socket", &[family | above]),
                fine,
                "{family} {above:#x}"
            );
        }
    }
    // Every flag of clone that makes a namespace, alone and with others.
    for flag in [
        0x0002_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert!(
            !allowed("clone", &[flag]) && !allowed("clone", &[flag | 0x11]),
            "{flag:#x}"
        );
    }
    assert!(allowed("clone", &[0x003d_0f00]), "threads");
    // Linux personalities, none that takes the randomisation of addresses away.
    for (persona, fine) in [
        (0, true),
        (8, true),
        (0x2_0000, true),
        (0x2_0008, true),
        (0x004_0000, false),
        (0x010_0000, false),
    ] {
        assert_eq!(allowed("personality", &[persona]), fine, "{persona:#x}");
    }
    for ring in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(!allowed(ring, &[]), "{ring}");
    }
}

/// Their profile for this machine and no capability: rules that are for others are left out.
fn resolved(profile: &Value) -> LinuxSeccomp {
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let list = |rule: &Value, which: &str, what: &str| -> Vec<String> {
        rule[which][what]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    let granted = ["CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"];
    let applies = |rule: &&Value| {
        let for_arches = list(rule, "includes", "arches");
        let for_caps = list(rule, "includes", "caps");
        (for_arches.is_empty() || for_arches.iter().any(|a| a == arch))
            && for_caps.iter().all(|cap| granted.contains(&cap.as_str()))
            && !list(rule, "excludes", "arches").iter().any(|a| a == arch)
            && !list(rule, "excludes", "caps")
                .iter()
                .any(|cap| granted.contains(&cap.as_str()))
    };
    let rules: Vec<Value> = profile["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(applies)
        .map(|rule| serde_json::json!({"names": rule["names"], "action": rule["action"], "args": rule["args"], "errnoRet": rule["errnoRet"]}))
        .collect();
    serde_json::from_value(serde_json::json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "syscalls": rules,
    }))
    .unwrap()
}
