//! The format of a container's log. Pure, but for `writer`. Must not know who reads it.
//!
//! A log is a row of files, `log.0`, `log.1`, …, of which the newest two are kept. A file is a row of JSON
//! objects, one a line. A record holds what one `read` of the process's output gave, exactly: as `text` where
//! that is UTF-8, else as `base64`. It may hold several lines or a piece of one; `continues` tells that its
//! first bytes go on with a line that an earlier record of the same stream began.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use swarm_api::backend::LogStream;
use swarm_api::model::Timestamp;

mod writer;

pub(crate) use writer::LogWriter;

#[cfg(test)]
mod tests;

/// What one read of a process's output gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// When it was read.
    pub(crate) time: Timestamp,
    /// From where.
    pub(crate) stream: LogStream,
    /// The bytes.
    pub(crate) data: Vec<u8>,
    /// Whether the first bytes go on with a line.
    pub(crate) continues: bool,
}

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Output.
    Output(Record),
    /// So many bytes of output could not be written here.
    Lost {
        /// When writing was possible again.
        time: Timestamp,
        /// How many.
        bytes: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<LogStream>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

/// Appends one record's line to `out`.
pub(crate) fn encode(
    time: Timestamp,
    stream: LogStream,
    data: &[u8],
    continues: bool,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let text = std::str::from_utf8(data).ok();
    put(
        &Line {
            time,
            stream: Some(stream),
            continues,
            text: text.map(Cow::Borrowed),
            base64: text.is_none().then(|| BASE64.encode(data)),
            lost: None,
        },
        out,
    )
}

/// Appends the line that tells of bytes which are not there.
pub(crate) fn encode_lost(
    time: Timestamp,
    bytes: u64,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    put(
        &Line {
            time,
            stream: None,
            continues: false,
            text: None,
            base64: None,
            lost: Some(bytes),
        },
        out,
    )
}

fn put(line: &Line<'_>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.push(b'\n');
    Ok(())
}

/// Reads one line, with or without its end; nothing where it is none (a torn write after a power cut, or an
/// entry of a later version).
pub(crate) fn decode(line: &[u8]) -> Option<Entry> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    if let Some(bytes) = line.lost {
        return Some(Entry::Lost {
            time: line.time,
            bytes,
        });
    }
    let data = match (line.text, line.base64) {
        (Some(text), _) => text.into_owned().into_bytes(),
        (None, Some(base64)) => BASE64.decode(base64.as_bytes()).ok()?,
        (None, None) => return None,
    };
    Some(Entry::Output(Record {
        time: line.time,
        stream: line.stream?,
        data,
        continues: line.continues,
    }))
}

/// The name of the log's file of that number.
pub(crate) fn file_name(generation: u64) -> String {
    format!("log.{generation}")
}

/// The number in such a name.
pub(crate) fn generation(file_name: &str) -> Option<u64> {
    file_name.strip_prefix("log.")?.parse().ok()
}
