//! What only cgroup v2 can do, with real containers: run as root on a host that has it whole (`make test-vm` is one).

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used
)]

#[path = "container_support/mod.rs"]
mod support;

use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use support::{World, alone};
use swarm_runtime::Error;

/// Runs a test where the host has cgroup v2 alone.
fn on_v2(test: impl FnOnce()) {
    if fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok() {
        alone(test);
    } else {
        eprintln!("skipped: needs cgroup v2 at /sys/fs/cgroup");
    }
}

fn directory(world: &World) -> PathBuf {
    PathBuf::from(format!("/sys/fs/cgroup{}/one", world.cgroup))
}

fn resources(mut spec: Value, resources: Value) -> Value {
    spec["linux"]["resources"] = resources;
    spec
}

/// The first whole disk, as `major:minor`.
fn disk() -> Option<(u64, u64)> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|disk| {
        let name = disk.file_name().into_string().ok()?;
        let number = fs::read_to_string(disk.path().join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        (!name.starts_with("loop") && !name.starts_with("ram"))
            .then_some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[test]
fn every_limit_is_in_its_file() {
    on_v2(|| {
        let world = World::new();
        let mut wanted = json!({
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 512, "quota": 25000, "period": 50000, "burst": 1000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 17},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
            "unified": {"memory.high": "50331648", "memory.oom.group": "1"},
        });
        let mut expected = vec![
            ("memory.max", "67108864".to_owned()),
            ("memory.low", "33554432".to_owned()),
            ("memory.high", "50331648".to_owned()),
            ("memory.oom.group", "1".to_owned()),
            ("cpu.weight", "20".to_owned()),
            ("cpu.max", "25000 50000".to_owned()),
            ("cpu.max.burst", "1000".to_owned()),
            ("cpuset.cpus", "0".to_owned()),
            ("cpuset.mems", "0".to_owned()),
            ("pids.max", "17".to_owned()),
            ("hugetlb.2MB.max", "4194304".to_owned()),
        ];
        if let Some((major, minor)) = disk() {
            wanted["blockIO"] = json!({
                "weight": 500,
                "throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}],
                "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": 100}],
            });
            expected.push((
                "io.max",
                format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100"),
            ));
        }
        let running = world.keep(resources(world.spec(&["sleep", "1000"]), wanted));
        for (file, value) in expected {
            let path = directory(&world).join(file);
            let found =
                fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(found.trim(), value, "{file}");
        }
        // The kernel has one of these two, or no weights at all.
        let weight = ["io.bfq.weight", "io.weight"]
            .map(|file| fs::read_to_string(directory(&world).join(file)));
        assert!(
            weight
                .iter()
                .flatten()
                .any(|text| text.starts_with("default 500") || text.starts_with("default 4950")),
            "{weight:?}"
        );
        let swap = fs::read_to_string(directory(&world).join("memory.swap.max")).unwrap();
        assert_eq!(swap.trim(), "33554432", "swap alone, not with memory");
        assert_eq!(
            running.created.cgroup().stats().unwrap().memory_limit,
            Some(64 << 20)
        );
    });
}

#[test]
fn limits_and_device_rules_of_a_running_container_are_changed() {
    on_v2(|| {
        let world = World::new();
        let Some((major, minor)) = disk() else {
            eprintln!("skipped: needs a disk");
            return;
        };
        let script = format!("mknod /tmp/disk b {major} {minor}; sleep 1000");
        let running = world.keep(world.sh(&script));
        let cgroup = running.created.cgroup();
        let read = || {
            let process = running.process(&[
                "sh",
                "-c",
                "until [ -e /tmp/disk ]; do true; done; dd if=/tmp/disk of=/dev/null bs=8192 count=1",
            ]);
            running.exec(process).unwrap()
        };
        let ran = read();
        assert!(ran.err.contains("Operation not permitted"), "{ran:?}");
        let update = |json: Value| {
            cgroup
                .update(&serde_json::from_value(json).unwrap())
                .unwrap();
        };
        update(
            json!({"devices": [{"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}]}),
        );
        let ran = read();
        assert_eq!(ran.code, 0, "{ran:?}");
        // Other limits leave the rules alone, and new rules take the place of the old ones.
        update(json!({"memory": {"limit": 32 << 20}, "pids": {"limit": 9}}));
        assert_eq!(read().code, 0);
        update(json!({"devices": [{"allow": false, "access": "rwm"}]}));
        assert!(read().err.contains("Operation not permitted"));
        let value = |file: &str| fs::read_to_string(directory(&world).join(file)).unwrap();
        assert_eq!(
            (value("memory.max").trim(), value("pids.max").trim()),
            ("33554432", "9")
        );
    });
}

#[test]
fn the_devices_of_a_container_need_no_help_of_the_hosts() {
    on_v2(|| {
        // A device that the host has no node for: the container makes its own, as the filter keeps it from all others.
        let world = World::new();
        let mut spec = world.sh("stat -c %t:%T:%a /dev/mine; head -c 1 /dev/mine | wc -c");
        spec["linux"]["devices"] =
            json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640}]);
        let ran = world.run(spec);
        assert_eq!(ran.out, "1:5:640\n1\n", "{ran:?}");
    });
}

#[test]
fn with_oom_group_all_processes_end_together() {
    on_v2(|| {
        let world = World::new();
        let spec = resources(
            world.sh("sleep 1000 & dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000"),
            json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}, "unified": {"memory.oom.group": "1"}}),
        );
        let ran = world.run(spec);
        assert_eq!(ran.code, 128 + libc::SIGKILL, "{ran:?}");
    });
}

#[test]
fn pressure_is_told_where_the_kernel_tells_it() {
    on_v2(|| {
        let world = World::new();
        let running = world.keep(world.sh("while true; do true; done"));
        let told = ["cpu", "memory", "io"].map(|resource| {
            let pressure = running.created.cgroup().pressure(resource).unwrap();
            let file = directory(&world).join(format!("{resource}.pressure"));
            (pressure.is_some(), fs::read_to_string(file).is_ok())
        });
        for (told, there) in told {
            assert_eq!(told, there);
        }
    });
}

#[test]
fn each_controller_tells_what_it_counts() {
    on_v2(|| {
        let world = World::new();
        let spec = resources(
            world.sh("while true; do true; done"),
            json!({"memory": {"limit": 32 << 20}, "pids": {"limit": 20}, "cpu": {"quota": 10_000, "period": 100_000}}),
        );
        let running = world.keep(spec);
        let cgroup = running.created.cgroup();
        let mut figures = cgroup.figures().unwrap();
        while (figures.cpu.as_ref()).is_none_or(|cpu| cpu.throttled_periods == 0) {
            figures = cgroup.figures().unwrap();
        }
        let cpu = figures.cpu.unwrap();
        assert!(
            cpu.throttled > 0 && cpu.user > 0 && cpu.total >= cpu.user,
            "{cpu:?}"
        );
        let memory = figures.memory.unwrap();
        assert_eq!(memory.all.limit, Some(32 << 20));
        assert!(
            memory.all.usage > 0 && memory.raw.contains_key("anon"),
            "{memory:?}"
        );
        let pids = figures.pids.unwrap();
        assert_eq!((pids.usage, pids.limit), (1, Some(20)));
    });
}

#[test]
fn each_process_that_is_killed_for_memory_is_told() {
    on_v2(|| {
        let world = World::new();
        let spec = resources(
            world.sh("while true; do dd if=/dev/zero of=/dev/null bs=64M count=1; done"),
            json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}),
        );
        let running = world.keep(spec);
        let cgroup = running.created.cgroup();
        let events = cgroup.oom_events().unwrap();
        let before = cgroup.oom_kills().unwrap();
        while cgroup.oom_kills().unwrap() < before + 3 {
            let mut fds = [rustix::event::PollFd::new(
                &events,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            events.take();
        }
    });
}

#[test]
fn a_parent_with_processes_is_named() {
    on_v2(|| {
        let world = World::new();
        let parent = PathBuf::from(format!("/sys/fs/cgroup{}", world.cgroup));
        fs::create_dir(&parent).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        fs::write(parent.join("cgroup.procs"), child.id().to_string()).unwrap();
        let result = world.try_run(resources(
            world.sh("true"),
            json!({"memory": {"limit": 16 << 20}}),
        ));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            matches!(&result, Err(Error::Conflict(text)) if text.contains(&world.cgroup)),
            "{result:?}"
        );
    });
}
