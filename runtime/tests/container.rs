//! Containers from a busybox root, as root: isolation, limits, streams, failures. Each test runs alone in a process of one thread.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "container_support/mod.rs"]
mod support;

use serde_json::json;
use std::{fs, path::Path};
use support::{World, add_mount, alone, set, text, wait};
use swarm_runtime::{
    Error,
    container::{Rootfs, Stdio, WindowSize, create},
};

#[test]
fn a_program_runs_with_its_arguments_environment_and_exit_code() {
    alone(|| {
        let world = World::new();
        let ran = world.run(world.sh("echo $WHAT; echo oops >&2; cat /etc/name; pwd; exit 7"));
        assert_eq!((ran.code, ran.err.as_str()), (7, "oops\n"));
        assert_eq!(ran.out, "ever\nimage/\n");
    });
}

#[test]
fn what_a_container_writes_stays_in_its_upper_layer() {
    alone(|| {
        let world = World::new();
        fs::write(world.path("top/over"), "top").unwrap();
        let ran = world.run(world.sh("cat /over; echo new > /etc/name; echo x > /made"));
        assert_eq!(ran.out, "top");
        assert_eq!(
            fs::read_to_string(world.path("image/etc/name")).unwrap(),
            "image"
        );
        assert_eq!(
            fs::read_to_string(world.path("upper/etc/name")).unwrap(),
            "new\n"
        );
        assert!(world.path("upper/made").exists());
    });
}

#[test]
fn every_namespace_is_the_containers_own() {
    alone(|| {
        let world = World::new();
        let ran = world.run(world.sh(
            "for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done; hostname; echo $$; ls /sys/class/net; ps | wc -l",
        ));
        let lines: Vec<&str> = ran.out.lines().collect();
        for (line, name) in lines
            .iter()
            .zip(["pid", "net", "ipc", "uts", "mnt", "cgroup"])
        {
            let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            assert_ne!(Path::new(line), host, "{name}");
        }
        assert_eq!(
            lines.get(6..9),
            Some(["inside", "1", "lo"].as_slice()),
            "{ran:?}"
        );
        // Header, shell, ps, and wc if it has begun already.
        assert!(["3", "4"].contains(&lines[9].trim()), "{ran:?}");
    });
}

#[test]
fn a_namespace_can_be_anothers() {
    alone(|| {
        let world = World::new();
        let first = world.keep(world.spec(&["sleep", "1000"]));
        let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.created.pid());
        let mut spec = world.sh(
            "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; ps | grep -c '[s]leep 1000'",
        );
        spec["linux"]["cgroupsPath"] = json!(format!("{}/two", world.cgroup));
        spec["linux"]["namespaces"] = json!([
            {"type": "pid", "path": path("pid")}, {"type": "network", "path": path("net")}, {"type": "ipc", "path": path("ipc")},
            {"type": "uts"}, {"type": "mount"},
        ]);
        // Overlay directories are one container's alone.
        let before = fs::read_link("/proc/self/ns/net").unwrap();
        let ran = world
            .try_run_in(spec, Rootfs::Path(world.path("image")))
            .unwrap();
        let link = |kind: &str| fs::read_link(path(kind)).unwrap().display().to_string();
        assert_eq!(
            ran.out,
            format!("{}\n{}\n1\n", link("net"), link("ipc")),
            "{ran:?}"
        );
        assert_eq!(
            fs::read_link("/proc/self/ns/net").unwrap(),
            before,
            "the caller is back in its own"
        );
    });
}

#[test]
fn limits_hold() {
    alone(|| {
        let world = World::new();
        let mut spec = world
            .sh("(sleep 1 & sleep 1 & sleep 1 & sleep 1 & sleep 1 &) 2>&1; ulimit -n; ulimit -f");
        spec["linux"]["resources"] = json!({"pids": {"limit": 3}});
        spec["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_FSIZE", "soft": 1024, "hard": 1024}]);
        spec["process"]["oomScoreAdj"] = json!(500);
        let ran = world.run(spec);
        assert!(ran.out.contains("can't fork"), "{ran:?}");
        let mut spec = world.sh("ulimit -n; ulimit -f; cat /proc/self/oom_score_adj; umask");
        spec["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}, {"type": "RLIMIT_FSIZE", "soft": 1024, "hard": 1024}]);
        spec["process"]["oomScoreAdj"] = json!(500);
        spec["process"]["user"]["umask"] = json!(0o027);
        assert_eq!(world.run(spec).out, "64\n2\n500\n0027\n");
    });
}

#[test]
fn too_much_memory_kills_and_is_counted() {
    alone(|| {
        let world = World::new();
        let mut spec = world.sh("dd if=/dev/zero of=/dev/shm/big bs=1M count=64; dd if=/dev/zero of=/dev/null bs=64M count=1");
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        let mut created = create(world.setup(spec, support::null())).unwrap();
        assert_eq!(
            created.cgroup().stats().unwrap().memory_limit,
            Some(16 << 20)
        );
        created.start().unwrap();
        assert_ne!(wait(created.pid()), 0);
        assert!(created.cgroup().oom_kills().unwrap() > 0);
        created.cgroup().signal_all(libc::SIGKILL).unwrap();
        created.cgroup().remove().unwrap();
    });
}

#[test]
fn statistics_freezing_and_signals_are_for_the_whole_cgroup() {
    alone(|| {
        let world = World::new();
        let running = world.keep(world.sh("sleep 1000 & sleep 1000 & wait"));
        let cgroup = running.created.cgroup();
        let exec = running
            .exec(running.process(&[
                "sh",
                "-c",
                "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
            ]))
            .unwrap();
        assert_eq!(exec.code, 0);
        let stats = cgroup.stats().unwrap();
        assert!(
            stats.pids >= 1 && stats.memory > 0 && stats.cpu_ns > 0,
            "{stats:?}"
        );
        assert!(cgroup.pids().unwrap().contains(&running.created.pid()));
        let again = swarm_runtime::container::Cgroup::open(cgroup.path()).unwrap();
        assert_eq!(again.pids().unwrap(), cgroup.pids().unwrap());
        cgroup.freeze().unwrap();
        cgroup.thaw().unwrap();
    });
}

#[test]
fn paths_are_hidden_readonly_or_writable_as_the_spec_says() {
    alone(|| {
        let world = World::new();
        let mut spec = world.sh(
            "wc -c < /proc/version; ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : | tr -d '\\n' | wc -c; \
             echo 1 > /proc/sys/kernel/panic; touch /sys/x; touch /sys/fs/cgroup/x; cd /sys/fs/cgroup/memory 2>/dev/null || cd /sys/fs/cgroup; mkdir x; touch /fine && echo fine",
        );
        spec["linux"]["maskedPaths"]
            .as_array_mut()
            .unwrap()
            .extend([json!("/proc/version"), json!("/proc/not-there")]);
        let ran = world.run(spec);
        assert!(
            ran.out.starts_with("0\n0\n") && ran.out.ends_with("fine\n"),
            "{ran:?}"
        );
        assert_eq!(
            ran.err.matches("Read-only file system").count(),
            4,
            "{ran:?}"
        );
        let mut spec =
            world.sh("touch /x; touch /dev/shm/x && echo shm; mkdir -p /deep/er; touch /mnt/a/b");
        spec["root"]["readonly"] = json!(true);
        let spec = add_mount(
            spec,
            json!({"destination": "/mnt/a", "type": "tmpfs", "options": ["ro"]}),
        );
        let ran = world.run(spec);
        assert_eq!(ran.out, "shm\n");
        assert_eq!(
            ran.err.matches("Read-only file system").count(),
            3,
            "{ran:?}"
        );
    });
}

#[test]
fn bind_mounts_show_directories_and_files_of_the_host() {
    alone(|| {
        let world = World::new();
        fs::create_dir(world.path("volume")).unwrap();
        fs::write(world.path("hosts"), "127.0.0.1 me\n").unwrap();
        let spec = world
            .sh("echo hi > /data/deep/new; cat /etc/hosts; echo x > /etc/hosts; echo y > /ro/z");
        let spec = add_mount(
            spec,
            json!({"destination": "/data/deep", "type": "bind", "source": world.path("volume"), "options": ["rbind", "rprivate"]}),
        );
        let spec = add_mount(
            spec,
            json!({"destination": "/ro", "source": "volume", "options": ["bind", "ro"]}),
        );
        let spec = add_mount(
            spec,
            json!({"destination": "/etc/hosts", "source": world.path("hosts"), "options": ["bind", "rro"]}),
        );
        let ran = world.run(spec);
        assert_eq!(ran.out, "127.0.0.1 me\n");
        assert_eq!(
            ran.err.matches("Read-only file system").count(),
            2,
            "{ran:?}"
        );
        assert_eq!(
            fs::read_to_string(world.path("volume/new")).unwrap(),
            "hi\n"
        );
    });
}

#[test]
fn only_given_devices_work() {
    alone(|| {
        let world = World::new();
        let ran = world.run(world.sh(
            "ls /dev | tr '\\n' ' '; head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo null; head -c 4 /dev/urandom | wc -c; \
             mknod /dev/disk b 254 0 && cat /dev/disk; mknod /dev/log c 1 11 && cat /dev/log",
        ));
        for name in [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
            "stdout", "tty", "urandom", "zero",
        ] {
            assert!(ran.out.split(' ').any(|n| n == name), "{name}: {ran:?}");
        }
        assert!(ran.out.contains("3\nnull\n4\n"), "{ran:?}");
        assert_eq!(
            ran.err.matches("Operation not permitted").count(),
            2,
            "{ran:?}"
        );
    });
}

#[test]
fn capabilities_are_exactly_the_given_ones() {
    alone(|| {
        let world = World::new();
        let status = "grep -E 'Cap|NoNewPrivs|Groups' /proc/self/status | tr -d '\\t '";
        let ran = world.run(world.sh(status));
        for line in [
            "CapInh:0000000000000000",
            "CapPrm:00000000a80425fb",
            "CapEff:00000000a80425fb",
            "CapBnd:00000000a80425fb",
        ] {
            assert!(ran.out.contains(line), "{ran:?}");
        }
        assert!(ran.out.contains("NoNewPrivs:1"));
        let mut spec = world.sh(&format!("id -u; id -g; {status}"));
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]});
        let raw = json!(["CAP_NET_RAW"]);
        spec["process"]["capabilities"] = json!({"bounding": raw, "effective": raw, "permitted": raw, "inheritable": raw, "ambient": raw});
        let ran = world.run(spec);
        assert!(ran.out.starts_with("1000\n1001\n"), "{ran:?}");
        assert!(
            ran.out.contains("Groups:56") || ran.out.contains("Groups:5 6"),
            "{ran:?}"
        );
        for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
            assert!(
                ran.out.contains(&format!("Cap{set}:0000000000002000")),
                "{ran:?}"
            );
        }
        let mut spec = world.sh(status);
        spec["process"]["capabilities"] = json!(null);
        spec["process"]["noNewPrivileges"] = json!(false);
        let ran = world.run(spec);
        assert!(
            ran.out.contains("CapBnd:0000000000000000") && ran.out.contains("NoNewPrivs:0"),
            "{ran:?}"
        );
    });
}

#[test]
fn the_default_filter_keeps_even_all_capabilities_from_mounting() {
    alone(|| {
        let world = World::new();
        let seccomp = serde_json::to_value(swarm_runtime::container::default_seccomp()).unwrap();
        for no_new_privileges in [true, false] {
            let mut spec = world.sh("mount -t tmpfs none /tmp; unshare -u true; chroot / true && echo chroot; grep Seccomp: /proc/self/status");
            spec["linux"]["seccomp"] = seccomp.clone();
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set]
                    .as_array_mut()
                    .unwrap()
                    .push(json!("CAP_SYS_ADMIN"));
            }
            let ran = world.run(spec);
            assert_eq!(ran.out, "chroot\nSeccomp:\t2\n", "{ran:?}");
            assert!(
                ran.err.to_lowercase().contains("permission denied")
                    || ran.err.contains("not permitted"),
                "{ran:?}"
            );
        }
        let mut spec = world.sh("mkdir /made; echo $?");
        spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}, {"names": ["keyctl"], "action": "SCMP_ACT_ERRNO"}]});
        assert!(
            world.run(spec).err.contains("No space left"),
            "the filter's own errno"
        );
    });
}

#[test]
fn a_program_that_cannot_be_run_is_named() {
    alone(|| {
        let world = World::new();
        let error = |spec| world.try_run(spec).unwrap_err();
        let missing = error(world.spec(&["no-such-thing"]));
        assert!(
            matches!(missing, Error::NotFound(_))
                && missing.to_string().contains("`no-such-thing`"),
            "{missing}"
        );
        assert!(
            error(world.spec(&["/bin/nothing"]))
                .to_string()
                .contains("no such file")
        );
        fs::write(world.path("image/bin/script"), "#!/no/interpreter\n").unwrap();
        let mode = |path: &str, mode| {
            fs::set_permissions(
                world.path(path),
                std::os::unix::fs::PermissionsExt::from_mode(mode),
            )
            .unwrap();
        };
        mode("image/bin/script", 0o755);
        assert!(
            error(world.spec(&["script"]))
                .to_string()
                .contains("interpreter")
        );
        mode("image/bin/script", 0o644);
        let denied = error(world.spec(&["script"])).to_string();
        assert!(
            denied.contains("script") && denied.contains("ermission denied"),
            "{denied}"
        );
        let cwd = error(set(
            world.spec(&["true"]),
            "process.cwd",
            json!("/etc/name"),
        ))
        .to_string();
        assert!(cwd.contains("/etc/name"), "{cwd}");
        // A directory that is missing is made.
        assert_eq!(
            world
                .run(set(
                    world.spec(&["pwd"]),
                    "process.cwd",
                    json!("/not/there")
                ))
                .out,
            "/not/there\n"
        );
    });
}

#[test]
fn a_failure_before_the_program_leaves_nothing() {
    alone(|| {
        let world = World::new();
        let bad = add_mount(
            world.sh("true"),
            json!({"destination": "/x", "type": "tmpfs", "options": ["size=much"]}),
        );
        let error = world.try_run(bad).unwrap_err().to_string();
        assert!(error.contains("size=much"), "{error}");
        let bad = add_mount(
            world.sh("true"),
            json!({"destination": "/x", "type": "nofs"}),
        );
        assert!(world.try_run(bad).unwrap_err().to_string().contains("nofs"));
        let bad = add_mount(
            world.sh("true"),
            json!({"destination": "/x", "type": "bind", "source": "/no/such/source"}),
        );
        assert!(
            world
                .try_run(bad)
                .unwrap_err()
                .to_string()
                .contains("/no/such/source")
        );
        let bad = set(
            world.sh("true"),
            "process.apparmorProfile",
            json!("some-profile"),
        );
        if !Path::new("/sys/module/apparmor").exists() {
            assert!(matches!(world.try_run(bad), Err(Error::Unsupported(_))));
        }
        // A container that is never started goes with its maker.
        let created = create(world.setup(world.sh("true"), support::null())).unwrap();
        let (pid, cgroup) = (created.pid(), created.cgroup().clone());
        drop(created);
        assert_eq!(wait(pid), 127);
        cgroup.remove().unwrap();
        assert_eq!(
            nix::sys::wait::waitpid(None, None),
            Err(nix::errno::Errno::ECHILD),
            "no process is left"
        );
    });
}

#[test]
fn a_terminal_has_its_size_and_is_the_session_s_own() {
    alone(|| {
        let world = World::new();
        let size = Some(WindowSize {
            rows: 31,
            columns: 97,
        });
        let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l /dev/console | wc -l; echo to > /dev/tty; ls -l /proc/self/fd/0 | grep -c /dev/pts";
        let mut created = create(world.setup(world.sh(script), Stdio::Terminal { size })).unwrap();
        let master = created.take_terminal().unwrap();
        assert!(created.take_terminal().is_none());
        created.start().unwrap();
        let mut out = Vec::new();
        let mut buffer = [0u8; 512];
        // A terminal whose other side has gone gives EIO.
        while let Ok(n @ 1..) = rustix::io::read(&master, &mut buffer) {
            out.extend_from_slice(&buffer[..n]);
        }
        assert_eq!(wait(created.pid()), 0);
        created.cgroup().remove().unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap().replace('\r', ""),
            "/dev/pts/0\n31 97\nall\n1\nto\n1\n"
        );
    });
}

#[test]
fn exec_runs_inside_with_the_containers_rights() {
    alone(|| {
        let world = World::new();
        let mut spec = world.spec(&["sleep", "1000"]);
        spec["linux"]["seccomp"] =
            serde_json::to_value(swarm_runtime::container::default_seccomp()).unwrap();
        let running = world.keep(spec);
        let ran = running
            .exec(running.process(&[
                "sh",
                "-c",
                "hostname; ps | grep -c '[s]leep 1000'; grep -E 'CapEff|Seccomp:|NoNew' /proc/self/status | tr -d '\\t'; \
                 for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup | grep -c -v ':/$'; exit 9",
            ]))
            .unwrap();
        assert_eq!(ran.code, 9, "{ran:?}");
        assert!(
            ran.out
                .starts_with("inside\n1\nCapEff:00000000a80425fb\nNoNewPrivs:1\nSeccomp:2\n"),
            "{ran:?}"
        );
        for name in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
            let link = fs::read_link(format!("/proc/{}/ns/{name}", running.created.pid())).unwrap();
            assert!(ran.out.contains(link.to_str().unwrap()), "{name}: {ran:?}");
        }
        let error = running
            .exec(running.process(&["no-such-thing"]))
            .unwrap_err();
        assert!(
            matches!(error, Error::NotFound(_)) && error.to_string().contains("no-such-thing"),
            "{error}"
        );
        let mut process = running.process(&["id", "-u"]);
        process["user"]["uid"] = json!(33);
        assert_eq!(running.exec(process).unwrap().out, "33\n");
    });
}

#[test]
fn exec_can_have_a_terminal() {
    alone(|| {
        let world = World::new();
        let running = world.keep(world.spec(&["sleep", "1000"]));
        let target = swarm_runtime::container::ExecTarget {
            pid: running.created.pid(),
            spec: &running.spec,
            cgroup: running.created.cgroup(),
        };
        let process =
            serde_json::from_value(running.process(&["sh", "-c", "stty size; tty"])).unwrap();
        let size = Some(WindowSize {
            rows: 5,
            columns: 6,
        });
        let executed =
            swarm_runtime::container::exec(&target, &process, Stdio::Terminal { size }).unwrap();
        let master = executed.terminal.unwrap();
        let mut out = Vec::new();
        let mut buffer = [0u8; 512];
        while let Ok(n @ 1..) = rustix::io::read(&master, &mut buffer) {
            out.extend_from_slice(&buffer[..n]);
        }
        assert_eq!(wait(executed.pid), 0);
        assert_eq!(String::from_utf8(out).unwrap(), "5 6\r\n/dev/pts/0\r\n");
    });
}

#[test]
fn a_user_namespace_maps_root_to_nobody_special() {
    alone(|| {
        let world = World::new();
        let mut spec = world.sh(
            "id -u; cat /proc/self/uid_map | tr -s ' '; touch /made && echo made; stat -c %u /etc/name; echo x > /dev/null && echo null; \
             hostname; mount -t tmpfs none /tmp && echo mounted",
        );
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        spec["linux"]["uidMappings"] =
            json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        spec["linux"]["gidMappings"] =
            json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set]
                .as_array_mut()
                .unwrap()
                .push(json!("CAP_SYS_ADMIN"));
        }
        use std::os::unix::fs::MetadataExt;
        let expected = "0\n 0 100000 65536\nmade\n0\nnull\ninside\nmounted\n";
        // Layers with their owners as the image has them.
        let ran = world.run(spec.clone());
        assert_eq!(ran.out, expected, "{ran:?}");
        let made = fs::metadata(world.path("upper/made")).unwrap();
        assert_eq!(made.uid(), 100_000);
        assert_eq!(fs::metadata(world.path("image/etc/name")).unwrap().uid(), 0);
        // A directory whose owners are the mapped ones.
        world.give_image_to(100_000);
        let root = || Rootfs::Path(world.path("image"));
        let ran = world.try_run_in(spec.clone(), root()).unwrap();
        assert_eq!(ran.out, expected, "{ran:?}");
        assert_eq!(
            fs::metadata(world.path("image/made")).unwrap().uid(),
            100_000
        );
        // exec goes into it as well.
        let mut long = spec.clone();
        long["process"]["args"] = json!(["sleep", "1000"]);
        let running = world.keep_in(long, root());
        let ran = running
            .exec(running.process(&["sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '"]))
            .unwrap();
        assert_eq!(ran.out, "0\n 0 100000 65536\n");
        let host = fs::read_to_string(format!("/proc/{}/status", running.created.pid())).unwrap();
        assert!(host.contains("Uid:\t100000"), "{host}");
        // And another container can share it.
        let mut shared = spec;
        shared["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .last_mut()
            .unwrap()["path"] = json!(format!("/proc/{}/ns/user", running.created.pid()));
        shared["linux"]["uidMappings"] = json!(null);
        shared["linux"]["gidMappings"] = json!(null);
        shared["linux"]["cgroupsPath"] = json!(format!("{}/two", world.cgroup));
        shared["process"]["args"] = json!([
            "sh",
            "-c",
            "id -u; cat /proc/self/uid_map | tr -s ' '; readlink /proc/self/ns/user"
        ]);
        let ran = world.try_run_in(shared, root()).unwrap();
        let link = fs::read_link(format!("/proc/{}/ns/user", running.created.pid())).unwrap();
        assert_eq!(
            ran.out,
            format!("0\n 0 100000 65536\n{}\n", link.display()),
            "{ran:?}"
        );
    });
}

#[test]
fn sysctls_are_the_containers_own() {
    alone(|| {
        let world = World::new();
        let before = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        let mut spec = world.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; dnsdomainname; cat /proc/sys/kernel/domainname");
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"});
        spec["domainname"] = json!("example.test");
        let ran = world.run(spec);
        assert!(
            ran.out.contains("1\n4242\n") && ran.out.contains("example.test\n"),
            "{ran:?}"
        );
        assert_eq!(
            fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
            before
        );
    });
}

#[test]
fn hooks_run_in_order_and_are_told_the_state() {
    alone(|| {
        let world = World::new();
        let log = world.path("log");
        let hook = |name: &str| {
            let script = format!(
                "echo {name} $(/bin/busybox grep -o '\"status\":\"[a-z]*\"') >> {}",
                log.display()
            );
            json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "timeout": 20}])
        };
        let mut spec = world.sh("echo program >> /log");
        spec["hooks"] = json!({
            "prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "createContainer": hook("createContainer"),
            "poststart": hook("poststart"), "poststop": hook("poststop"),
            // In the container's own root.
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /state"]}],
        });
        let parsed = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(world.run(spec).code, 0);
        swarm_runtime::container::poststop(&parsed, "one", world.dir.path()).unwrap();
        let told = fs::read_to_string(&log).unwrap();
        let expected = [
            "prestart \"status\":\"creating\"",
            "createRuntime \"status\":\"creating\"",
            "createContainer \"status\":\"creating\"",
            "poststart \"status\":\"running\"",
            "poststop \"status\":\"stopped\"",
        ];
        assert_eq!(told.lines().collect::<Vec<_>>(), expected);
        assert!(
            fs::read_to_string(world.path("upper/state"))
                .unwrap()
                .contains("\"status\":\"created\"")
        );
        let mut bad = world.sh("true");
        bad["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
        assert!(
            world
                .try_run(bad)
                .unwrap_err()
                .to_string()
                .contains("/bin/false")
        );
        let mut slow = world.sh("true");
        slow["hooks"] = json!({"prestart": [{"path": "/bin/busybox", "args": ["sleep", "1000"], "timeout": 1}]});
        assert!(
            world
                .try_run(slow)
                .unwrap_err()
                .to_string()
                .contains("longer than 1 s")
        );
    });
}

#[test]
fn a_netns_is_handed_out_before_the_program_runs() {
    alone(|| {
        let world = World::new();
        let mut created = create(world.setup(world.sh("true"), support::null())).unwrap();
        let netns = created.netns().unwrap();
        let inside = fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&netns)
        ))
        .unwrap();
        assert_ne!(inside, fs::read_link("/proc/self/ns/net").unwrap());
        created.start().unwrap();
        assert!(created.start().is_err(), "only once");
        assert_eq!(wait(created.pid()), 0);
        created.cgroup().remove().unwrap();
        let _ = text;
    });
}
