//! A copy of a folder with all that belongs to its files: owners, modes, times, extended attributes, hard links, holes;
//! devices and sockets are left out. Paths are never resolved: each step is one name in an open folder, and symbolic links are copied as such.

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Folders within folders; more are nobody's data.
const MAX_DEPTH: usize = 256;

/// Copies what is in `from`, and its own owner, mode, times and attributes, to the empty folder `to`. On error a part may
/// have been copied.
pub(super) fn tree(from: &OwnedFd, to: &OwnedFd) -> std::io::Result<()> {
    let mut copier = Copier {
        links: HashMap::new(),
        top: to,
    };
    copier.folder(from.as_fd(), to.as_fd(), &mut Vec::new())
}

struct Copier<'a> {
    /// Where files with several names are, by device and inode: the path below `top`.
    links: HashMap<(u64, u64), Vec<CString>>,
    top: &'a OwnedFd,
}

impl Copier<'_> {
    fn folder(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &mut Vec<CString>,
    ) -> std::io::Result<()> {
        if path.len() > MAX_DEPTH {
            return Err(std::io::Error::other("its folders are too deep"));
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            path.push(name.to_owned());
            self.one(from, to, name, &stat, path)
                .map_err(|e| within(name, e))?;
            path.pop();
        }
        finish(from, to, &rustix::fs::fstat(from)?)
    }

    fn one(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &mut Vec<CString>,
    ) -> std::io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let (last, above) = first.split_last().ok_or(Errno::INVAL)?;
                let folder = descend(self.top, above)?;
                rustix::fs::linkat(&folder, last, to, name, AtFlags::empty())?;
                return Ok(());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        let plain = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | plain;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
                self.folder(source.as_fd(), copy.as_fd(), path)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | plain;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | plain;
                let copy = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                contents(&source, &copy, u64::try_from(stat.st_size).unwrap_or(0))?;
                finish(source.as_fd(), copy.as_fd(), stat)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
                self.node(to, name, stat)
            }
            FileType::Fifo => {
                let mode = Mode::from_raw_mode(stat.st_mode);
                rustix::fs::mknodat(to, name, kind, mode, 0)?;
                self.node(to, name, stat)?;
                Ok(rustix::fs::chmodat(to, name, mode, AtFlags::empty())?)
            }
            // No data, and nothing that should come to be in a folder of the host.
            _ => Ok(()),
        }
    }

    fn node(&self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> std::io::Result<()> {
        let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        let here = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(to, name, Some(user), Some(group), here)?;
        Ok(rustix::fs::utimensat(to, name, &times(stat), here)?)
    }
}

fn within(name: &CStr, e: std::io::Error) -> std::io::Error {
    // The kind stays what it is, so that a full disk is told as one.
    match e.raw_os_error() {
        Some(_) => e,
        None => std::io::Error::new(e.kind(), format!("{}: {e}", name.to_string_lossy())),
    }
}

fn descend(top: &OwnedFd, path: &[CString]) -> std::io::Result<OwnedFd> {
    let mut folder = rustix::io::fcntl_dupfd_cloexec(top, 0)?;
    for name in path {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
    }
    Ok(folder)
}

/// What is not a hole.
fn contents(from: &OwnedFd, to: &OwnedFd, size: u64) -> std::io::Result<()> {
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only holes follow.
            Err(Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?;
        piece(from, to, data, hole.min(size))?;
        at = hole;
    }
    Ok(())
}

fn piece(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> std::io::Result<()> {
    let (mut read, mut write) = (start, start);
    while read < end {
        let length = usize::try_from(end - read)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
            // Shorter than it was.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return by_hand(from, to, read, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn by_hand(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    while at < end {
        let wanted = usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = rustix::io::pread(from, &mut buffer[..wanted], at)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < read {
            written += rustix::io::pwrite(to, &buffer[written..read], at + written as u64)?;
        }
        at += read as u64;
    }
    Ok(())
}

/// Extended attributes, but for those that are overlayfs' own.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> std::io::Result<()> {
    for (name, value) in read_attributes(from)? {
        match rustix::fs::fsetxattr(to, name.as_c_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// The extended attributes of a file that are not overlayfs' own.
pub(super) fn read_attributes(file: BorrowedFd<'_>) -> std::io::Result<Vec<(CString, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = vec![0; 64 << 10];
        match rustix::fs::fgetxattr(file, name.as_c_str(), &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e.into()),
        }
        all.push((name, value));
    }
    Ok(all)
}

/// Owner, attributes, mode and times, in this order: a change of owner clears capabilities and set-id bits.
fn finish(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> std::io::Result<()> {
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(user), Some(group))?;
    attributes(from, to)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(stat))?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
