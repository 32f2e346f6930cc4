//! What published container escapes taught, each with a container that tries it.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

#[path = "container_support/mod.rs"]
#[allow(dead_code)]
mod support;

use serde_json::json;
use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::symlink},
};
use support::{World, add_mount, alone, set};
use swarm_runtime::container::{Rootfs, readonly_self};

/// CVE-2021-30465: a mount's target that is a symbolic link out of the root.
#[test]
fn a_symbolic_link_as_a_mount_target_stays_in_the_root() {
    alone(|| {
        let world = World::new();
        let outside = world.path("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, world.path("image/link")).unwrap();
        symlink("../../../../../../../..", world.path("image/up")).unwrap();
        fs::create_dir(world.path("volume")).unwrap();
        fs::write(world.path("volume/file"), "volume").unwrap();
        let volume = |target: &str| json!({"destination": target, "type": "bind", "source": world.path("volume"), "options": ["bind"]});
        // An absolute link that leads nowhere in the image cannot be followed; nothing is made outside.
        assert!(
            world
                .try_run(add_mount(world.sh("true"), volume("/link/sub")))
                .is_err()
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let ran = world.run(add_mount(
            world.sh("cat /here/file; cat /up/here/file"),
            volume("/up/here"),
        ));
        assert_eq!(ran.out, "volumevolume", "{ran:?}");
        assert!(!std::path::Path::new("/here").exists());
    });
}

/// CVE-2025-31133, 2025-52565, 2025-52881: links of the image under /dev, /proc and /sys.
#[test]
fn no_symbolic_link_of_the_image_is_followed_under_dev_proc_and_sys() {
    alone(|| {
        for (link, target) in [
            ("dev", "/tmp"),
            ("proc", "/tmp"),
            ("sys", "/tmp"),
            ("dev/pts", "/tmp"),
            ("dev/shm", "/etc"),
        ] {
            let world = World::new();
            if link.contains('/') {
                fs::create_dir(world.path("image/dev")).unwrap();
            }
            symlink(target, world.path("image").join(link)).unwrap();
            let mut spec = world.sh("true");
            if link.contains('/') {
                // The image's own /dev.
                spec["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|m| m["destination"] != "/dev");
            }
            let error = world.try_run(spec).unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{link}: {error}");
        }
    });
}

/// CVE-2026-41579: an image whose /dev leads out of it, in a container without a mount on /dev: what is removed and made there
/// (`ptmx`, `fd`, …) must not be the host's.
#[test]
fn device_links_are_not_made_through_a_dev_of_the_image_that_leads_elsewhere() {
    alone(|| {
        let world = World::new();
        let outside = world.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("ptmx"), "the host's").unwrap();
        symlink(&outside, world.path("image/dev")).unwrap();
        let error = world.try_run(without_dev(world.sh("true"))).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert_eq!(
            fs::read_to_string(outside.join("ptmx")).unwrap(),
            "the host's"
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    });
}

/// CVE-2025-52565, 2026-88264: the terminal must not be put where a link of the image leads to.
#[test]
fn a_console_of_the_image_that_is_a_link_is_refused() {
    alone(|| {
        let world = World::new();
        fs::create_dir(world.path("image/dev")).unwrap();
        symlink("/etc/name", world.path("image/dev/console")).unwrap();
        let mut spec = without_dev(world.sh("true"));
        spec = add_mount(
            spec,
            json!({"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666"]}),
        );
        let stdio = swarm_runtime::container::Stdio::Terminal { size: None };
        let error = swarm_runtime::container::create(world.setup(spec, stdio)).unwrap_err();
        assert!(error.to_string().contains("/dev/console"), "{error}");
        // And a ptmx that is not of a devpts makes no terminal.
        let world = World::new();
        fs::create_dir_all(world.path("image/dev/pts")).unwrap();
        fs::write(world.path("image/dev/pts/ptmx"), "").unwrap();
        let stdio = swarm_runtime::container::Stdio::Terminal { size: None };
        let error =
            swarm_runtime::container::create(world.setup(without_dev(world.sh("true")), stdio))
                .unwrap_err();
        assert!(error.to_string().contains("devpts"), "{error}");
    });
}

/// A spec whose container sees the image's own /dev.
fn without_dev(mut spec: serde_json::Value) -> serde_json::Value {
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    spec
}

/// CVE-2025-31133: a /dev/null that is something else must not hide paths.
#[test]
fn a_dev_null_of_the_image_is_not_trusted() {
    alone(|| {
        for kind in ["link", "file"] {
            let world = World::new();
            fs::create_dir(world.path("image/dev")).unwrap();
            match kind {
                "link" => symlink("/proc/sysrq-trigger", world.path("image/dev/null")).unwrap(),
                _ => fs::write(world.path("image/dev/null"), "").unwrap(),
            }
            let mut spec = world.sh("true");
            spec["mounts"]
                .as_array_mut()
                .unwrap()
                .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
            let error = world.try_run(spec).unwrap_err().to_string();
            assert!(error.contains("/dev/null"), "{kind}: {error}");
        }
        // Bound from elsewhere: /dev as it is, but not its null device.
        let world = World::new();
        fs::create_dir(world.path("dev")).unwrap();
        fs::write(world.path("dev/null"), "").unwrap();
        let mut spec = world.sh("true");
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        let spec = add_mount(
            spec,
            json!({"destination": "/dev", "type": "bind", "source": "dev", "options": ["bind"]}),
        );
        let error = world.try_run(spec).unwrap_err().to_string();
        assert!(error.contains("not the null device"), "{error}");
    });
}

/// CVE-2019-16884, 2025-52881: nothing may lie over what the runtime writes to.
#[test]
fn nothing_is_mounted_over_proc() {
    alone(|| {
        let world = World::new();
        fs::create_dir(world.path("fake")).unwrap();
        for destination in ["/proc", "/proc/sys", "/proc/self/attr", "/proc/1"] {
            for mount in [
                json!({"destination": destination, "type": "bind", "source": "fake", "options": ["bind"]}),
                json!({"destination": destination, "type": "tmpfs"}),
            ] {
                // A bind of a directory on /proc itself comes before the real one in no spec of ours.
                let result = world.try_run(add_mount(world.sh("true"), mount.clone()));
                assert!(result.is_err(), "{mount}");
            }
        }
    });
}

/// CVE-2025-52881: what the runtime writes to /proc goes to the kernel, whatever lies at that path in the container.
#[test]
fn sysctls_do_not_go_through_what_the_image_has_at_their_path() {
    alone(|| {
        let world = World::new();
        fs::create_dir_all(world.path("image/proc/sys/net/ipv4")).unwrap();
        symlink(
            "/etc/name",
            world.path("image/proc/sys/net/ipv4/ip_forward"),
        )
        .unwrap();
        let mut spec = set(
            world.sh("cat /etc/name"),
            "linux.sysctl",
            json!({"net.ipv4.ip_forward": "1"}),
        );
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| m["destination"] != "/proc");
        let ran = world.run(spec);
        assert_eq!(ran.out, "image", "{ran:?}");
    });
}

/// CVE-2024-21626: a working directory that leads to a directory of the host through a descriptor.
#[test]
fn a_working_directory_through_a_descriptor_is_refused() {
    alone(|| {
        let world = World::new();
        // A descriptor of the host that a careless runtime would leak; even one that is open across exec.
        let host = fs::File::open("/").unwrap();
        rustix::io::fcntl_setfd(&host, rustix::io::FdFlags::empty()).unwrap();
        let number = host.as_raw_fd();
        let cwd = format!("/proc/self/fd/{number}");
        let error = world
            .try_run(set(world.spec(&["ls"]), "process.cwd", json!(cwd)))
            .unwrap_err()
            .to_string();
        assert!(error.contains("working directory"), "{error}");
        let ran = world.run(world.spec(&["ls", "/proc/self/fd"]));
        // The standard streams and that of `ls` itself.
        assert_eq!(
            ran.out.lines().count(),
            4,
            "no descriptor of the runtime is left in the container: {ran:?}"
        );
        let running = world.keep(world.spec(&["sleep", "1000"]));
        let process = set(running.process(&["ls"]), "cwd", json!(cwd));
        assert!(
            running
                .exec(process)
                .unwrap_err()
                .to_string()
                .contains("working directory")
        );
        assert_eq!(
            running
                .exec(running.process(&["ls", "/proc/self/fd"]))
                .unwrap()
                .out
                .lines()
                .count(),
            4
        );
    });
}

/// CVE-2019-5736: the runtime's own program through /proc/self/exe.
#[test]
fn the_runtimes_program_cannot_be_run_or_written_from_a_container() {
    alone(|| {
        let world = World::new();
        let error = |args: &[&str]| world.try_run(world.spec(args)).unwrap_err().to_string();
        assert!(error(&["/proc/self/exe"]).contains("runtime's own"));
        symlink("/proc/self/exe", world.path("image/bin/innocent")).unwrap();
        assert!(error(&["innocent"]).contains("runtime's own"));
        fs::write(
            world.path("image/bin/script"),
            "#!/proc/self/exe --version\n",
        )
        .unwrap();
        fs::set_permissions(
            world.path("image/bin/script"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        assert!(error(&["script"]).contains("runtime's own"));
        let running = world.keep(world.spec(&["sleep", "1000"]));
        assert!(
            running
                .exec(running.process(&["innocent"]))
                .unwrap_err()
                .to_string()
                .contains("runtime's own")
        );
        let own = readonly_self().unwrap();
        let flags = rustix::fs::fstatvfs(&own).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    });
}

/// A plain directory as root is left as it was, but for what the container writes.
#[test]
fn a_directory_as_root_works_like_layers() {
    alone(|| {
        let world = World::new();
        let spec = world.sh("cat /etc/name; echo x > /made; ls /.. | grep -c image");
        let ran = world
            .try_run_in(spec, Rootfs::Path("image".into()))
            .unwrap();
        assert_eq!(ran.out, "image0\n", "{ran:?}");
        assert!(world.path("image/made").exists());
    });
}
