//! The types that the Raft library is made concrete with.

use bytes::Bytes;

openraft::declare_raft_types!(
    /// Opaque commands and outcomes, numbered nodes (addresses are the transport's affair).
    pub(crate) Types:
        D = Bytes,
        R = Bytes,
        NodeId = u64,
        Node = openraft::EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
        AsyncRuntime = super::runtime::Runtime,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StorageIOError = openraft::StorageIOError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, openraft::EmptyNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::EmptyNode>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, openraft::EmptyNode>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<Types>;
pub(crate) type AppendResponse = openraft::raft::AppendEntriesResponse<u64>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<u64>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<u64>;
pub(crate) type SnapshotRequest = openraft::raft::InstallSnapshotRequest<Types>;
pub(crate) type SnapshotResponse = openraft::raft::InstallSnapshotResponse<u64>;
pub(crate) type RaftError<E = openraft::error::Infallible> = openraft::error::RaftError<u64, E>;
pub(crate) type RpcError<E = openraft::error::Infallible> =
    openraft::error::RPCError<u64, openraft::EmptyNode, RaftError<E>>;
