//! What is needed to make a layer's archive again, byte for byte, from its unpacked files: the headers and the
//! padding as they were, and in place of each file's contents a note of where they are. (The idea is tar-split's.)

use super::archive::digest_of;
use super::resolve;
use crate::{Error, Result};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

const RAW: u8 = 0;
const FILE: u8 = 1;
const CHUNK: usize = 64 << 10;

fn writing(e: std::io::Error) -> Error {
    Error::io("write a layer's record", e)
}

/// Writes a record.
pub(super) struct Recorder<W: Write> {
    out: GzEncoder<BufWriter<W>>,
    raw: Vec<u8>,
}

impl<W: Write> Recorder<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out: GzEncoder::new(BufWriter::new(out), Compression::fast()),
            raw: Vec::new(),
        }
    }

    /// Bytes of the archive as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    /// `size` bytes that are the contents of the file `path`, or of the replaced file `label`.
    pub(super) fn file(&mut self, path: &[u8], label: u64, size: u64) -> Result<()> {
        self.flush()?;
        let length = u32::try_from(path.len()).unwrap_or(u32::MAX);
        let mut head = vec![FILE];
        head.extend_from_slice(&size.to_le_bytes());
        head.extend_from_slice(&label.to_le_bytes());
        head.extend_from_slice(&length.to_le_bytes());
        head.extend_from_slice(path);
        self.out.write_all(&head).map_err(writing)
    }

    fn flush(&mut self) -> Result<()> {
        for part in self.raw.chunks(CHUNK) {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            self.out.write_all(&[RAW]).map_err(writing)?;
            self.out.write_all(&length.to_le_bytes()).map_err(writing)?;
            self.out.write_all(part).map_err(writing)?;
        }
        self.raw.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<W> {
        self.flush()?;
        let buffered = self.out.finish().map_err(writing)?;
        buffered.into_inner().map_err(|e| writing(e.into_error()))
    }
}

/// Makes the archive of the layer in `folder` again and passes it to `sink`, until that returns false.
///
/// # Errors
/// [`Error::Internal`] when what comes out has not the digest `digest`, known only at the end.
pub(super) fn rebuild(
    folder: &Path,
    digest: &str,
    mut sink: impl FnMut(&[u8]) -> bool,
) -> Result<()> {
    let (mut hash, mut open) = (Sha256::new(), true);
    read_back(folder, digest, |piece| {
        hash.update(&piece);
        open = sink(&piece);
        open
    })?;
    let found = digest_of(hash);
    if open && found != digest {
        let why = format!("its files have changed, it is {found} now");
        return Err(damaged(digest, &why));
    }
    Ok(())
}

/// As [`rebuild`], for one who checks the digest: what comes out may be something else where files have changed.
///
/// # Errors
/// [`Error::Internal`] when the archive cannot be made.
pub(super) fn read_back(
    folder: &Path,
    digest: &str,
    sink: impl FnMut(Bytes) -> bool,
) -> Result<()> {
    let broken = |why: std::io::Error| damaged(digest, &why);
    let path = folder.join(super::RECORD);
    let file = File::open(&path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
    let mut record = GzDecoder::new(BufReader::new(file));
    let root = resolve::open_folder(&folder.join(super::TREE))?;
    let replaced = match resolve::open_folder(&folder.join(super::REPLACED)) {
        Ok(fd) => Some(fd),
        Err(e) if resolve::is_missing(&e) => None,
        Err(e) => return Err(e),
    };
    let mut out = Pieces {
        piece: Vec::with_capacity(CHUNK),
        sink,
        open: true,
    };
    let mut tag = [0];
    while out.open && record.read(&mut tag).map_err(broken)? > 0 {
        match tag[0] {
            RAW => {
                let length = u32::from_le_bytes(array(&mut record).map_err(broken)?);
                out.copy(&mut record, u64::from(length)).map_err(broken)?;
            }
            FILE => {
                let (size, file) =
                    contents(&mut record, &root, replaced.as_ref()).map_err(broken)?;
                out.file(&file, size).map_err(broken)?;
            }
            other => {
                let why = format!("its record has a part of the kind {other}");
                return Err(damaged(digest, &why));
            }
        }
    }
    out.flush();
    Ok(())
}

fn damaged(digest: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Internal(format!(
        "the layer {digest} is damaged on this host: {why}; remove its images and import them again"
    ))
}

/// An archive in pieces of one size, however small its parts are; files are read into them without a copy.
struct Pieces<S> {
    piece: Vec<u8>,
    sink: S,
    /// Whether more is wanted.
    open: bool,
}

impl<S: FnMut(Bytes) -> bool> Pieces<S> {
    fn flush(&mut self) {
        if self.open && !self.piece.is_empty() {
            let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(CHUNK));
            self.open = (self.sink)(piece.into());
        }
    }

    /// The room in the piece for what is `left`; never none where there is something left.
    fn room(&mut self, left: u64) -> usize {
        if self.piece.len() >= CHUNK {
            self.flush();
        }
        let room = CHUNK.saturating_sub(self.piece.len());
        usize::try_from(left).map_or(room, |left| left.min(room))
    }

    fn copy(&mut self, from: &mut impl Read, mut left: u64) -> std::io::Result<()> {
        while left > 0 && self.open {
            let room = self.room(left) as u64;
            let read = from.take(room).read_to_end(&mut self.piece)? as u64;
            if read < room {
                return Err(std::io::Error::other("its record is shorter than it was"));
            }
            left -= read;
        }
        Ok(())
    }

    fn file(&mut self, file: &OwnedFd, mut left: u64) -> std::io::Result<()> {
        while left > 0 && self.open {
            self.room(left);
            let before = self.piece.len();
            let free = spare_capacity(&mut self.piece);
            let read = match rustix::io::read(file, free) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if read == 0 {
                return Err(std::io::Error::other("a file of it is shorter than it was"));
            }
            // It may be longer than it was.
            let wanted = usize::try_from(left).map_or(read, |left| left.min(read));
            self.piece.truncate(before + wanted);
            left -= wanted as u64;
        }
        Ok(())
    }
}

fn array<const N: usize>(record: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    record.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn contents(
    record: &mut impl Read,
    root: &OwnedFd,
    replaced: Option<&OwnedFd>,
) -> std::io::Result<(u64, OwnedFd)> {
    let size = u64::from_le_bytes(array(record)?);
    let label = u64::from_le_bytes(array(record)?);
    let length = u32::from_le_bytes(array(record)?);
    let mut path = vec![0; usize::try_from(length.min(1 << 16)).unwrap_or(0)];
    record.read_exact(&mut path)?;
    if let Some(replaced) = replaced
        && let Ok(file) = resolve::open_exact(replaced, label.to_string().as_bytes())
    {
        return Ok((size, file));
    }
    Ok((size, resolve::open_exact(root, &path)?))
}
