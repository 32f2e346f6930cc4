//! Answers the messages of other nodes.

use openraft::error::Fatal;
use tokio::time::Instant;

use super::Running;
use super::driver::last_log;
use super::shared::Shared;
use super::types::{AppendRequest, AppendResponse, RaftError, SnapshotRequest, VoteResponse};
use super::wire::{Reply, Request};
use crate::{Error, Replica};
use std::sync::Arc;

pub(crate) struct Handler<'a> {
    pub(crate) running: Running,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) replica: &'a Replica,
    /// Whether this node leads with the support of a quorum.
    pub(crate) leads: bool,
}

impl Handler<'_> {
    pub(crate) async fn answer(&self, request: Request) -> Reply {
        if !self.shared.is_trusted() {
            return Reply::Failed("that node is asking the others about its log".into());
        }
        let answer = match request {
            Request::Witness { .. } => Err("it is answered before".into()),
            Request::Append(request) => self.append(request).await,
            Request::Vote { request, handover } => {
                let lease = {
                    let (mut election, now) = self.shared.election();
                    if handover {
                        election.leader_left();
                    }
                    !handover && (self.leads || election.leader_alive(now))
                };
                let asks = request.last_log_id.map(|id| (id.leader_id.term, id.index));
                if lease || self.shared.is_below_floor(asks) {
                    // Not for the library to see: it would adopt the candidate's term.
                    let (vote, last) = (self.running.log.vote(), self.running.log.last());
                    Ok(Reply::Vote(VoteResponse::new(vote, last, false)))
                } else {
                    if asks >= last_log(&self.running.log) {
                        // It will most likely get this node's vote. Not only once that is on the disk: this node must
                        // not stand itself meanwhile.
                        let (mut election, now) = self.shared.election();
                        election.voted(now);
                    }
                    let response = self.running.raft.vote(request).await;
                    response.map(Reply::Vote).map_err(fatal)
                }
            }
            Request::PreVote {
                last_log: candidate,
            } => {
                let own = last_log(&self.running.log);
                let (election, now) = self.shared.election();
                Ok(Reply::PreVote {
                    granted: !self.shared.is_following()
                        && !self.shared.is_below_floor(candidate)
                        && election.would_grant(now, self.leads, candidate, own),
                })
            }
            Request::Snapshot(request) => self.snapshot(request).await,
            Request::StandForElection if self.shared.declines() => {
                Err("it is about to leave itself".into())
            }
            Request::StandForElection => {
                self.shared.stand_for_leader();
                let triggered = self.running.raft.trigger().elect().await;
                triggered
                    .map(|()| Reply::StandForElection)
                    .map_err(|e| e.to_string())
            }
        };
        match answer {
            Ok(reply) => {
                if let Reply::Vote(response) = &reply
                    && response.vote_granted
                {
                    let (mut election, now) = self.shared.election();
                    election.voted(now);
                }
                reply
            }
            Err(why) => Reply::Failed(why),
        }
    }

    async fn append(&self, request: AppendRequest) -> Result<Reply, String> {
        let _following = self.shared.following();
        let received = Instant::now();
        let committed = request.leader_commit;
        let response = self
            .running
            .raft
            .append_entries(request)
            .await
            .map_err(fatal)?;
        if !matches!(response, AppendResponse::HigherVote(_)) {
            self.heard_leader();
            if committed.is_none_or(|id| self.replica.applied_index() >= id.index) {
                self.replica.mark_fresh(received);
            }
        }
        // The answer says that the entries are safe here.
        self.running
            .log
            .flushed()
            .await
            .map_err(|e| e.to_string())?;
        Ok(Reply::Append(response))
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<Reply, String> {
        let _following = self.shared.following();
        let vote = request.vote;
        match self.running.raft.install_snapshot(request).await {
            Ok(response) => {
                if response.vote <= vote {
                    self.heard_leader();
                }
                self.running
                    .log
                    .flushed()
                    .await
                    .map_err(|e: Error| e.to_string())?;
                Ok(Reply::Snapshot(Ok(response)))
            }
            Err(RaftError::APIError(e)) => Ok(Reply::Snapshot(Err(e))),
            Err(RaftError::Fatal(e)) => Err(e.to_string()),
        }
    }

    fn heard_leader(&self) {
        let (mut election, now) = self.shared.election();
        election.heard_leader(now);
    }
}

fn fatal(e: openraft::error::RaftError<u64>) -> String {
    match e {
        RaftError::Fatal(Fatal::Stopped) => "Raft is stopping on that node".into(),
        other => other.to_string(),
    }
}
