use super::{device_rules, relative, resources};
use oci_spec::runtime::LinuxResources;
use std::path::{Path, PathBuf};

fn parse(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn lines(limits: &[resources::Limit]) -> Vec<String> {
    limits
        .iter()
        .map(|l| format!("{}={}", l.file, l.value))
        .collect()
}

#[test]
fn a_cgroup_path_stays_below_the_root() {
    assert_eq!(
        relative(Path::new("/swarm/a")).unwrap(),
        PathBuf::from("swarm/a")
    );
    assert!(relative(Path::new("/swarm/../a")).is_err());
    assert!(relative(Path::new("/")).is_err());
}

#[test]
fn limits_become_the_files_of_v2() {
    let spec = parse(
        r#"{"memory":{"limit":1048576,"swap":2097152,"reservation":4096},"cpu":{"shares":1024,"quota":50000,"period":100000,
            "cpus":"0"},"pids":{"limit":7},"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]},
            "unified":{"memory.high":"4096"}}"#,
    );
    let expected = [
        "memory.swap.max=1048576",
        "memory.max=1048576",
        "memory.low=4096",
        "cpu.weight=39",
        "cpu.max=50000 100000",
        "cpuset.cpus=0",
        "pids.max=7",
        "io.max=8:0 rbps=5",
        "memory.high=4096",
    ];
    assert_eq!(lines(&resources::v2(&spec).unwrap()), expected);
}

#[test]
fn on_v1_the_memory_limit_comes_before_the_limit_with_swap() {
    let spec = parse(r#"{"memory":{"limit":1048576,"swap":1048576},"cpu":{"shares":512}}"#);
    let limits = lines(&resources::v1(&spec).unwrap());
    let expected = [
        "memory.limit_in_bytes=1048576",
        "memory.memsw.limit_in_bytes=1048576",
        "cpu.shares=512",
    ];
    assert_eq!(limits, expected);
}

#[test]
fn devices_are_denied_before_any_is_allowed() {
    let spec = parse(
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
    );
    let limits = |spec| lines(&resources::devices_v1(&device_rules(Some(spec)).unwrap()));
    assert_eq!(
        limits(&spec).get(..3).unwrap(),
        [
            "devices.deny=a",
            "devices.allow=c 10:229 rw",
            "devices.allow=c *:* m"
        ]
    );
    let privileged = parse(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
    assert_eq!(limits(&privileged), ["devices.deny=a", "devices.allow=a"]);
}

#[test]
fn what_a_hierarchy_does_not_have_is_an_error() {
    let swappiness = parse(r#"{"memory":{"swappiness":10}}"#);
    assert!(resources::v2(&swappiness).is_err());
    assert!(resources::v1(&swappiness).is_ok());
    assert!(resources::v1(&parse(r#"{"unified":{"memory.high":"1"}}"#)).is_err());
    assert!(resources::v2(&parse(r#"{"unified":{"../x":"1"}}"#)).is_err());
    assert!(resources::v2(&parse(r#"{"memory":{"limit":10,"swap":5}}"#)).is_err());
}
