//! What a process becomes before its program runs (OCI config, "Process"): user, capabilities, limits, filter, directory. The same for
//! a container's first process and for those that come later. Must not know of namespaces or mounts.

use super::{
    caps, mounts, rootless, scheduling,
    seccomp::{self, Filter, Listener},
    sys,
};
use crate::{Error, Result};
use oci_spec::runtime::{IOPriorityClass, LinuxPersonalityDomain, PosixRlimitType, Process, Spec};
use rustix::fs::{Mode, OFlags, fstat, open, stat};
use std::{
    ffi::CString,
    io::{self, Read},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

/// Where programs are looked for if the process has no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// A process of the spec, checked and put into the kernel's terms.
#[derive(Debug)]
pub(super) struct Plan {
    args: Vec<CString>,
    env: Vec<CString>,
    /// The programs to try, in this order.
    programs: Vec<CString>,
    pub(super) cwd: PathBuf,
    pub(super) uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    pub(super) caps: caps::Sets,
    no_new_privileges: bool,
    filter: Option<Filter>,
    persona: Option<u64>,
    io_priority: Option<(u32, u32)>,
    scheduler: Option<sys::SchedAttr>,
    memory_policy: Option<scheduling::MemoryPolicy>,
    /// For a further process only.
    pub(super) affinity: scheduling::Affinity,
    limits: Vec<(u32, u64, u64)>,
    oom_score_adj: Option<i32>,
    /// Files below `/proc` with the labels of the program to come.
    labels: Vec<(String, String)>,
    /// Device and inode of this very program, which no container may run.
    own: Option<(u64, u64)>,
    /// The runtime is in a user namespace itself.
    rootless: bool,
    /// How many descriptors after the standard streams stay open.
    preserve: u32,
    listener: Listener,
}

impl Plan {
    /// Checks a process.
    pub(super) fn new(process: &Process, spec: &Spec) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        let Some(program) = args.first().filter(|program| !program.is_empty()) else {
            return Err(Error::Invalid(
                "the process has no program: process.args is empty".to_owned(),
            ));
        };
        unsupported(process)?;
        let env = process.env().as_deref().unwrap_or_default();
        let cwd = process.cwd();
        if !cwd.is_absolute() {
            return Err(Error::Invalid(format!(
                "the working directory `{}` must be an absolute path in the container",
                cwd.display()
            )));
        }
        let linux = spec.linux().as_ref();
        let user = process.user();
        Ok(Self {
            programs: programs(program, env)?,
            args: strings(args)?,
            env: strings(env)?,
            cwd: cwd.clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022) & 0o777,
            caps: caps::sets(process.capabilities().as_ref())?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            filter: linux
                .and_then(|linux| linux.seccomp().as_ref())
                .map(seccomp::compile)
                .transpose()?,
            persona: linux
                .and_then(|linux| linux.personality().as_ref())
                .map(|persona| match persona.domain() {
                    _ if persona
                        .flags()
                        .as_ref()
                        .is_some_and(|flags| !flags.is_empty()) =>
                    {
                        Err(Error::Unsupported(
                            "personality flags are not supported".to_owned(),
                        ))
                    }
                    LinuxPersonalityDomain::PerLinux => Ok(0),
                    LinuxPersonalityDomain::PerLinux32 => Ok(8),
                })
                .transpose()?,
            io_priority: process
                .io_priority()
                .as_ref()
                .map(|priority| {
                    let class = match priority.class() {
                        IOPriorityClass::IoprioClassRt => 1,
                        IOPriorityClass::IoprioClassBe => 2,
                        IOPriorityClass::IoprioClassIdle => 3,
                    };
                    match u32::try_from(priority.priority()) {
                        Ok(level) if level < 8 => Ok((class, level)),
                        _ => Err(Error::Invalid(
                            "ioPriority.priority must be from 0 to 7".to_owned(),
                        )),
                    }
                })
                .transpose()?,
            scheduler: process
                .scheduler()
                .as_ref()
                .map(scheduling::attributes)
                .transpose()?,
            memory_policy: linux
                .and_then(|linux| linux.memory_policy().as_ref())
                .map(scheduling::MemoryPolicy::new)
                .transpose()?,
            affinity: scheduling::Affinity::new(process.exec_cpu_affinity().as_ref())?,
            limits: limits(process)?,
            oom_score_adj: process.oom_score_adj(),
            labels: labels(process)?,
            own: stat("/proc/self/exe")
                .ok()
                .map(|stat| (stat.st_dev, stat.st_ino)),
            rootless: rootless::in_user_namespace(),
            preserve: 0,
            listener: Listener::default(),
        })
    }

    /// Connects to whoever is to be asked about system calls, where the filter says so. The path is the host's.
    pub(super) fn connect_listener(&mut self) -> Result<()> {
        if let Some(filter) = &self.filter {
            self.listener = Listener::connect(filter)?;
        }
        Ok(())
    }

    /// Whether somebody is to be asked about system calls.
    pub(super) fn has_listener(&self) -> bool {
        self.filter
            .as_ref()
            .is_some_and(|filter| filter.listener.is_some())
    }

    /// What that one is told beside.
    pub(super) fn tell_listener(&self, version: &str, state: &str, pid: i32) {
        self.listener.prepare(version, state, pid);
    }

    fn load(&self, filter: &Filter) -> Result<()> {
        let listener = sys::seccomp(&filter.program, filter.flags)
            .map_err(|e| Error::io("load the seccomp filter", e))?;
        listener.map_or(Ok(()), |fd| self.listener.send(&fd))
    }

    /// Whether the container may do what the host's root does.
    pub(super) fn is_privileged(&self) -> bool {
        self.caps.bounding & CAP_SYS_ADMIN != 0
    }

    /// Keeps so many descriptors after the standard streams open for the program.
    pub(super) fn preserve(&mut self, count: u32) {
        self.preserve = count;
    }

    /// Whether there is a program to run, without running it. Whether the user may run it is seen then.
    pub(super) fn look_for_program(&self) -> Result<()> {
        let mut denied = false;
        for program in &self.programs {
            match stat(program.as_c_str()) {
                Ok(found) if found.st_mode & libc::S_IFMT != libc::S_IFREG => denied = true,
                Ok(found) if found.st_mode & 0o111 == 0 => denied = true,
                // Not to be told: the user may see more than root does, or it is tried at the start.
                Ok(_) | Err(rustix::io::Errno::ACCESS) => return Ok(()),
                Err(_) => {}
            }
        }
        if denied {
            let name = self.name();
            return Err(Error::io(
                format!("run `{name}` in the container"),
                rustix::io::Errno::ACCESS,
            ));
        }
        // Relative ones depend on the working directory, which is entered later.
        if self
            .programs
            .iter()
            .any(|p| !p.as_bytes().starts_with(b"/"))
        {
            return Ok(());
        }
        Err(self.no_program())
    }

    fn name(&self) -> String {
        self.args
            .first()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// The error's last words are those that engines look for.
    fn no_program(&self) -> Error {
        let name = self.name();
        if name.contains('/') {
            return Error::NotFound(format!(
                "cannot run `{name}`: there is no such file in the container (no such file or directory)"
            ));
        }
        Error::NotFound(format!(
            "cannot run `{name}`: there is no such program in the container's PATH ({}): executable file not found in $PATH",
            search_path(&self.env)
        ))
    }

    /// The parent's part, for it has the rights on the host: resource limits and the OOM score of a process that does not run its
    /// program yet.
    pub(super) fn limit(&self, pid: i32) -> Result<()> {
        self.score(pid)?;
        self.bound(pid)
    }

    /// Sets the OOM score of a process with this number in the host's `/proc`.
    pub(super) fn score(&self, pid: i32) -> Result<()> {
        let Some(score) = self.oom_score_adj else {
            return Ok(());
        };
        match std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
            // Less than its own nobody but the host's root may give: the user's is as near as it gets.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && self.rootless => Ok(()),
            other => other
                .map_err(|e| Error::io(format!("set the container's oom_score_adj to {score}"), e)),
        }
    }

    /// Sets the resource limits of a process; 0: of this one.
    pub(super) fn bound(&self, pid: i32) -> Result<()> {
        for &(resource, soft, hard) in &self.limits {
            sys::prlimit(pid, resource, soft, hard).map_err(|e| {
                Error::io(
                    format!("set the container's resource limit number {resource} to {soft} (hard {hard})"),
                    e,
                )
            })?;
        }
        Ok(())
    }

    /// Becomes the process. Returns only if that failed.
    pub(super) fn exec(&self) -> Error {
        match self.prepare() {
            Ok(()) => self.run(),
            Err(error) => error,
        }
    }

    fn prepare(&self) -> Result<()> {
        let io = |attempt: &'static str| move |e: io::Error| Error::io(attempt, e);
        mounts::proc_files(&self.labels)?;
        if let Some(persona) = self.persona {
            sys::personality(persona).map_err(io("set the personality"))?;
        }
        if let Some((class, level)) = self.io_priority {
            sys::io_priority(class, level).map_err(io("set the I/O priority"))?;
        }
        if let Some(scheduler) = &self.scheduler {
            sys::set_scheduler(scheduler)
                .map_err(|e| Error::io(format!("set the scheduler to {scheduler:?}"), e))?;
        }
        if let Some(policy) = &self.memory_policy {
            policy.set()?;
        }
        let entered = self.enter_cwd();
        caps::bound(&self.caps)?;
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0)
            .map_err(io("keep capabilities over the change of user"))?;
        match sys::set_groups(&self.groups) {
            // In an ordinary user's namespace with one group alone the kernel lets nobody change them (user_namespaces(7)).
            Err(e)
                if e.raw_os_error() == Some(libc::EPERM)
                    && self.rootless
                    && self.groups.is_empty() => {}
            other => other.map_err(io("set the supplementary groups"))?,
        }
        sys::set_gid(self.gid).map_err(|e| no_such_id("group", self.gid, e))?;
        sys::set_uid(self.uid).map_err(|e| no_such_id("user", self.uid, e))?;
        sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).map_err(io("drop capabilities"))?;
        if let Err(error) = entered {
            // What root (mapped, or squashed by a network file system) may not enter the user may.
            if !matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
            {
                return Err(error);
            }
            self.enter_cwd()?;
        }
        sys::umask(self.umask);
        // Every descriptor but the standard streams ends with this program (CVE-2024-21626).
        sys::cloexec_from(self.preserve.saturating_add(3))
            .map_err(io("mark descriptors to be closed"))?;
        if let Some(filter) = self.filter.as_ref().filter(|_| !self.no_new_privileges) {
            // Without no_new_privs the kernel wants CAP_SYS_ADMIN for a filter; it goes right after.
            let (effective, permitted) = (
                self.caps.effective | CAP_SYS_ADMIN,
                self.caps.permitted | CAP_SYS_ADMIN,
            );
            sys::capset(effective, permitted, self.caps.inheritable)
                .map_err(io("keep CAP_SYS_ADMIN for the filter"))?;
            self.load(filter)?;
        }
        caps::apply(&self.caps)?;
        if self.no_new_privileges {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(io("set no_new_privs"))?;
            if let Some(filter) = &self.filter {
                self.load(filter)?;
            }
        }
        Ok(())
    }

    /// Changes to the working directory and makes sure that it is in the root: a path like `/proc/self/fd/7` may lead out of it
    /// (CVE-2024-21626).
    fn enter_cwd(&self) -> Result<()> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Error::NotFound(format!(
                "the working directory {} is not in the container",
                self.cwd.display()
            )),
            _ => Error::io(
                format!("change to the working directory {}", self.cwd.display()),
                e,
            ),
        };
        rustix::process::chdir(&self.cwd).map_err(|e| failed(e.into()))?;
        match sys::getcwd() {
            Ok(path) if path.first() == Some(&b'/') => Ok(()),
            Ok(_) => Err(Error::Invalid(format!(
                "the working directory {} leads out of the container's root",
                self.cwd.display()
            ))),
            Err(e) => Err(failed(e)),
        }
    }

    fn run(&self) -> Error {
        let name = self.name();
        let mut denied = None;
        let with_home = self.with_home();
        let env = with_home.as_ref().unwrap_or(&self.env);
        for program in &self.programs {
            if self.is_own(program) {
                return Error::Invalid(format!(
                    "`{name}` is the runtime's own program, which no container may run (CVE-2019-5736)"
                ));
            }
            let error = sys::execve(program, &self.args, env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {
                    let path = program.to_string_lossy();
                    if stat(program.as_c_str()).is_ok() {
                        return Error::NotFound(format!(
                            "cannot run `{name}`: {path} is there, but the interpreter or loader that it needs is not in the \
                             container"
                        ));
                    }
                }
                Some(libc::EACCES) => denied = Some(error),
                _ => return Error::io(format!("run `{name}` in the container"), error),
            }
        }
        match denied {
            Some(error) => Error::io(format!("run `{name}` in the container"), error),
            None => self.no_program(),
        }
    }

    /// The environment with the home directory that the container's `/etc/passwd` has for the user, where the spec gives none: that
    /// is what engines leave to the runtime.
    fn with_home(&self) -> Option<Vec<CString>> {
        if self
            .env
            .iter()
            .any(|line| line.as_bytes().starts_with(b"HOME="))
        {
            return None;
        }
        let users = open(
            "/etc/passwd",
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()
        .filter(|file| fstat(file).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFREG))
        .and_then(|file| {
            let mut text = Vec::new();
            io::Read::take(std::fs::File::from(file), 1 << 20)
                .read_to_end(&mut text)
                .ok()
                .map(|_| text)
        })
        .unwrap_or_default();
        let home = home(&String::from_utf8_lossy(&users), self.uid).unwrap_or("/".to_owned());
        let mut env = self.env.clone();
        env.push(CString::new(format!("HOME={home}")).ok()?);
        Some(env)
    }

    /// Whether a program is this one, or a script for it.
    fn is_own(&self, program: &std::ffi::CStr) -> bool {
        let same = |stat: rustix::fs::Stat| self.own == Some((stat.st_dev, stat.st_ino));
        if stat(program).is_ok_and(same) {
            return true;
        }
        let Ok(file) = open(
            program,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        ) else {
            return false;
        };
        if fstat(&file).is_ok_and(same) {
            return true;
        }
        let mut head = [0u8; 256];
        let length = rustix::io::read(&file, &mut head).unwrap_or(0);
        let interpreter = head
            .get(..length)
            .and_then(|head| head.strip_prefix(b"#!"))
            .and_then(|line| line.split(|&b| b == b'\n').next())
            .map(<[u8]>::trim_ascii_start)
            .and_then(|line| line.split(u8::is_ascii_whitespace).next());
        interpreter.is_some_and(|path| stat(path).is_ok_and(same))
    }
}

fn no_such_id(what: &str, id: u32, e: io::Error) -> Error {
    if e.raw_os_error() == Some(libc::EINVAL) {
        return Error::Invalid(format!(
            "the container's process cannot become {what} {id}: its user namespace has no such {what} (its mappings, or this \
             user's subordinate ids in /etc/subuid and /etc/subgid, do not reach so far)"
        ));
    }
    Error::io(format!("become {what} {id}"), e)
}

/// Gives the standard streams to the process's user, so that it may open `/dev/stdout` anew. Those of the null device stay.
pub(super) fn own_streams(uid: u32) {
    for fd in rustix_stdio() {
        let Ok(stat) = fstat(fd) else { continue };
        if stat.st_uid != uid && !mounts::is_device(fd, 1, 3) {
            // Some files cannot change hands; then they stay as they are.
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

fn rustix_stdio() -> [BorrowedFd<'static>; 3] {
    [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ]
}

fn strings(list: &[String]) -> Result<Vec<CString>> {
    list.iter()
        .map(|s| {
            CString::new(s.as_str()).map_err(|_| {
                Error::Invalid(format!(
                    "`{}` has a zero byte in it",
                    s.replace('\0', "\\0")
                ))
            })
        })
        .collect()
}

fn programs(program: &str, env: &[String]) -> Result<Vec<CString>> {
    if program.contains('/') {
        return strings(&[program.to_owned()]);
    }
    let path = env
        .iter()
        .find_map(|line| line.strip_prefix("PATH="))
        .unwrap_or(PATH);
    let candidates: Vec<String> = path
        .split(':')
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| format!("{}/{program}", directory.trim_end_matches('/')))
        .collect();
    strings(&candidates)
}

/// A user's home directory in the text of an `/etc/passwd`.
fn home(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse::<u32>() == Ok(uid);
        fields
            .nth(2)
            .filter(|home| found && !home.is_empty())
            .map(str::to_owned)
    })
}

fn search_path(env: &[CString]) -> String {
    env.iter()
        .find_map(|line| line.to_str().ok()?.strip_prefix("PATH=").map(str::to_owned))
        .unwrap_or_else(|| PATH.to_owned())
}

fn unsupported(process: &Process) -> Result<()> {
    let refuse = |asked: bool, what: &str| {
        if asked {
            Err(Error::Unsupported(format!(
                "process.{what} is not supported by this runtime"
            )))
        } else {
            Ok(())
        }
    };
    refuse(
        process.command_line().is_some(),
        "commandLine (a field for Windows)",
    )?;
    refuse(
        process.user().username().is_some(),
        "user.username (a field for Windows)",
    )
}

fn labels(process: &Process) -> Result<Vec<(String, String)>> {
    let mut labels = Vec::new();
    if let Some(profile) = process
        .apparmor_profile()
        .as_deref()
        .filter(|p| !p.is_empty() && *p != "unconfined")
    {
        if std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with(b"Y"))
        {
            labels.push((
                "self/attr/apparmor/exec".to_owned(),
                format!("exec {profile}"),
            ));
        } else {
            return Err(Error::Unsupported(format!(
                "the AppArmor profile `{profile}` is asked for, but this kernel has no AppArmor or it is not enabled"
            )));
        }
    }
    if let Some(label) = process.selinux_label().as_deref().filter(|l| !l.is_empty()) {
        if Path::new("/sys/fs/selinux/enforce").exists() {
            labels.push(("self/attr/exec".to_owned(), label.to_owned()));
        } else {
            return Err(Error::Unsupported(format!(
                "the SELinux label `{label}` is asked for, but this kernel has no SELinux or it is not enabled"
            )));
        }
    }
    Ok(labels)
}

fn limits(process: &Process) -> Result<Vec<(u32, u64, u64)>> {
    let mut seen = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
            PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
            PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
            PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
            PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
            PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
            PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
            PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
            PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
            PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
            PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
            PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
            PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
        };
        if limit.soft() > limit.hard() {
            return Err(Error::Invalid(format!(
                "{:?}: the soft limit is above the hard one",
                limit.typ()
            )));
        }
        if seen.iter().any(|&(other, _, _)| other == resource) {
            return Err(Error::Invalid(format!("{:?} is given twice", limit.typ())));
        }
        seen.push((resource, limit.soft(), limit.hard()));
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Plan> {
        let spec: Spec = serde_json::from_str(r#"{"ociVersion":"1.2.0"}"#).unwrap();
        Plan::new(&serde_json::from_str(json).unwrap(), &spec)
    }

    #[test]
    fn a_program_without_a_slash_is_looked_for_in_the_path() {
        let programs = |args: &[&str]| {
            programs(
                "sh",
                &args.iter().map(|&s| s.to_owned()).collect::<Vec<_>>(),
            )
            .unwrap()
        };
        assert_eq!(
            programs(&["PATH=/a:/b/"]),
            [c"/a/sh".to_owned(), c"/b/sh".to_owned()]
        );
        assert_eq!(programs(&[]).len(), 6);
    }

    #[test]
    fn a_process_that_cannot_be_made_as_asked_is_refused() {
        let process = |more: &str| {
            plan(&format!(
                r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["x"]{more}}}"#
            ))
        };
        assert!(process("").is_ok());
        assert!(process(r#","apparmorProfile":"unconfined""#).is_ok());
        assert!(process(r#","ioPriority":{"class":"IOPRIO_CLASS_BE","priority":9}"#).is_err());
        assert!(process(r#","rlimits":[{"type":"RLIMIT_NOFILE","soft":2,"hard":1}]"#).is_err());
        assert!(process(r#","scheduler":{"policy":"SCHED_BATCH"}"#).is_ok());
        assert!(process(r#","scheduler":{"policy":"SCHED_ISO"}"#).is_err());
        assert!(process(r#","scheduler":{"policy":"SCHED_FIFO","priority":-1}"#).is_err());
        assert!(plan(r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":[]}"#).is_err());
        assert!(plan(r#"{"user":{"uid":0,"gid":0},"cwd":"tmp","args":["x"]}"#).is_err());
        assert!(plan(r#"{"user":{"uid":0,"gid":0},"cwd":"/","args":["a\u0000b"]}"#).is_err());
    }
}
