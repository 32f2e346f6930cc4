//! The messages between nodes, as bytes: a version, then postcard.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{
    AppendRequest, AppendResponse, SnapshotRequest, SnapshotResponse, VoteRequest, VoteResponse,
};
use super::witness::Testimony;
use crate::Error;

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Append(AppendRequest),
    Vote {
        request: VoteRequest,
        /// The leader itself asked for this election.
        handover: bool,
    },
    PreVote {
        /// Term and index of the candidate's last entry.
        last_log: Option<(u64, u64)>,
    },
    Snapshot(SnapshotRequest),
    /// From the leader that wants to go: stand for election now.
    StandForElection,
    /// From a node that has opened its log: what is known of it? `lost`: it is not what it was.
    Witness {
        from: u64,
        lost: bool,
    },
}

#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    Append(AppendResponse),
    Vote(VoteResponse),
    PreVote {
        granted: bool,
    },
    Snapshot(Result<SnapshotResponse, openraft::error::InstallSnapshotError>),
    StandForElection,
    /// The other side could not do it, and why.
    Failed(String),
    Witness(Testimony),
}

pub(crate) fn encode(message: &impl Serialize) -> Result<Bytes, Error> {
    postcard::to_extend(message, vec![VERSION])
        .map(Bytes::from)
        .map_err(|e| Error::Malformed(format!("encoding: {e}")))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|e| Error::Malformed(e.to_string()))
        }
        Some((version, _)) => Err(Error::Malformed(format!(
            "version {version}, this node speaks {VERSION}"
        ))),
        None => Err(Error::Malformed("it is empty".into())),
    }
}
