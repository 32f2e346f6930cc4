//! What fuzzers call here; see `crate::fuzz`.
#![allow(clippy::unwrap_used)]

use super::{RECORD, REPLACED, TREE, archive::Archive, record, unpack::unpack};
use crate::Error;
use crate::fuzz::{Bytes, Sandbox};

const BLOCK: usize = 512;

/// A layer's archive. Nothing is made outside of its folder, and what was unpacked gives the same archive again. The first byte says
/// whether the headers' checksums are put right before; hardly any change of a good archive would be looked at otherwise.
///
/// Making the nodes of a layer takes root; without, nothing is done.
pub fn layer(data: &[u8]) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bytes = Bytes(data);
    let repair = !bytes.byte().is_multiple_of(4);
    let mut archive = bytes.0.to_vec();
    if repair {
        put_right(&mut archive);
    }
    let sandbox = Sandbox::new();
    let folder = sandbox.root();
    std::fs::create_dir(folder.join(TREE)).unwrap();
    let record = std::fs::File::create(folder.join(RECORD)).unwrap();
    let mut reader = Archive::new(&archive[..], record);
    let done = unpack(&mut reader, &folder.join(TREE), &folder.join(REPLACED));
    sandbox.check();
    match done {
        Ok(()) => {}
        // What must never be.
        Err(Error::Internal(why)) => panic!("{why}"),
        Err(_) => return,
    }
    let Ok(summary) = reader.finish() else {
        return;
    };
    assert_eq!(summary.size, archive.len() as u64);
    let mut again = Vec::new();
    record::rebuild(&folder, &summary.digest, |bytes| {
        again.extend_from_slice(bytes);
        true
    })
    .unwrap();
    assert!(again == archive, "another archive came out");
}

/// Makes the checksums of all headers right, from the first on; where contents are, nothing is changed.
fn put_right(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + BLOCK) {
        if block.iter().all(|b| *b == 0) {
            return;
        }
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let kind = header.entry_type();
        let has_contents = kind.is_file()
            || kind.is_gnu_sparse()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_contiguous();
        let size = if has_contents {
            header.entry_size().unwrap_or(0)
        } else {
            0
        };
        let Some(next) = usize::try_from(size)
            .ok()
            .and_then(|size| size.checked_next_multiple_of(BLOCK))
            .and_then(|size| size.checked_add(at + BLOCK))
        else {
            return;
        };
        at = next;
    }
}
