//! Limits of what containers write, as project quotas of the file system (ext4, xfs; quotactl(2), ioctl_xfs_fsgetxattr(2)):
//! everything below a container's folders counts for one number, which has a limit. Needs Linux 5.14 and a file system that is
//! mounted with project quotas.
#![allow(unsafe_code)]
// The two system calls that no crate offers: quotactl_fd, and the ioctls of project numbers.

use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

const GET_ATTRIBUTES: libc::c_ulong = 0x801c_581f;
const SET_ATTRIBUTES: libc::c_ulong = 0x401c_5820;
const INHERITED: u32 = 0x200;
const PROJECTS: libc::c_int = 2;
const GET_STATE: libc::c_int = ((b'X' as libc::c_int) << 8) + 8;
const SET_LIMITS: libc::c_int = 0x80_0008;
/// Project quotas are counted, and held to.
const ENFORCED: u16 = (1 << 4) | (1 << 5);
const BLOCK_LIMITS: u32 = 1;
/// Containers' projects have numbers from here on.
const FIRST: u32 = 0x5357_0000;

/// `struct fsxattr` (linux/fs.h).
#[repr(C)]
#[derive(Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `struct if_dqblk` (linux/quota.h).
#[repr(C)]
#[derive(Debug, Default)]
struct Limits {
    /// In units of 1024 bytes.
    hard_blocks: u64,
    soft_blocks: u64,
    space: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// Whether what containers write below `dir` can be limited.
///
/// # Errors
/// [`Error::Unsupported`] with what to do where it cannot.
pub(crate) fn check(dir: &Path) -> Result<()> {
    // `struct fs_quota_statv`: its version, and at 2 its flags.
    let mut state = [0u64; 32];
    state[0] = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);
    let folder = open(dir)?;
    // SAFETY: the kernel writes 160 bytes at most, the buffer has 256.
    let answer = unsafe {
        quotactl(
            &folder,
            GET_STATE,
            0,
            state.as_mut_ptr().cast::<libc::c_void>(),
        )
    };
    let bytes = state[0].to_ne_bytes();
    let flags = u16::from_ne_bytes([bytes[2], bytes[3]]);
    if answer.is_ok() && flags & ENFORCED == ENFORCED {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "what a container writes cannot be limited on this node: the file system of {} has no project quotas; use one that has: \
         ext4 with `tune2fs -O project,quota`, or xfs, mounted with the option prjquota (Linux 5.14 or newer)",
        dir.display()
    )))
}

/// Limits what is written below the folders `dirs`, which are empty, to `bytes` together. `others` is where the folders of
/// other containers are, each with `part` in it, whose numbers are taken.
///
/// # Errors
/// See [`check`]; or what the file system says.
pub(super) fn limit(dirs: &[&Path], bytes: u64, others: &Path, part: &str) -> Result<()> {
    let first = dirs
        .first()
        .ok_or_else(|| Error::Internal("a limit for nothing".into()))?;
    check(first)?;
    let mut taken = HashSet::new();
    for entry in std::fs::read_dir(others).into_iter().flatten().flatten() {
        if let Ok(project) = project_of(&entry.path().join(part)) {
            taken.insert(project);
        }
    }
    let project = (FIRST..).find(|p| !taken.contains(p));
    let project = project.ok_or_else(|| Error::Internal("no project number is free".into()))?;
    let setting = |e| Error::io(format!("limit what is written to {}", first.display()), e);
    let mut limits = Limits {
        hard_blocks: bytes.div_ceil(1024),
        valid: BLOCK_LIMITS,
        ..Limits::default()
    };
    let folder = open(first)?;
    let id = project.cast_signed();
    let at = (&raw mut limits).cast::<libc::c_void>();
    // SAFETY: the kernel reads a `struct if_dqblk`, which this is.
    unsafe { quotactl(&folder, SET_LIMITS, id, at) }.map_err(setting)?;
    for dir in dirs {
        let folder = open(dir)?;
        let mut attributes = get(&folder).map_err(setting)?;
        attributes.project = project;
        attributes.flags |= INHERITED;
        // SAFETY: the kernel reads a `struct fsxattr`, which this is.
        let answer =
            unsafe { libc::ioctl(folder.as_raw_fd(), SET_ATTRIBUTES, &raw const attributes) };
        checked(answer.into()).map_err(setting)?;
    }
    Ok(())
}

fn open(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", dir.display()), e))
}

fn project_of(dir: &Path) -> io::Result<u32> {
    let folder = open(dir).map_err(io::Error::other)?;
    get(&folder).map(|a| a.project)
}

fn get(folder: &OwnedFd) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes a `struct fsxattr`, which this is.
    let answer = unsafe { libc::ioctl(folder.as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) };
    checked(answer.into())?;
    Ok(attributes)
}

/// quotactl_fd(2) for projects.
///
/// # Safety
/// `at` must be what `command` reads or writes.
unsafe fn quotactl(
    folder: &OwnedFd,
    command: libc::c_int,
    id: libc::c_int,
    at: *mut libc::c_void,
) -> io::Result<()> {
    let command = (command << 8) | PROJECTS;
    // SAFETY: the caller's promise.
    let answer =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, folder.as_raw_fd(), command, id, at) };
    checked(answer)
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::Command;

    #[test]
    fn the_structures_have_the_kernel_s_sizes() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Limits>(), 72);
    }

    #[test]
    fn where_there_are_no_project_quotas_it_is_said_what_to_do() {
        // /proc never has them.
        let why = check(Path::new("/proc")).unwrap_err().to_string();
        assert!(why.contains("prjquota") && why.contains("/proc"), "{why}");
    }

    /// A file system with project quotas: the one that `SWARM_TEST_QUOTA` names, or one in a file of `dir`.
    fn file_system(dir: &Path) -> Result<Mounted, String> {
        if let Some(place) = std::env::var_os("SWARM_TEST_QUOTA") {
            return Ok(Mounted(place.into(), false));
        }
        let (image, at) = (dir.join("image"), dir.join("at"));
        std::fs::create_dir(&at).unwrap();
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(32 << 20).unwrap();
        let mut mkfs = Command::new("mkfs.ext4");
        let kinds = ["-q", "-O", "project,quota", "-E", "quotatype=prjquota"];
        run(mkfs.env("PATH", PATH).args(kinds).arg(&image))?;
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop,prjquota"]).arg(&image).arg(&at))?;
        Ok(Mounted(at, true))
    }

    const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

    fn run(command: &mut Command) -> Result<(), String> {
        let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{command:?}: {}", said.trim()))
    }

    /// Where it is, and whether it is this test's to unmount.
    struct Mounted(PathBuf, bool);

    impl Drop for Mounted {
        fn drop(&mut self) {
            if self.1 {
                let _ = run(Command::new("umount").arg(&self.0));
            }
        }
    }

    /// As root, and where the kernel has project quotas (CONFIG_QFMT_V2); `make test-vm` has one that does.
    #[test]
    fn a_container_s_folders_are_full_at_their_limit_together() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = match file_system(dir.path()) {
            Ok(place) => place,
            Err(why) => {
                eprintln!(
                    "not tested, as no file system with project quotas can be had here: {why}"
                );
                return;
            }
        };
        let others = place.0.as_path();
        check(others).unwrap();
        // Who has this capability writes on. Containers do not have it, and overlayfs does without it.
        let mut capabilities = rustix::thread::capabilities(None).unwrap();
        let resource = rustix::thread::CapabilitySet::SYS_RESOURCE;
        capabilities.effective.remove(resource);
        rustix::thread::set_capabilities(None, capabilities).unwrap();
        for name in ["one", "two"] {
            let dir = others.join(name);
            let (upper, work) = (dir.join("upper"), dir.join("work"));
            std::fs::create_dir_all(&upper).unwrap();
            std::fs::create_dir_all(&work).unwrap();
            limit(&[&upper, &work], 2 << 20, others, "upper").unwrap();
            std::fs::create_dir(upper.join("below")).unwrap();
            std::fs::write(upper.join("below/a"), vec![1; 1 << 20]).unwrap();
            // As a file goes that overlayfs copies up.
            std::fs::write(work.join("c"), b"c").unwrap();
            std::fs::rename(work.join("c"), upper.join("c")).unwrap();
            let full = std::fs::write(work.join("b"), vec![1; 1 << 20]).unwrap_err();
            assert_eq!(full.raw_os_error(), Some(libc::EDQUOT), "{name}");
        }
        let of = |name: &str| project_of(&others.join(name).join("work")).unwrap();
        assert!(of("one") >= FIRST && of("one") != of("two"));
    }
}
