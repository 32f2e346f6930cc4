//! What is needed to make a layer's archive again, byte for byte, from its unpacked files: the headers and the
//! padding as they were, and in place of each file's contents a note of where they are. (The idea is tar-split's.)

use super::archive::digest_of;
use super::resolve;
use crate::{Error, Result};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
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
    let broken = |why: String| {
        Error::Internal(format!(
            "the layer {digest} is damaged on this host: {why}; remove its images and import them again"
        ))
    };
    let path = folder.join(super::RECORD);
    let file = File::open(&path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
    let mut record = GzDecoder::new(BufReader::new(file));
    let root = resolve::open_folder(&folder.join(super::TREE))?;
    let replaced = match resolve::open_folder(&folder.join(super::REPLACED)) {
        Ok(fd) => Some(fd),
        Err(e) if resolve::is_missing(&e) => None,
        Err(e) => return Err(e),
    };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut tag = [0];
    loop {
        match record.read(&mut tag) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) => return Err(broken(format!("its record cannot be read: {e}"))),
        }
        let mut part: Box<dyn Read> = match tag[0] {
            RAW => {
                let length = u32::from_le_bytes(
                    array(&mut record).map_err(|e| broken(format!("its record: {e}")))?,
                );
                Box::new((&mut record).take(u64::from(length)))
            }
            FILE => {
                let (size, file) = contents(&mut record, &root, replaced.as_ref())
                    .map_err(|e| broken(e.to_string()))?;
                Box::new(Exact { file, left: size })
            }
            other => return Err(broken(format!("its record has a part of the kind {other}"))),
        };
        loop {
            let read = part
                .read(&mut buffer)
                .map_err(|e| broken(format!("a part of it cannot be read: {e}")))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            if !sink(&buffer[..read]) {
                return Ok(());
            }
        }
    }
    let found = digest_of(hash);
    if found != digest {
        return Err(broken(format!("its files have changed, it is {found} now")));
    }
    Ok(())
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
) -> std::io::Result<(u64, File)> {
    let size = u64::from_le_bytes(array(record)?);
    let label = u64::from_le_bytes(array(record)?);
    let length = u32::from_le_bytes(array(record)?);
    let mut path = vec![0; usize::try_from(length.min(1 << 16)).unwrap_or(0)];
    record.read_exact(&mut path)?;
    if let Some(replaced) = replaced
        && let Ok(file) = resolve::open_exact(replaced, label.to_string().as_bytes())
    {
        return Ok((size, file.into()));
    }
    Ok((size, resolve::open_exact(root, &path)?.into()))
}

/// Exactly `left` bytes of a file; fewer are an error, and more as well.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(std::io::Error::other("a file of it is shorter than it was"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
