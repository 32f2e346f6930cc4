//! Parts of the specification that few containers use, each with a real container: run as root.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used
)]

#[path = "container_support/mod.rs"]
mod support;

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    net::{self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};
use support::{World, add_mount, alone, null, wait};
use swarm_runtime::{Error, container::create};

fn namespace(mut spec: Value, kind: &str) -> Value {
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": kind }));
    spec
}

fn user_namespace(spec: Value) -> Value {
    let mut spec = namespace(spec, "user");
    for map in ["uidMappings", "gidMappings"] {
        spec["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
    spec
}

#[test]
fn clocks_of_a_time_namespace_are_set_off() {
    alone(|| {
        let world = World::new();
        let mut spec = namespace(
            world.sh("cat /proc/self/timens_offsets /proc/uptime"),
            "time",
        );
        spec["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 5_000_000}, "monotonic": {"secs": 7, "nanosecs": 9}});
        let ran = world.run(spec.clone());
        let words: Vec<&str> = ran.out.split_whitespace().collect();
        assert_eq!(
            words.get(..6).unwrap(),
            ["monotonic", "7", "9", "boottime", "5000000", "0"],
            "{ran:?}"
        );
        let uptime: f64 = words.get(6).unwrap().parse().unwrap();
        assert!(uptime > 5_000_000.0, "{ran:?}");
        // exec sees the same clocks, also where the container has a user namespace.
        world.give_image_to(100_000);
        let mut spec = user_namespace(spec);
        spec["process"]["args"] = json!(["sleep", "1000"]);
        let running = world.keep(spec);
        let ran = running
            .exec(running.process(&["cat", "/proc/uptime"]))
            .unwrap();
        let uptime: f64 = ran.out.split_whitespace().next().unwrap().parse().unwrap();
        assert!(uptime > 5_000_000.0, "{ran:?}");
    });
}

#[test]
fn scheduler_and_io_priority_are_those_of_the_spec() {
    alone(|| {
        let world = World::new();
        let mut spec = world.sh("cat /proc/self/stat; ionice -p $$");
        spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 3});
        let ran = world.run(spec.clone());
        let (stat, priority) = ran.out.split_once('\n').unwrap();
        // After the name in parentheses: field 3 of proc(5) and further.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!((fields[16], fields[38]), ("5", "3"), "{ran:?}");
        assert_eq!(priority, "best-effort: prio 3\n");
        spec["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 200});
        assert!(world.try_run(spec).is_err());
    });
}

#[test]
fn exec_runs_on_the_processors_that_it_is_given() {
    alone(|| {
        let world = World::new();
        let running = world.keep(world.spec(&["sleep", "1000"]));
        let before = fs::read_to_string("/proc/self/status").unwrap();
        let mut process = running.process(&["grep", "Cpus_allowed_list", "/proc/self/status"]);
        process["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
        let ran = running.exec(process.clone()).unwrap();
        assert_eq!(ran.out, "Cpus_allowed_list:\t0\n", "{ran:?}");
        let list = |text: &str| {
            let line = text.lines().find(|l| l.starts_with("Cpus_allowed_list"));
            line.unwrap().to_owned()
        };
        let after = fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(list(&before), list(&after), "the runtime's own come back");
        process["execCPUAffinity"] = json!({"final": "8000"});
        assert!(running.exec(process).is_err());
    });
}

#[test]
fn owners_of_a_bind_mount_are_mapped() {
    alone(|| {
        let world = World::new();
        let volume = world.path("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        chown(volume.join("file"), Some(7), Some(8)).unwrap();
        let bind = |options: &[&str]| json!({"destination": "/mnt", "type": "bind", "source": volume, "options": options});
        let mut mapped = bind(&["rbind", "idmap"]);
        mapped["uidMappings"] = json!([{"containerID": 0, "hostID": 5000, "size": 100}]);
        mapped["gidMappings"] = json!([{"containerID": 0, "hostID": 6000, "size": 100}]);
        let ran = world.run(add_mount(world.sh("stat -c %u:%g /mnt/file"), mapped));
        assert_eq!(ran.out, "5007:6008\n", "{ran:?}");
        // Those of the container's own user namespace: what root makes there is root's on the host's disk.
        let script = world.sh("stat -c %u:%g /mnt/file; touch /mnt/new && stat -c %u /mnt/new");
        let ran = world.run(add_mount(user_namespace(script), bind(&["bind", "idmap"])));
        assert_eq!(ran.out, "7:8\n0\n", "{ran:?}");
        assert_eq!(fs::metadata(volume.join("new")).unwrap().uid(), 0);
        // Without a user namespace there is no map to take.
        let spec = add_mount(world.sh("true"), bind(&["bind", "idmap"]));
        assert!(matches!(world.try_run(spec), Err(Error::Invalid(_))));
    });
}

#[test]
fn a_mount_is_changed_by_remounting_it() {
    alone(|| {
        let world = World::new();
        let spec = add_mount(
            world.sh("touch /mnt/x; grep ' /mnt ' /proc/mounts"),
            json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["size=2m"]}),
        );
        let again = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "size=1m"]});
        let ran = world.run(add_mount(spec, again));
        assert!(ran.err.contains("Read-only file system"), "{ran:?}");
        assert!(ran.out.contains("size=1024k"), "{ran:?}");
        let nothing = json!({"destination": "/tmp", "options": ["bind", "remount", "ro"]});
        let ran = world.try_run(add_mount(world.sh("true"), nothing));
        assert!(matches!(ran, Err(Error::Invalid(_))), "{ran:?}");
    });
}

#[test]
fn recursive_options_are_for_the_mounts_below_too() {
    alone(|| {
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        let world = World::new();
        let below = world.path("volume/below");
        fs::create_dir_all(&below).unwrap();
        mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None).unwrap();
        let run = |option: &str| {
            let mount = json!({"destination": "/mnt", "type": "bind", "source": world.path("volume"), "options": ["rbind", option]});
            world.run(add_mount(
                world.sh("touch /mnt/x; touch /mnt/below/x"),
                mount,
            ))
        };
        let refused = |option: &str| run(option).err.matches("Read-only file system").count();
        assert_eq!(refused("ro"), 1);
        assert_eq!(refused("rro"), 2);
        unmount(&below, UnmountFlags::empty()).unwrap();
    });
}

/// Answers the first question of a filter with an error; what it was told is in a file then.
fn answer(socket: OwnedFd, told: &Path, errno: i32) {
    let connection = net::accept(&socket).unwrap();
    let mut text = [0u8; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let got = net::recvmsg(
        &connection,
        &mut [IoSliceMut::new(&mut text)],
        &mut extra,
        RecvFlags::empty(),
    )
    .unwrap();
    fs::write(told, &text[..got.bytes]).unwrap();
    let listener = extra
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .unwrap();
    let mut question = [0u64; 10]; // struct seccomp_notif
    let fd = listener.as_fd().as_raw_fd();
    assert_eq!(
        unsafe { libc::ioctl(fd, 0xc050_2100, question.as_mut_ptr()) },
        0
    );
    // struct seccomp_notif_resp: id, value, error and flags
    let mut reply = [question[0], 0, u64::from((-errno).cast_unsigned())];
    assert_eq!(
        unsafe { libc::ioctl(fd, 0xc018_2101, reply.as_mut_ptr()) },
        0
    );
}

#[test]
fn a_listener_decides_about_system_calls() {
    alone(|| {
        let world = World::new();
        let path = world.path("listener");
        let socket = net::socket(net::AddressFamily::UNIX, net::SocketType::STREAM, None).unwrap();
        net::bind(&socket, &net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        net::listen(&socket, 1).unwrap();
        let told = world.path("told");
        let helper = unsafe { libc::fork() };
        if helper == 0 {
            answer(socket, &told, libc::ENOSPC);
            unsafe { libc::_exit(0) }
        }
        let mut spec = world.spec(&["mkdir", "/x"]);
        spec["annotations"] = json!({"a": "b"});
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "words",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
        let mut created = create(world.setup(spec.clone(), null())).unwrap();
        let pid = created.pid();
        created.start().unwrap();
        assert_eq!(wait(pid), 1, "mkdir fails as the listener says");
        created.cgroup().remove().unwrap();
        assert_eq!(wait(helper), 0);
        let told: Value = serde_json::from_slice(&fs::read(told).unwrap()).unwrap();
        assert_eq!(told["fds"], json!(["seccompFd"]));
        assert_eq!(told["metadata"], "words");
        assert_eq!(
            (&told["pid"], &told["state"]["pid"]),
            (&json!(pid), &json!(pid))
        );
        assert_eq!(told["state"]["id"], "one");
        assert_eq!(told["state"]["annotations"]["a"], "b");
        // Nobody there, or a call that the runtime itself needs: errors, not silence.
        fs::remove_file(&path).unwrap();
        assert!(world.try_run(spec.clone()).is_err());
        spec["linux"]["seccomp"]["syscalls"][0]["names"] = json!(["sendmsg"]);
        assert!(matches!(world.try_run(spec), Err(Error::Invalid(_))));
    });
}

#[test]
fn an_apparmor_profile_confines_the_program() {
    let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles");
    if !loaded.is_ok_and(|profiles| profiles.contains("swarm-test (enforce)")) {
        eprintln!("skipped: needs the AppArmor profile tests/vm/profile (make test-vm)");
        return;
    }
    alone(|| {
        let world = World::new();
        let mut spec = world.sh("cat /proc/self/attr/current; cat /etc/name; cat /bin/sh | wc -c");
        assert!(world.run(spec.clone()).out.contains("unconfined"));
        spec["process"]["apparmorProfile"] = json!("swarm-test");
        let ran = world.run(spec.clone());
        assert!(ran.out.starts_with("swarm-test (enforce)"), "{ran:?}");
        assert!(ran.err.contains("Permission denied"), "{ran:?}");
        assert!(!ran.out.contains("image"), "{ran:?}");
        let running = world.keep(container_sleep(&spec));
        let ran = running
            .exec(running.process(&["cat", "/proc/self/attr/current"]))
            .unwrap();
        assert!(ran.out.starts_with("swarm-test (enforce)"), "{ran:?}");
        drop(running);
        spec["process"]["apparmorProfile"] = json!("not-there");
        assert!(world.try_run(spec).is_err());
    });
}

fn container_sleep(spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["process"]["args"] = json!(["sleep", "1000"]);
    spec
}
