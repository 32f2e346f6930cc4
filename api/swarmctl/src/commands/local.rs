//! Files of this host as a tar archive, and back. The archive of a container is not to be trusted: nothing of it is written
//! outside of where it is meant to go.

use crate::failure;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use swarm_api::{BoxStream, Error};
use tar::{Archive, Builder, EntryType, Header};
use tokio::sync::mpsc;

/// Pieces that are under way.
const PIECES: usize = 8;
const PIECE: usize = 64 << 10;

/// Where an archive goes.
pub(super) enum Target {
    /// All of it, into this folder.
    Folder(PathBuf),
    /// Its only entry, as this file.
    File(PathBuf),
}

/// The last part of a path, also where it ends with `.` or `..`.
pub(super) fn name_of(path: &Path) -> Result<String> {
    let whole = match path.file_name() {
        Some(name) => PathBuf::from(name),
        None => path
            .canonicalize()
            .with_context(|| format!("cannot read {}", path.display()))?,
    };
    match whole.file_name() {
        Some(name) => Ok(name.to_string_lossy().into_owned()),
        None => bail!("/ has no name of its own: write /. for what is in it"),
    }
}

/// What is at `source` as an archive in which it is called `name`.
pub(super) fn read(
    source: PathBuf,
    name: String,
    follow: bool,
    owners: bool,
) -> BoxStream<swarm_api::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut reader = Reader {
            tar: Builder::new(BufWriter::with_capacity(PIECE, Sender(sender.clone()))),
            owners,
        };
        let read = reader.entry(&source, Path::new(&name), follow);
        let outcome = read.and_then(|()| {
            let end = reader.tar.into_inner().and_then(|mut out| out.flush());
            end.context("cannot end the archive")
        });
        if let Err(why) = outcome {
            let _ = sender.blocking_send(Err(Error::Invalid(format!("{why:#}"))));
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver).boxed()
}

struct Sender(mpsc::Sender<swarm_api::Result<Bytes>>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.0.blocking_send(Ok(piece)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader<W: Write> {
    tar: Builder<W>,
    owners: bool,
}

impl<W: Write> Reader<W> {
    fn entry(&mut self, path: &Path, name: &Path, follow: bool) -> Result<()> {
        let cannot = || format!("cannot read {}", path.display());
        let metadata = if follow {
            std::fs::metadata(path)
        } else {
            std::fs::symlink_metadata(path)
        };
        let metadata = metadata.with_context(cannot)?;
        let kind = metadata.file_type();
        let mut header = self.header(&metadata);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            let put = self.tar.append_data(&mut header, name, io::empty());
            put.with_context(cannot)?;
            let listing = std::fs::read_dir(path).with_context(cannot)?;
            let listing: io::Result<Vec<_>> = listing.collect();
            let mut entries = listing.with_context(cannot)?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                // Only what is named is followed: links within could lead in circles.
                self.entry(&entry.path(), &name.join(entry.file_name()), false)?;
            }
        } else if kind.is_file() {
            let file = File::open(path).with_context(cannot)?;
            let size = metadata.len();
            header.set_size(size);
            let contents = Exactly { file, left: size };
            let put = self.tar.append_data(&mut header, name, contents);
            put.with_context(cannot)?;
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).with_context(cannot)?;
            header.set_entry_type(EntryType::Symlink);
            let put = self.tar.append_link(&mut header, name, target);
            put.with_context(cannot)?;
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            let put = self.tar.append_data(&mut header, name, io::empty());
            put.with_context(cannot)?;
        } else {
            let path = path.display();
            failure::say(&format!("{path} is left out: it is a device or a socket"));
        }
        Ok(())
    }

    fn header(&self, metadata: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        let (uid, gid) = if self.owners {
            (metadata.uid(), metadata.gid())
        } else {
            (0, 0)
        };
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mode(metadata.permissions().mode() & 0o7777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
        header.set_size(0);
        header
    }
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
            return Err(io::Error::other("it became shorter meanwhile"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Writes an archive's files.
pub(super) async fn write(
    mut archive: BoxStream<swarm_api::Result<Bytes>>,
    target: Target,
    owners: bool,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let writer = tokio::task::spawn_blocking(move || {
        let input = Receiver {
            pieces: receiver,
            now: Bytes::new(),
            ended: false,
        };
        unpack(input, &target, owners)
    });
    let mut failure = None;
    loop {
        let piece = match archive.next().await {
            Some(Ok(piece)) => Some(piece),
            Some(Err(why)) => {
                failure = Some(why);
                break;
            }
            None => None,
        };
        let ended = piece.is_none();
        if sender.send(piece).await.is_err() || ended {
            break;
        }
    }
    drop(sender);
    let written = writer.await.context("the thread that writes files ended")?;
    match failure {
        Some(why) => Err(why.into()),
        None => written,
    }
}

struct Receiver {
    /// None is the archive's end.
    pieces: mpsc::Receiver<Option<Bytes>>,
    now: Bytes,
    ended: bool,
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.now = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the archive broke off")),
            }
        }
        let length = self.now.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.now.split_to(length));
        Ok(length)
    }
}

fn unpack(input: impl Read, target: &Target, owners: bool) -> Result<()> {
    let mut archive = Archive::new(input);
    archive.set_preserve_ownerships(owners);
    archive.set_unpack_xattrs(false);
    let damaged = "cannot read what the agent sends";
    for entry in archive.entries().context(damaged)? {
        let mut entry = entry.context(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            failure::say(&format!("{name} is left out: it is a device or a pipe"));
            continue;
        }
        match target {
            Target::File(path) => {
                if kind.is_dir() {
                    bail!("{name} has become a directory meanwhile; copy it again");
                }
                let written = entry.unpack(path);
                written.with_context(|| format!("cannot write {}", path.display()))?;
                // There is no other.
                return Ok(());
            }
            Target::Folder(folder) => {
                let cannot = || format!("cannot write {name} to {}", folder.display());
                if !entry.unpack_in(folder).with_context(cannot)? {
                    bail!("{}: it would lead out of it", cannot());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{TryStreamExt, stream};
    use std::os::unix::fs::symlink;

    async fn packed(source: &Path, name: &str) -> Vec<u8> {
        let archive = read(source.into(), name.into(), false, false);
        let pieces: Vec<Bytes> = archive.try_collect().await.unwrap();
        pieces.concat()
    }

    fn again(archive: Vec<u8>) -> BoxStream<swarm_api::Result<Bytes>> {
        stream::iter([Ok(archive.into())]).boxed()
    }

    #[tokio::test]
    async fn a_folder_is_the_same_there_and_back() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| from.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        let long = "x".repeat(PIECE * 3 + 1);
        std::fs::write(at("a/b/long"), &long).unwrap();
        std::fs::write(at("a/run"), "").unwrap();
        std::fs::set_permissions(at("a/run"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("b/long", at("a/link")).unwrap();
        let archive = packed(&at("a"), "other").await;
        write(again(archive), Target::Folder(to.path().into()), false)
            .await
            .unwrap();
        let out = |name: &str| to.path().join("other").join(name);
        assert_eq!(std::fs::read_to_string(out("b/long")).unwrap(), long);
        assert_eq!(
            std::fs::read_link(out("link")).unwrap(),
            Path::new("b/long")
        );
        let mode = std::fs::metadata(out("run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[tokio::test]
    async fn a_container_s_archive_writes_nothing_elsewhere() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["../out", "link/out"] {
            let mut tar = Builder::new(Vec::new());
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, "link", outside.path())
                .unwrap();
            let mut header = Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            // What no honest program writes.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, &b"x"[..]).unwrap();
            let archive = tar.into_inner().unwrap();
            let target = Target::Folder(folder.path().into());
            let why = write(again(archive), target, false).await.unwrap_err();
            assert!(format!("{why:#}").contains(name), "{why:#}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(!folder.path().join("../out").exists());
    }

    #[test]
    fn a_path_has_a_name_also_where_it_ends_with_dots() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let name = |path: &str| name_of(&folder.path().join(path)).unwrap();
        assert_eq!(
            (name("a/"), name("a/b/.."), name("a/.")),
            ("a".into(), "a".into(), "a".into())
        );
        assert!(name_of(Path::new("/")).is_err());
    }
}
