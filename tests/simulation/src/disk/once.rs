//! Large files that are the same on many hosts are in memory once. Nothing else follows from it: who changes such a file
//! writes another one.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Shorter ones are not worth it.
const LARGE: usize = 32 * 1024;
/// How many of those written last are looked at.
const LAST: usize = 8;

static WRITTEN: Mutex<VecDeque<Bytes>> = Mutex::new(VecDeque::new());

/// The content, or the same one of another host.
pub(super) fn once(content: Vec<u8>) -> Bytes {
    let content = Bytes::from(content);
    if content.len() < LARGE {
        return content;
    }
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = written.iter().find(|other| **other == content) {
        return same.clone();
    }
    written.push_back(content.clone());
    while written.len() > LAST {
        written.pop_front();
    }
    content
}
