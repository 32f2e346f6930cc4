//! What a container has changed, as a layer's archive: overlayfs' devices and attributes become whiteouts (OCI image-spec,
//! layer.md). The folder may be a running container's: no symbolic link of it is followed, and what vanishes or shrinks
//! meanwhile spoils nothing.

use super::copy::read_attributes;
use crate::{Error, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Folders within folders; more are nobody's data.
const MAX_DEPTH: usize = 256;
/// The largest number in a field of ustar for an owner, and for a size.
const MAX_OWNER: u32 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// Whose files are whose: those of `first` and on are of 0 and on in the container.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Owners {
    pub(crate) first: u32,
}

impl Owners {
    fn of(self, id: u32) -> u32 {
        id.checked_sub(self.first).unwrap_or(id)
    }
}

/// Passes the archive of what is in `upper` to `sink`, until that returns false. Entries are in the order of their names.
///
/// # Errors
/// [`Error::Unsupported`] where overlayfs has notes in it that say something else than the files do.
pub(crate) fn archive(
    upper: &OwnedFd,
    owners: Owners,
    sink: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<()> {
    let mut writer = Writer {
        sink,
        open: true,
        owners,
        links: HashMap::new(),
    };
    writer.folder(upper.as_fd(), &mut Vec::new())?;
    writer.put(&[0; 2 * BLOCK as usize]);
    Ok(())
}

/// What the runtime itself puts in the way of a container's own files, for mounts.
fn is_mount_point(path: &[u8], stat: &Stat) -> bool {
    let made: [&[u8]; 3] = [b"etc/resolv.conf", b"etc/hosts", b"etc/hostname"];
    stat.st_size == 0 && made.contains(&path)
}

struct Writer<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> bool,
    /// Whether somebody reads on.
    open: bool,
    owners: Owners,
    /// The first name of a file that has several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// What is said of one entry.
struct Entry<'a> {
    kind: EntryType,
    path: &'a [u8],
    link: &'a [u8],
    size: u64,
    stat: &'a Stat,
    attributes: Vec<(CString, Vec<u8>)>,
}

fn failed(path: &[u8], e: impl Into<std::io::Error>) -> Error {
    Error::io(format!("read the container's /{}", lossy(path)), e)
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Writer<'_> {
    fn folder(&mut self, folder: BorrowedFd<'_>, path: &mut Vec<u8>) -> Result<()> {
        if path.iter().filter(|b| **b == b'/').count() > MAX_DEPTH {
            return Err(Error::Unsupported(format!(
                "the container's folders are too deep: /{}",
                lossy(path)
            )));
        }
        let of = |e: Errno| failed(path, e);
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(folder).map_err(of)? {
            let entry = entry.map_err(of)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        for name in names {
            if !self.open {
                return Ok(());
            }
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            self.one(folder, &name, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn one(&mut self, folder: BorrowedFd<'_>, name: &CStr, path: &mut Vec<u8>) -> Result<()> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(failed(path, e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return self.whiteout(path, name, &stat);
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let link = first.clone();
                return self.plain(EntryType::Link, path, &link, &stat);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        match kind {
            FileType::Directory => self.directory(folder, name, path, &stat),
            FileType::RegularFile => self.file(folder, name, path, &stat),
            FileType::Symlink => {
                match rustix::fs::readlinkat(folder, name, Vec::new()) {
                    Ok(target) => self.plain(EntryType::Symlink, path, target.as_bytes(), &stat),
                    // It is something else now.
                    Err(Errno::NOENT | Errno::INVAL) => Ok(()),
                    Err(e) => Err(failed(path, e)),
                }
            }
            FileType::Fifo => self.plain(EntryType::Fifo, path, b"", &stat),
            FileType::CharacterDevice => self.plain(EntryType::Char, path, b"", &stat),
            FileType::BlockDevice => self.plain(EntryType::Block, path, b"", &stat),
            // A socket is of its process.
            _ => Ok(()),
        }
    }

    fn directory(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CStr,
        path: &mut Vec<u8>,
        stat: &Stat,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(failed(path, e)),
        };
        refuse_notes(fd.as_fd(), path)?;
        let mut named = path.clone();
        named.push(b'/');
        self.entry(&Entry {
            kind: EntryType::Directory,
            path: &named,
            link: b"",
            size: 0,
            stat,
            attributes: read_attributes(fd.as_fd()).map_err(|e| failed(path, e))?,
        })?;
        if is_opaque(fd.as_fd()) {
            named.extend_from_slice(b".wh..wh..opq");
            self.marker(&named, stat)?;
        }
        self.folder(fd.as_fd(), path)
    }

    fn file(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        if is_mount_point(path, stat) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(e) => return Err(failed(path, e)),
        };
        let now = rustix::fs::fstat(&fd).map_err(|e| failed(path, e))?;
        if FileType::from_raw_mode(now.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        refuse_notes(fd.as_fd(), path)?;
        let size = u64::try_from(now.st_size).unwrap_or(0);
        self.entry(&Entry {
            kind: EntryType::Regular,
            path,
            link: b"",
            size,
            stat: if now.st_ino == stat.st_ino {
                stat
            } else {
                &now
            },
            attributes: read_attributes(fd.as_fd()).map_err(|e| failed(path, e))?,
        })?;
        let mut file = File::from(fd).take(size);
        let mut buffer = vec![0; 128 << 10];
        let mut left = size;
        while left > 0 && self.open {
            let mut read = file.read(&mut buffer).map_err(|e| failed(path, e))?;
            if read == 0 {
                // It has shrunk.
                buffer.fill(0);
                read = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
            }
            self.put(&buffer[..read]);
            left -= read as u64;
        }
        self.pad(size);
        Ok(())
    }

    fn plain(&mut self, kind: EntryType, path: &[u8], link: &[u8], stat: &Stat) -> Result<()> {
        self.entry(&Entry {
            kind,
            path,
            link,
            size: 0,
            stat,
            attributes: Vec::new(),
        })
    }

    fn whiteout(&mut self, path: &[u8], name: &CStr, stat: &Stat) -> Result<()> {
        let above = path.len() - name.to_bytes().len();
        let mut marker = path[..above].to_vec();
        marker.extend_from_slice(b".wh.");
        marker.extend_from_slice(name.to_bytes());
        self.marker(&marker, stat)
    }

    fn marker(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        self.plain(EntryType::Regular, path, b"", stat)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let (uid, gid) = (
            self.owners.of(entry.stat.st_uid),
            self.owners.of(entry.stat.st_gid),
        );
        let mut pax = Vec::new();
        if entry.path.len() > 100 {
            record(&mut pax, b"path", entry.path);
        }
        if entry.link.len() > 100 {
            record(&mut pax, b"linkpath", entry.link);
        }
        if entry.size > MAX_SIZE {
            record(&mut pax, b"size", entry.size.to_string().as_bytes());
        }
        for (key, id) in [("uid", uid), ("gid", gid)] {
            if id > MAX_OWNER {
                record(&mut pax, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if entry.stat.st_mtime_nsec > 0 || entry.stat.st_mtime < 0 {
            let time = format!("{}.{:09}", entry.stat.st_mtime, entry.stat.st_mtime_nsec);
            if entry.stat.st_mtime >= 0 {
                record(&mut pax, b"mtime", time.as_bytes());
            }
        }
        for (name, value) in &entry.attributes {
            let key = [b"SCHILY.xattr.", name.as_bytes()].concat();
            record(&mut pax, &key, value);
        }
        if !pax.is_empty() {
            let mut header = Header::new_ustar();
            header.as_mut_bytes()[..9].copy_from_slice(b"PaxHeader");
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o644);
            numbers(&mut header, 0, 0, pax.len() as u64, 0);
            self.header(&mut header);
            self.put(&pax);
            self.pad(pax.len() as u64);
        }
        let mut header = Header::new_ustar();
        text(&mut header.as_mut_bytes()[..100], entry.path);
        text(&mut header.as_mut_bytes()[157..257], entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.stat.st_mode & 0o7777);
        let mtime = u64::try_from(entry.stat.st_mtime).unwrap_or(0);
        numbers(&mut header, uid, gid, entry.size, mtime);
        if matches!(entry.kind, EntryType::Char | EntryType::Block) {
            let device = entry.stat.st_rdev;
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            let set = header
                .set_device_major(major)
                .and_then(|()| header.set_device_minor(minor));
            set.map_err(|e| Error::Internal(format!("a device cannot be written: {e}")))?;
        }
        self.header(&mut header);
        Ok(())
    }

    fn header(&mut self, header: &mut Header) {
        header.set_cksum();
        self.put(header.as_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.open = self.open && (self.sink)(bytes);
    }

    fn pad(&mut self, size: u64) {
        let padding = size.next_multiple_of(BLOCK) - size;
        self.put(&[0; BLOCK as usize][..usize::try_from(padding).unwrap_or(0)]);
    }
}

fn numbers(header: &mut Header, uid: u32, gid: u32, size: u64, mtime: u64) {
    header.set_uid(u64::from(uid.min(MAX_OWNER)));
    header.set_gid(u64::from(gid.min(MAX_OWNER)));
    header.set_size(size.min(MAX_SIZE));
    header.set_mtime(mtime.min(MAX_SIZE));
}

fn text(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// `LENGTH KEY=VALUE\n`, the length being that of the whole (POSIX, pax Extended Header).
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn attribute(fd: BorrowedFd<'_>, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::fgetxattr(fd, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_opaque(fd: BorrowedFd<'_>) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| attribute(fd, name).as_deref() == Some(b"y"))
}

/// Notes of overlayfs, by which a file is not what it seems: they come only with mount options that are not used here,
/// or with a kernel that has them by default.
fn refuse_notes(fd: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
    for note in ["redirect", "metacopy"] {
        for space in ["trusted", "user"] {
            if attribute(fd, &format!("{space}.overlay.{note}")).is_some() {
                return Err(Error::Unsupported(format!(
                    "the container's /{} was changed in a way that cannot be put into a layer: this kernel's overlayfs has \
                     {note} turned on (/sys/module/overlay/parameters); turn it off and start the task again",
                    lossy(path)
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::resolve::open_folder;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::path::Path;

    fn bytes(upper: &Path, owners: Owners) -> Vec<u8> {
        let mut all = Vec::new();
        archive(&open_folder(upper).unwrap(), owners, &mut |bytes| {
            all.extend_from_slice(bytes);
            true
        })
        .unwrap();
        all
    }

    #[test]
    fn a_record_s_length_counts_itself() {
        for size in [1, 80, 90, 93, 94, 95, 990, 985] {
            let mut out = Vec::new();
            record(&mut out, b"key", &vec![b'x'; size]);
            let text = String::from_utf8(out.clone()).unwrap();
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), out.len());
        }
    }

    /// As root only.
    #[test]
    fn what_a_container_changed_is_unpacked_as_it_was() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("upper");
        let long = "n".repeat(180);
        std::fs::create_dir_all(upper.join("var").join(&long)).unwrap();
        std::fs::create_dir_all(upper.join("etc")).unwrap();
        std::fs::write(upper.join("etc/hosts"), "").unwrap();
        std::fs::write(upper.join("etc/hostname"), "own\n").unwrap();
        std::fs::write(upper.join("var").join(&long).join("data"), vec![7; 200_000]).unwrap();
        std::fs::hard_link(
            upper.join("var").join(&long).join("data"),
            upper.join("var/same"),
        )
        .unwrap();
        std::os::unix::fs::symlink("/outside", upper.join("link")).unwrap();
        let file = upper.join("var/set-id");
        std::fs::write(&file, "x").unwrap();
        chown(&file, Some(0x4000_0005), Some(0x4000_0006)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).unwrap();
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&file, "user.note", b"a\nb\0c", none).unwrap();
        let gone = upper.join("var/gone");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &gone,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        rustix::fs::setxattr(upper.join("etc"), "trusted.overlay.opaque", b"y", none).unwrap();
        std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();

        let all = bytes(&upper, Owners { first: 0x4000_0000 });
        assert_eq!(all, bytes(&upper, Owners { first: 0x4000_0000 }));
        let mut names: Vec<String> = tar::Archive::new(all.as_slice())
            .entries()
            .unwrap()
            .map(|e| lossy(&e.unwrap().path_bytes()))
            .collect();
        names.retain(|n| !n.contains(&long));
        assert_eq!(
            names,
            [
                "etc/",
                "etc/.wh..wh..opq",
                "etc/hostname",
                "link",
                "var/",
                "var/.wh.gone",
                "var/same",
                "var/set-id"
            ]
        );
        let store = crate::image::Store::open(&dir.path().join("data")).unwrap();
        let layer = store.inner.unpack(all.as_slice(), None).unwrap();
        let root = store.layer_dirs(&[layer.digest]).unwrap().remove(0);
        let data = root.join("var").join(&long).join("data");
        let meta = std::fs::metadata(&data).unwrap();
        let same = std::fs::metadata(root.join("var/same")).unwrap();
        assert_eq!((meta.len(), meta.ino()), (200_000, same.ino()));
        let meta = std::fs::metadata(root.join("var/set-id")).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (5, 6, 0o4755)
        );
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(root.join("var/set-id"), "user.note", &mut value);
        assert_eq!(&value[..length.unwrap()], b"a\nb\0c");
        let meta = std::fs::symlink_metadata(root.join("var/gone")).unwrap();
        assert_eq!(
            (meta.rdev(), meta.mode() & libc::S_IFMT),
            (0, libc::S_IFCHR)
        );
        assert!(is_opaque(open_folder(&root.join("etc")).unwrap().as_fd()));
    }
}
