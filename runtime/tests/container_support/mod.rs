//! A busybox root, specs, and runs of containers for the tests. Every run checks that nothing of the container is left.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};
use swarm_runtime::container::{
    Cgroup, Created, ExecTarget, Options, Rootfs, Setup, Stdio, create_with, exec,
};

const APPLETS: [&str; 37] = [
    "sh",
    "cat",
    "ls",
    "mount",
    "umount",
    "id",
    "hostname",
    "ip",
    "true",
    "false",
    "sleep",
    "echo",
    "stat",
    "touch",
    "mkdir",
    "ps",
    "kill",
    "stty",
    "test",
    "grep",
    "mknod",
    "wc",
    "readlink",
    "env",
    "pwd",
    "dd",
    "ln",
    "rm",
    "tty",
    "chroot",
    "unshare",
    "setsid",
    "head",
    "tr",
    "dnsdomainname",
    "ipcs",
    "ionice",
];

/// Whether the tests can run here; says so where not.
pub fn possible() -> bool {
    let fine = rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists();
    if !fine {
        eprintln!("skipped: needs root and /bin/busybox (static)");
    }
    fine
}

/// Whether containers are started at once, where they can be.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Runs a test in a process of its own with one thread, as the shim is; and once more with containers that are started at once, as
/// `swarm-oci run` does. Both must keep all promises.
pub fn alone(test: impl FnOnce()) {
    if !possible() {
        return;
    }
    let mut test = Some(test);
    for at_once in [false, true] {
        match unsafe { libc::fork() } {
            0 => {
                AT_ONCE.store(at_once, Ordering::Relaxed);
                let test = std::panic::AssertUnwindSafe(test.take().unwrap());
                let result = std::panic::catch_unwind(test);
                unsafe { libc::_exit(i32::from(result.is_err())) }
            }
            pid => assert_eq!(
                wait(pid),
                0,
                "the test failed (at once: {at_once}), see above"
            ),
        }
    }
}

/// Makes a container, and starts it already if this is the time for that.
fn make(setup: Setup) -> swarm_runtime::Result<Created> {
    let options = Options {
        at_once: AT_ONCE.load(Ordering::Relaxed),
        ..Options::default()
    };
    create_with(&setup, &options, |_, _| Ok(()))
}

/// Waits for a child; its exit code, or 128 and the signal.
pub fn wait(pid: i32) -> i32 {
    use nix::sys::wait::{WaitStatus, waitpid};
    match waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

/// A place for containers.
pub struct World {
    pub dir: tempfile::TempDir,
    pub cgroup: String,
}

/// How a container ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("image/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        fs::create_dir_all(dir.path().join("image/etc")).unwrap();
        fs::write(dir.path().join("image/etc/name"), "image").unwrap();
        fs::create_dir_all(dir.path().join("image/tmp")).unwrap();
        for name in ["top", "upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let name = dir
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace('.', "");
        let cgroup = format!("/swarm-test-{}-{name}", std::process::id());
        Self { dir, cgroup }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes the owner of everything in the image.
    pub fn give_image_to(&self, uid: u32) {
        let mut left = vec![self.path("image")];
        while let Some(path) = left.pop() {
            std::os::unix::fs::lchown(&path, Some(uid), Some(uid)).unwrap();
            if path.is_dir() && !path.is_symlink() {
                left.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
        }
    }

    /// A spec as a container gets it by default.
    pub fn spec(&self, args: &[&str]) -> Value {
        let caps = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FOWNER",
            "CAP_FSETID",
            "CAP_KILL",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_NET_RAW",
            "CAP_SYS_CHROOT",
            "CAP_MKNOD",
            "CAP_AUDIT_WRITE",
            "CAP_SETFCAP",
        ];
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "image"},
            "hostname": "inside",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin", "WHAT=ever"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
            ],
            "linux": {
                "cgroupsPath": format!("{}/one", self.cgroup),
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }

    /// A shell's.
    pub fn sh(&self, script: &str) -> Value {
        self.spec(&["sh", "-c", script])
    }

    pub fn overlay(&self) -> Rootfs {
        Rootfs::Overlay {
            lower: vec![self.path("top"), self.path("image")],
            upper: self.path("upper"),
            work: self.path("work"),
        }
    }

    pub fn setup(&self, spec: Value, stdio: Stdio) -> Setup {
        Setup {
            id: "one".to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
            bundle: self.dir.path().to_owned(),
            rootfs: self.overlay(),
            stdio,
        }
    }

    /// Makes, starts and waits for a container, and takes everything away.
    pub fn run(&self, spec: Value) -> Ran {
        self.try_run(spec).unwrap()
    }

    pub fn try_run(&self, spec: Value) -> swarm_runtime::Result<Ran> {
        self.try_run_in(spec, self.overlay())
    }

    pub fn try_run_in(&self, spec: Value, rootfs: Rootfs) -> swarm_runtime::Result<Ran> {
        let (stdio, out, err) = pipes();
        let mut setup = self.setup(spec, stdio);
        setup.rootfs = rootfs;
        let mut created = make(setup)?;
        let started = created.start();
        let (out, err) = (text(out), text(err));
        let code = wait(created.pid());
        finish(&created);
        started?;
        Ok(Ran { code, out, err })
    }

    /// A container that runs until it is ended.
    pub fn keep(&self, spec: Value) -> Running<'_> {
        self.keep_in(spec, self.overlay())
    }

    pub fn keep_in(&self, spec: Value, rootfs: Rootfs) -> Running<'_> {
        let parsed: Spec = serde_json::from_value(spec.clone()).unwrap();
        let mut setup = self.setup(spec, null());
        setup.rootfs = rootfs;
        let mut created = make(setup).unwrap();
        created.start().unwrap();
        Running {
            created,
            spec: parsed,
            _world: self,
        }
    }
}

/// A running container, ended when dropped.
pub struct Running<'a> {
    pub created: Created,
    pub spec: Spec,
    _world: &'a World,
}

impl Running<'_> {
    pub fn exec(&self, process: Value) -> swarm_runtime::Result<Ran> {
        let (stdio, out, err) = pipes();
        let target = ExecTarget {
            pid: self.created.pid(),
            spec: &self.spec,
            cgroup: self.created.cgroup(),
        };
        let executed = exec(&target, &serde_json::from_value(process).unwrap(), stdio)?;
        let (out, err) = (text(out), text(err));
        Ok(Ran {
            code: wait(executed.pid),
            out,
            err,
        })
    }

    /// The spec's process with another program.
    pub fn process(&self, args: &[&str]) -> Value {
        let mut process = serde_json::to_value(self.spec.process()).unwrap();
        process["args"] = json!(args);
        process
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.created.cgroup().signal_all(libc::SIGKILL).unwrap();
        wait(self.created.pid());
        finish(&self.created);
    }
}

fn finish(created: &Created) {
    created.cgroup().signal_all(libc::SIGKILL).unwrap();
    created.cgroup().remove().unwrap();
}

impl Drop for World {
    fn drop(&mut self) {
        // Nothing of the containers may be left: no mount on the host, no cgroup.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.dir.path().to_str().unwrap()),
            "a mount is left"
        );
        let one = Path::new(&self.cgroup).join("one");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let below = hierarchy.path().join(one.strip_prefix("/").unwrap());
            assert!(!below.exists(), "{} is left", below.display());
        }
        Cgroup::open(Path::new(&self.cgroup))
            .unwrap()
            .remove()
            .unwrap();
    }
}

pub fn null() -> Stdio {
    let open = || {
        OwnedFd::from(
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap(),
        )
    };
    Stdio::Fds {
        stdin: open(),
        stdout: open(),
        stderr: open(),
    }
}

fn pipes() -> (Stdio, OwnedFd, OwnedFd) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((out, stdout), (err, stderr)) = (pipe(), pipe());
    let stdin = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    (
        Stdio::Fds {
            stdin,
            stdout,
            stderr,
        },
        out,
        err,
    )
}

pub fn text(fd: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

/// Puts a value at a path like `process.cwd` of a spec.
pub fn set(mut spec: Value, path: &str, value: Value) -> Value {
    let mut at = &mut spec;
    for part in path.split('.') {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    *at = value;
    spec
}

/// Adds a mount to a spec.
pub fn add_mount(mut spec: Value, mount: Value) -> Value {
    spec["mounts"].as_array_mut().unwrap().push(mount);
    spec
}
