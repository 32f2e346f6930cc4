//! Unpacks one layer's archive into a folder as overlayfs wants it: whiteouts become its devices and attributes.
//! Nothing an archive says leads out of the folder: every path is resolved by the kernel with the folder as root.

use super::archive::{Archive, Entry, EntryKind, lossy};
use super::resolve::{directory_exact, directory_in_root, open_folder};
use crate::container::rootless;
use crate::{Error, Result};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks all of `archive` into `root`, an empty folder. Files that the archive itself replaces are kept in the
/// folder `replaced`, under their labels, because the archive cannot be made again without them.
pub(super) fn unpack<R: BufRead, W: Write>(
    archive: &mut Archive<R, W>,
    root: &Path,
    replaced: &Path,
) -> Result<()> {
    let mut unpacker = Unpacker {
        root: open_folder(root)?,
        root_path: std::fs::canonicalize(root)
            .map_err(|e| Error::io(format!("find {}", root.display()), e))?,
        replaced: replaced.to_owned(),
        parent: None,
        directories: Vec::new(),
    };
    while let Some(entry) = archive.next()? {
        unpacker.apply(archive, &entry)?;
    }
    unpacker.finish()
}

/// A directory that entries are made in.
#[derive(Debug)]
struct Parent {
    /// As the archive names it, cleaned.
    named: Vec<u8>,
    /// Where it really is, below the root.
    real: Vec<u8>,
    fd: OwnedFd,
}

struct Unpacker {
    root: OwnedFd,
    root_path: PathBuf,
    replaced: PathBuf,
    /// The last one: entries of one directory mostly follow one another.
    parent: Option<Parent>,
    /// Their times are set at the end, because making entries in them changes those.
    directories: Vec<(Vec<u8>, (i64, u32))>,
}

/// What stood where an entry is to be made.
enum Before {
    Nothing,
    Directory,
    Whiteout,
}

impl Unpacker {
    fn apply<R: BufRead, W: Write>(
        &mut self,
        archive: &mut Archive<R, W>,
        entry: &Entry,
    ) -> Result<()> {
        let path = clean(&entry.path);
        let Some(name) = path.last() else {
            return self.root_itself(entry);
        };
        let parent = self.parent(&path[..path.len() - 1], &entry.path)?;
        let outcome = self.make(archive, entry, &parent, name);
        if self.parent.is_none() {
            self.parent = Some(parent);
        }
        outcome
    }

    fn root_itself(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::Invalid(format!(
                "the archive's entry \"{}\" would replace the root directory",
                lossy(&entry.path)
            )));
        }
        directory_attributes(self.root.as_fd(), entry)
            .map_err(|e| failed("set the attributes of", &entry.path, e))?;
        self.directories.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn make<R: BufRead, W: Write>(
        &mut self,
        archive: &mut Archive<R, W>,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
    ) -> Result<()> {
        let at = parent.fd.as_fd();
        let failed_to = |what: &'static str| move |e: Errno| failed(what, &entry.path, e);
        if name.starts_with(WHITEOUT) {
            return whiteout(at, name, &entry.path);
        }
        match &entry.kind {
            EntryKind::HardLink => {
                return self.hard_link(entry, at, name);
            }
            EntryKind::Directory => {
                let before = self.clear(at, name, &entry.path, true)?;
                if !matches!(before, Before::Directory) {
                    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700))
                        .map_err(failed_to("make the directory"))?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(at, name, flags, Mode::empty())
                    .map_err(failed_to("open the directory"))?;
                directory_attributes(fd.as_fd(), entry)
                    .map_err(failed_to("set the attributes of"))?;
                if matches!(before, Before::Whiteout) {
                    set_opaque(fd.as_fd()).map_err(failed_to("mark"))?;
                }
                self.directories
                    .push((joined(&parent.real, name), entry.mtime));
                return Ok(());
            }
            _ => {}
        }
        self.clear(at, name, &entry.path, false)?;
        match &entry.kind {
            EntryKind::File | EntryKind::Sparse { .. } => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o600))
                    .map_err(failed_to("make the file"))?;
                let mut file = File::from(fd);
                let write =
                    |e: std::io::Error| Error::io(format!("write {}", lossy(&entry.path)), e);
                if let EntryKind::Sparse { segments, size } = &entry.kind {
                    sparse(archive, &mut file, segments, *size, &entry.path)?;
                } else {
                    let label = rustix::fs::fstat(&file)
                        .map_err(failed_to("look at"))?
                        .st_ino;
                    archive.file(&joined(&parent.real, name), label, |bytes| {
                        file.write_all(bytes).map_err(write)
                    })?;
                }
                file_attributes(file.as_fd(), entry).map_err(failed_to("set the attributes of"))
            }
            EntryKind::Symlink => {
                rustix::fs::symlinkat(&entry.link[..], at, name)
                    .map_err(failed_to("make the symbolic link"))?;
                node_attributes(at, name, entry, false).map_err(failed_to("set the attributes of"))
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                match rustix::fs::mknodat(at, name, kind, Mode::from_raw_mode(0o600), device) {
                    // No user but the host's root makes devices, and none would work: the container has those of its spec.
                    Err(Errno::PERM) if kind != FileType::Fifo && rootless::in_user_namespace() => {
                        return Ok(());
                    }
                    other => other.map_err(failed_to("make the device or pipe"))?,
                }
                node_attributes(at, name, entry, true).map_err(failed_to("set the attributes of"))
            }
            EntryKind::Directory | EntryKind::HardLink => Ok(()),
        }
    }

    fn hard_link(&mut self, entry: &Entry, at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let missing = |why: &str| {
            Error::Invalid(format!(
                "the archive's hard link {} leads to {}, which {why}",
                lossy(&entry.path),
                lossy(&entry.link)
            ))
        };
        let target = clean(&entry.link);
        let Some(target_name) = target.last() else {
            return Err(missing("is the root directory"));
        };
        let folder = directory_in_root(&self.root, &target[..target.len() - 1].join(&b'/'))
            .map_err(|_| missing("is not there before it"))?;
        let look = |at: BorrowedFd<'_>, name: &[u8]| {
            rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
        };
        let found =
            look(folder.as_fd(), target_name).map_err(|_| missing("is not there before it"))?;
        if FileType::from_raw_mode(found.st_mode).is_dir() {
            return Err(missing("is a directory"));
        }
        if look(at, name).is_ok_and(|there| there.st_ino == found.st_ino) {
            return Ok(());
        }
        self.clear(at, name, &entry.path, false)?;
        rustix::fs::linkat(&folder, *target_name, at, name, AtFlags::empty())
            .map_err(|e| failed("make the hard link", &entry.path, e))
    }

    /// Makes room for an entry. A directory may stay where a directory is wanted.
    fn clear(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        directory: bool,
    ) -> Result<Before> {
        let there = match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Before::Nothing),
            other => other.map_err(|e| failed("look at", path, e))?,
        };
        let kind = FileType::from_raw_mode(there.st_mode);
        if kind.is_dir() && directory {
            return Ok(Before::Directory);
        }
        self.parent = None;
        let removed = if kind.is_dir() {
            rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)
        } else if kind.is_file() && there.st_size > 0 {
            self.keep(at, name, there.st_ino)?;
            Ok(())
        } else {
            rustix::fs::unlinkat(at, name, AtFlags::empty())
        };
        match removed {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Error::Invalid(format!(
                "the archive puts {} in place of a directory that it has filled before",
                lossy(path)
            ))),
            other => other.map_err(|e| failed("replace", path, e)),
        }?;
        Ok(if is_whiteout(&there) {
            Before::Whiteout
        } else {
            Before::Nothing
        })
    }

    fn keep(&self, at: BorrowedFd<'_>, name: &[u8], label: u64) -> Result<()> {
        let to = self.replaced.join(label.to_string());
        let keeping =
            |e: std::io::Error| Error::io(format!("keep what is replaced as {}", to.display()), e);
        match std::fs::create_dir(&self.replaced) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(keeping(e)),
            _ => {}
        }
        rustix::fs::renameat(at, name, rustix::fs::CWD, &to).map_err(|e| keeping(e.into()))?;
        // Renaming one link of a file onto another does nothing (rename(2)).
        match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(keeping(e.into())),
        }
    }

    /// The directory that an entry is to be made in; it and those above it are made where the archive has not.
    fn parent(&mut self, path: &[&[u8]], whole: &[u8]) -> Result<Parent> {
        let named = path.join(&b'/');
        match self.parent.take() {
            Some(parent) if parent.named == named => return Ok(parent),
            _ => {}
        }
        let fd = match directory_in_root(&self.root, &named) {
            Err(Errno::NOENT) => self.make_parents(path, whole)?,
            other => other.map_err(|e| failed("enter the directory of", whole, e))?,
        };
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let real = std::fs::read_link(&link).map_err(|e| Error::io(format!("read {link}"), e))?;
        let real = real.strip_prefix(&self.root_path).map_err(|_| {
            Error::Internal(format!(
                "the directory of {} is {}, outside of the layer",
                lossy(whole),
                real.display()
            ))
        })?;
        let real = std::os::unix::ffi::OsStrExt::as_bytes(real.as_os_str()).to_vec();
        Ok(Parent { named, real, fd })
    }

    fn make_parents(&self, path: &[&[u8]], whole: &[u8]) -> Result<OwnedFd> {
        let entering = |e: Errno| failed("enter the directory of", whole, e);
        let mut above = directory_in_root(&self.root, b"").map_err(entering)?;
        for depth in 1..=path.len() {
            let named = path[..depth].join(&b'/');
            above = match directory_in_root(&self.root, &named) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&above, path[depth - 1], Mode::from_raw_mode(0o755)) {
                        Err(Errno::EXIST) => {
                            return Err(Error::Invalid(format!(
                                "the archive's entry {} is behind a symbolic link that leads nowhere",
                                lossy(whole)
                            )));
                        }
                        other => other.map_err(entering)?,
                    }
                    directory_in_root(&self.root, &named).map_err(entering)?
                }
                other => other.map_err(entering)?,
            };
        }
        Ok(above)
    }

    fn finish(self) -> Result<()> {
        for (path, mtime) in &self.directories {
            match directory_exact(&self.root, path) {
                Ok(fd) => rustix::fs::futimens(&fd, &times(*mtime))
                    .map_err(|e| failed("set the times of", path, e))?,
                // Replaced since.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(failed("open the directory", path, e)),
            }
        }
        Ok(())
    }
}

fn whiteout(at: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
    let marking = |e: Errno| failed("make the whiteout", path, e);
    if name == OPAQUE {
        return set_opaque(at).map_err(marking);
    }
    let hidden = &name[WHITEOUT.len()..];
    if hidden.starts_with(WHITEOUT) {
        // What AUFS kept for itself.
        return Ok(());
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(Error::Invalid(format!(
            "the archive's whiteout {} hides nothing",
            lossy(path)
        )));
    }
    match rustix::fs::statat(at, hidden, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::mknodat(
            at,
            hidden,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .map_err(marking),
        Err(e) => Err(marking(e)),
        // A whiteout hides what is below this layer, not what is in it.
        Ok(there) if FileType::from_raw_mode(there.st_mode).is_dir() => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(at, hidden, flags, Mode::empty()).map_err(marking)?;
            set_opaque(fd.as_fd()).map_err(marking)
        }
        Ok(_) => Ok(()),
    }
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == 0
}

fn set_opaque(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(fd, rootless::opaque_attribute(), b"y", XattrFlags::empty())
}

fn sparse<R: BufRead, W: Write>(
    archive: &mut Archive<R, W>,
    file: &mut File,
    segments: &[(u64, u64)],
    size: u64,
    path: &[u8],
) -> Result<()> {
    let write = |e: std::io::Error| Error::io(format!("write {}", lossy(path)), e);
    let mut buffer = vec![0; 64 << 10];
    file.set_len(size).map_err(write)?;
    for (offset, length) in segments {
        file.seek(SeekFrom::Start(*offset)).map_err(write)?;
        let mut left = *length;
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = archive.contents(&mut buffer[..wanted])?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(write)?;
            left -= read as u64;
        }
    }
    Ok(())
}

fn directory_attributes(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))?;
    xattrs(fd, entry)
}

/// Whom a file belongs to: root where there is nobody else.
fn owner(entry: &Entry) -> (Uid, Gid) {
    if rootless::has_one_id() {
        return (Uid::ROOT, Gid::ROOT);
    }
    (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))
}

fn file_attributes(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    // In this order: a change of the owner takes the setuid bit and the capabilities away.
    directory_attributes(fd, entry)?;
    rustix::fs::futimens(fd, &times(entry.mtime))
}

/// What is set by name, because it cannot be opened; it was just made, so that the name is what it was.
fn node_attributes(
    at: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    mode: bool,
) -> Result<(), Errno> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = owner(entry);
    rustix::fs::chownat(at, name, Some(uid), Some(gid), nofollow)?;
    if mode {
        rustix::fs::chmodat(at, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(at, name, &times(entry.mtime), nofollow)
}

/// Only attributes that a container's own process could set, and file capabilities; never overlayfs' or a label.
fn xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    for (name, value) in &entry.xattrs {
        let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if name == b"security.capability" || (user && !name.contains(&0)) {
            match rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty()) {
                // A file system without user attributes.
                Err(Errno::OPNOTSUPP) if user => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        },
    }
}

/// The path's parts. `..` goes up by name, never above the root.
fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, name].join(&b'/')
    }
}

/// What the archive is to blame for is its fault; the rest is the host's.
fn failed(what: &str, path: &[u8], e: Errno) -> Error {
    match e {
        Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::NOTDIR
        | Errno::NOENT
        | Errno::INVAL
        | Errno::RANGE
        | Errno::TOOBIG
        | Errno::FBIG => Error::Invalid(format!(
            "the archive's entry {} cannot be unpacked: cannot {what} it: {e}",
            lossy(path)
        )),
        e => Error::io(format!("{what} {}", lossy(path)), e),
    }
}
