//! A file or a directory with all in it as a tar archive.
//!
//! What is a directory is walked by descriptor, one name at a time, and no symbolic link is followed. What the kernel makes
//! up (`/proc`, `/sys`) is left out, unless it is asked for itself. What vanishes meanwhile was not there.

use super::{Owners, Place, lossy};
use crate::{Error, Result};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Folders within folders; each holds a descriptor.
const MAX_DEPTH: usize = 200;
/// What is passed on at once.
const PIECE: usize = 64 << 10;
/// A link's target that fits a header.
const SHORT: usize = 100;
/// File systems without files of anybody's (statfs(2)).
const MADE_UP: [i64; 9] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
];

/// Passes the archive of what is at `place` to `sink`, until that returns false.
///
/// # Errors
/// What could not be read; the archive is not whole then.
pub(crate) fn pack(
    place: &Place,
    owners: &Owners,
    sink: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<()> {
    let mut gone = false;
    let outcome = {
        let sink = Sink {
            sink,
            gone: &mut gone,
        };
        let mut packer = Packer {
            tar: Builder::new(BufWriter::with_capacity(PIECE, sink)),
            owners,
            links: HashMap::new(),
            path: place.name.clone(),
        };
        let device = place.stat.st_dev;
        packer
            .entry(place.fd.as_fd(), &place.stat, device, 0)
            .and_then(|()| {
                let end = packer.tar.into_inner().and_then(|mut out| out.flush());
                end.map_err(|e| Error::io("end the archive", e))
            })
    };
    // Nobody reads on: there is nobody to tell.
    if gone { Ok(()) } else { outcome }
}

struct Sink<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> bool,
    gone: &'a mut bool,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if *self.gone || !(self.sink)(bytes) {
            *self.gone = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Packer<'a, W: Write> {
    tar: Builder<W>,
    owners: &'a Owners,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Of the present entry, in the archive.
    path: Vec<u8>,
}

impl<W: Write> Packer<'_, W> {
    /// `at` is the entry itself, opened with `O_PATH`.
    fn entry(&mut self, at: BorrowedFd<'_>, stat: &Stat, device: u64, depth: usize) -> Result<()> {
        let mut header = self.header(stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.put(&mut header, io::empty())?;
                if stat.st_dev == device || !is_made_up(at) {
                    self.folder(at, stat.st_dev, depth)?;
                }
                Ok(())
            }
            FileType::RegularFile => self.file(at, stat, header),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(at, "", Vec::new())
                    .map_err(|e| self.failed("read", e))?;
                header.set_entry_type(EntryType::Symlink);
                self.link(&mut header, target.as_bytes())
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.put(&mut header, io::empty())
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                header.set_entry_type(if kind == FileType::BlockDevice {
                    EntryType::Block
                } else {
                    EntryType::Char
                });
                let set = header
                    .set_device_major(rustix::fs::major(stat.st_rdev))
                    .and_then(|()| header.set_device_minor(rustix::fs::minor(stat.st_rdev)));
                set.map_err(|e| self.failed("describe", e))?;
                self.put(&mut header, io::empty())
            }
            // A socket is nothing without its process.
            _ => Ok(()),
        }
    }

    fn folder(&mut self, at: BorrowedFd<'_>, device: u64, depth: usize) -> Result<()> {
        if depth >= MAX_DEPTH {
            return Err(Error::Unsupported(format!(
                "cannot copy {}: more than {MAX_DEPTH} directories are within each other",
                lossy(&self.path)
            )));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(at, ".", flags, Mode::empty())
            .map_err(|e| self.failed("open", e))?;
        let length = self.path.len();
        for name in self.names(&folder)? {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = match rustix::fs::openat(&folder, &*name, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(|e| self.failed("open what is in", e))?,
            };
            let stat = rustix::fs::fstat(&child).map_err(|e| self.failed("look at", e))?;
            self.path.push(b'/');
            self.path.extend_from_slice(name.as_bytes());
            self.entry(child.as_fd(), &stat, device, depth + 1)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn names(&self, folder: &OwnedFd) -> Result<Vec<std::ffi::CString>> {
        let mut names = Vec::new();
        let listing = Dir::read_from(folder).map_err(|e| self.failed("list", e))?;
        for entry in listing {
            let entry = entry.map_err(|e| self.failed("list", e))?;
            let name: &CStr = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn file(&mut self, at: BorrowedFd<'_>, stat: &Stat, mut header: Header) -> Result<()> {
        if stat.st_nlink > 1 {
            let first = self
                .links
                .entry((stat.st_dev, stat.st_ino))
                .or_insert_with(|| self.path.clone());
            if *first != self.path {
                let first = first.clone();
                header.set_entry_type(EntryType::Link);
                return self.link(&mut header, &first);
            }
        }
        // It is a file, and stays the one that it is.
        let link = format!("/proc/self/fd/{}", at.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(link, flags, Mode::empty())
            .map_err(|e| self.failed("open", e))?
            .into();
        // What is written meanwhile is not in it: the size stands in front.
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        header.set_size(size);
        self.put(&mut header, Exactly { file, left: size })
    }

    fn link(&mut self, header: &mut Header, target: &[u8]) -> Result<()> {
        if target.len() <= SHORT && header.set_link_name_literal(target).is_ok() {
            return self.put(header, io::empty());
        }
        let path = Path::new(OsStr::from_bytes(&self.path)).to_owned();
        let target = Path::new(OsStr::from_bytes(target));
        let put = self.tar.append_link(header, path, target);
        put.map_err(|e| self.failed("copy", e))
    }

    fn put(&mut self, header: &mut Header, contents: impl Read) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(&self.path)).to_owned();
        let put = self.tar.append_data(header, path, contents);
        put.map_err(|e| self.failed("copy", e))
    }

    fn header(&self, stat: &Stat) -> Header {
        let mut header = Header::new_gnu();
        let (uid, gid) = self.owners.inside(stat.st_uid, stat.st_gid);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
        header.set_size(0);
        header
    }

    fn failed(&self, what: &str, e: impl Into<io::Error>) -> Error {
        Error::io(format!("{what} {} of the container", lossy(&self.path)), e)
    }
}

fn is_made_up(at: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(at).is_ok_and(|s| MADE_UP.contains(&s.f_type))
}

/// As many bytes as were announced.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::other("it became shorter while it was copied"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
