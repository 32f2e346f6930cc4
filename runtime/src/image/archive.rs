//! Reads a tar archive (POSIX ustar and pax, GNU long names and sparse files) as a stream, with its digest and with a
//! record of everything in it that is not a file's contents. Must not know of file systems.

use super::record::Recorder;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::io::{BufRead, ErrorKind, Write};
use tar::{EntryType, GnuExtSparseHeader, Header};

const BLOCK: usize = 512;
/// The longest extension header (long names, extended attributes) that is held in memory.
const MAX_EXTENSION: u64 = 1 << 20;
const MAX_PATH: usize = 4096;
const MAX_SEGMENTS: usize = 1 << 16;
const MAX_ENTRIES: u64 = 4 << 20;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    /// A file with holes: where its data goes, and its whole size.
    Sparse {
        segments: Vec<(u64, u64)>,
        size: u64,
    },
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry; paths are as they stand in the archive and not to be trusted.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extension headers say of the entry after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar archive that is read once, from its start to its end.
pub(super) struct Archive<R, W: Write> {
    input: R,
    hash: Sha256,
    read: u64,
    entries: u64,
    /// Contents of the present entry that were not read yet, and the padding after them.
    remaining: u64,
    padding: u64,
    record: Recorder<W>,
}

/// What was read.
pub(super) struct Summary<W> {
    /// `sha256:…` of the uncompressed archive.
    pub(super) digest: String,
    /// Its bytes.
    pub(super) size: u64,
    /// Where the record was written.
    pub(super) record: W,
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("the tar archive is damaged: {what}"))
}

fn unreadable(e: &std::io::Error) -> Error {
    Error::Invalid(format!("the archive cannot be read: {e}"))
}

impl<R: BufRead, W: Write> Archive<R, W> {
    pub(super) fn new(input: R, record: W) -> Self {
        Self {
            input,
            hash: Sha256::new(),
            read: 0,
            entries: 0,
            remaining: 0,
            padding: 0,
            record: Recorder::new(record),
        }
    }

    /// The next entry, or none at the archive's end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Error::Invalid(format!(
                    "the archive has more than {MAX_ENTRIES} entries"
                )));
            }
            let size = header
                .entry_size()
                .map_err(|e| damaged(format!("a size cannot be read: {e}")))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.text(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.text(size)?),
                EntryType::XHeader => {
                    let data = self.extension(size)?;
                    extensions.read_pax(&data)?;
                }
                // Defaults for all that follow (pax), a volume's label (GNU): nothing of a root file system.
                EntryType::XGlobalHeader => {
                    self.extension(size)?;
                }
                other if other.as_byte() == b'V' => self.expect(size)?,
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Entry> {
        let path = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        if path.len() > MAX_PATH || link.len() > MAX_PATH {
            return Err(Error::Invalid(format!(
                "a path in the archive is longer than {MAX_PATH} bytes"
            )));
        }
        if path.contains(&0) || link.contains(&0) {
            return Err(damaged("a path has a zero byte in it"));
        }
        let mut size = extensions.size.unwrap_or(size);
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                // As the oldest tars write directories.
                if path.ends_with(b"/") && size == 0 {
                    EntryKind::Directory
                } else {
                    EntryKind::File
                }
            }
            EntryType::GNUSparse => self.sparse(header, size)?,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Char => EntryKind::CharDevice,
            EntryType::Block => EntryKind::BlockDevice,
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                return Err(Error::Invalid(format!(
                    "the archive's entry {} is of the type {:?}, which is not one of a root file system",
                    lossy(&path),
                    char::from(other.as_byte())
                )));
            }
        };
        if !matches!(kind, EntryKind::File | EntryKind::Sparse { .. }) {
            // Only headers: a size there says nothing of what follows (POSIX, pax).
            size = 0;
        }
        self.expect(size)?;
        let number = |value: Option<u64>, field: std::io::Result<u64>, name: &str| {
            let value = match value {
                Some(value) => value,
                None => field.map_err(|e| damaged(format!("{name} of {}: {e}", lossy(&path))))?,
            };
            u32::try_from(value)
                .map_err(|_| damaged(format!("{name} of {} is {value}", lossy(&path))))
        };
        let uid = number(extensions.uid, header.uid(), "the owner")?;
        let gid = number(extensions.gid, header.gid(), "the group")?;
        let device = |field: std::io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
        Ok(Entry {
            mode: number(None, header.mode().map(u64::from), "the mode")? & 0o7777,
            uid,
            gid,
            mtime: extensions
                .mtime
                .or_else(|| header.mtime().ok().map(|t| (t.cast_signed(), 0)))
                .unwrap_or_default(),
            device: (device(header.device_major()), device(header.device_minor())),
            xattrs: extensions.xattrs,
            kind,
            path,
            link,
        })
    }

    fn sparse(&mut self, header: &Header, size: u64) -> Result<EntryKind> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| damaged("a sparse file without GNU's header"))?;
        let mut segments = Vec::new();
        let mut add = |block: &tar::GnuSparseHeader| -> Result<()> {
            if !block.is_empty() {
                let field = |v: std::io::Result<u64>| {
                    v.map_err(|e| damaged(format!("a sparse file's map: {e}")))
                };
                segments.push((field(block.offset())?, field(block.length())?));
            }
            if segments.len() > MAX_SEGMENTS {
                return Err(damaged("a sparse file has too many parts"));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.fill(block.as_mut_bytes())? {
                return Err(damaged("it ends within a sparse file's map"));
            }
            block.sparse().iter().try_for_each(&mut add)?;
            more = block.is_extended();
        }
        let whole = gnu
            .real_size()
            .map_err(|e| damaged(format!("a sparse file's size: {e}")))?;
        let mut sum = 0u64;
        for (offset, length) in &segments {
            let end = offset.checked_add(*length).filter(|end| *end <= whole);
            sum = match (end, sum.checked_add(*length)) {
                (Some(_), Some(sum)) => sum,
                _ => return Err(damaged("a sparse file's part lies outside of it")),
            };
        }
        if sum != size {
            return Err(damaged("a sparse file's parts are not its size"));
        }
        Ok(EntryKind::Sparse {
            segments,
            size: whole,
        })
    }

    /// Reads the present entry's next contents into `buffer`; 0 at their end. They go into the record.
    pub(super) fn contents(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.some(buffer)?;
        self.record.raw(&buffer[..read])?;
        Ok(read)
    }

    /// Passes all of the present entry's contents to `sink`. They do not go into the record, which notes instead that
    /// they are in the file `path`, or, where that is replaced later, in the one kept as `label`.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        label: u64,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if self.remaining == 0 {
            return Ok(());
        }
        self.record.file(path, label, self.remaining)?;
        while self.remaining > 0 {
            // As it lies in the reader's own buffer.
            let bytes = loop {
                match self.input.fill_buf() {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(unreadable(&e)),
                    Ok(bytes) => break bytes,
                }
            };
            let most = usize::try_from(self.remaining).unwrap_or(usize::MAX);
            let bytes = &bytes[..bytes.len().min(most)];
            if bytes.is_empty() {
                return Err(damaged("it ends within an entry"));
            }
            self.hash.update(bytes);
            sink(bytes)?;
            let read = bytes.len();
            self.input.consume(read);
            self.read += read as u64;
            self.remaining -= read as u64;
        }
        Ok(())
    }

    /// Reads what follows the archive's end, and sums up.
    pub(super) fn finish(mut self) -> Result<Summary<W>> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = self.input_read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.hash.update(&buffer[..read]);
            self.read += read as u64;
            self.record.raw(&buffer[..read])?;
        }
        Ok(Summary {
            digest: digest_of(self.hash),
            size: self.read,
            record: self.record.finish()?,
        })
    }

    fn expect(&mut self, size: u64) -> Result<()> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| damaged("an entry's size is out of range"))?;
        self.remaining = size;
        self.padding = padded - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut buffer = [0; BLOCK];
        while self.contents(&mut buffer)? > 0 {}
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(0);
        // umoci leaves out the padding after the last entry, and Go's programs take that. What follows is the end then.
        if padding > 0 {
            self.fill(&mut buffer[..padding])?;
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let first = self.read == 0;
        let mut header = Header::new_old();
        let whole = match self.fill(header.as_mut_bytes()) {
            Err(Error::Invalid(_)) if first => {
                return Err(Error::Invalid(
                    "this is not a tar archive: it is shorter than one block of 512 bytes, or its compression is damaged"
                        .into(),
                ));
            }
            other => other?,
        };
        if !whole && first {
            return Err(Error::Invalid(
                "this is not a tar archive: it is empty".into(),
            ));
        }
        if !whole || header.as_bytes().iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148]
            .iter()
            .chain(&bytes[156..])
            .map(|b| u32::from(*b))
            .sum::<u32>()
            + 8 * 32;
        match header.cksum() {
            Ok(told) if told == sum => Ok(Some(header)),
            _ if first => Err(Error::Invalid(
                "this is not a tar archive; give a root file system as tar, plain or compressed with gzip"
                    .into(),
            )),
            _ => Err(damaged("a header's checksum is wrong")),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(Error::Invalid(format!(
                "the archive has an extension header of {size} bytes; at most {MAX_EXTENSION} are accepted"
            )));
        }
        self.expect(size)?;
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut at = 0;
        while at < data.len() {
            at += self.contents(&mut data[at..])?;
        }
        Ok(data)
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut text = self.extension(size)?;
        while text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }

    /// Some of the present entry's contents; 0 at their end.
    fn some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.input_read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(damaged("it ends within an entry"));
        }
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        self.remaining -= read as u64;
        Ok(read)
    }

    /// Fills `buffer`; whether it could. Nothing at all is the stream's end, a part of it is damage.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut at = 0;
        while at < buffer.len() {
            match self.input_read(&mut buffer[at..])? {
                0 if at == 0 => return Ok(false),
                0 => return Err(damaged("it ends within a block of 512 bytes")),
                read => at += read,
            }
        }
        self.hash.update(&*buffer);
        self.read += buffer.len() as u64;
        self.record.raw(buffer)?;
        Ok(true)
    }

    fn input_read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(&e)),
                Ok(read) => return Ok(read),
            }
        }
    }
}

impl Extensions {
    /// Reads `LENGTH KEY=VALUE\n` records (POSIX, pax Extended Header). Values may have any bytes in them.
    fn read_pax(&mut self, mut data: &[u8]) -> Result<()> {
        let bad = || damaged("a pax header cannot be read");
        while !data.is_empty() && data != [0] {
            let space = data.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let length: usize = std::str::from_utf8(&data[..space])
                .ok()
                .and_then(|t| t.parse().ok())
                .filter(|l| *l > space + 1 && *l <= data.len())
                .ok_or_else(bad)?;
            let record = data[space + 1..length]
                .strip_suffix(b"\n")
                .ok_or_else(bad)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = || {
            std::str::from_utf8(value)
                .ok()
                .and_then(|t| t.parse::<u64>().ok())
                .ok_or_else(|| damaged(format!("the pax header {} is not a number", lossy(key))))
        };
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = time(value),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(Error::Invalid(
                    "the archive has sparse files in the pax format, which is not supported; make it with `tar --format=gnu`, or without --sparse"
                        .into(),
                ));
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Seconds and nanoseconds of a decimal number of seconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().take(9).collect();
    let nanos: u32 = format!("{digits:0<9}").parse().ok()?;
    if nanos > 0 && whole.starts_with('-') {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos))
    } else {
        Some((seconds, nanos))
    }
}

/// `sha256:` and the digits.
pub(super) fn digest_of(hash: Sha256) -> String {
    format!(
        "sha256:{}",
        data_encoding::HEXLOWER.encode(hash.finalize().as_slice())
    )
}

/// A path for people.
pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}
