//! Archives of images that come with the binary: the same bytes on every host, so that the digest is the same.

use crate::{Error, Result};
use tar::{EntryType, Header};

/// A tar archive of `files` (path, mode, contents) in this order; owned by root, of the year 1970.
pub(super) fn archive(files: &[(String, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (path, mode, contents) in files {
        let mut header = Header::new_ustar();
        header
            .set_path(path)
            .map_err(|e| Error::Internal(format!("a built-in image cannot have {path}: {e}")))?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(contents);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    Ok(out)
}
