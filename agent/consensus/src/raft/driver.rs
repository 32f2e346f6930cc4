//! Watches one running Raft instance: starts its elections (after a pre-vote), keeps the status
//! and the replica's freshness up to date, and says when the instance has failed.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::election::{LastLog, Standing, Time, is_quorum};
use super::log::LogStore;
use super::network::call;
use super::shared::Shared;
use super::snapshots::Snapshots;
use super::status::{Beside, Role, Status, derive, quorum_age};
use super::types::{Metrics, Raft};
use super::wire::{Reply, Request};
use crate::{ConsensusConfig, MessageKind, RaftTransport, Replica};

pub(crate) struct Driver {
    pub(crate) config: ConsensusConfig,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) replica: Replica,
    pub(crate) transport: Arc<dyn RaftTransport>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) snapshots: Snapshots,
    pub(crate) status: watch::Sender<Status>,
}

/// An answer that is awaited, and since when this node wanted to stand.
type PreVote = Option<(Time, JoinHandle<Verdict>)>;

/// What the voters say to a candidate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Won,
    /// At least one that answered would not vote for it.
    Denied,
    /// Too few answered.
    Unheard,
}

impl Driver {
    /// Runs until the instance fails, and says why.
    pub(crate) async fn run(self) -> String {
        let mut metrics = self.raft.metrics();
        let mut pre_vote: PreVote = None;
        let mut tick = tokio::time::interval(self.config.heartbeat / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    return "the Raft instance is gone".into();
                },
                _ = tick.tick() => {}
                () = self.log.must_tell() => {
                    // A failure shows in the metrics.
                    let _ = self.raft.trigger().heartbeat().await;
                }
                (asked_at, verdict) = finished(&mut pre_vote) => {
                    pre_vote = None;
                    // It gave its vote or heard a leader meanwhile: to stand now would only depose who has just won.
                    let is_void = self.shared.election().0.since() != asked_at;
                    match verdict {
                        _ if is_void => {}
                        Verdict::Won => {
                            tracing::info!("no leader is heard by a majority, standing for election");
                            let _ = self.raft.trigger().elect().await;
                        }
                        Verdict::Denied => {
                            let (mut election, now) = self.shared.election();
                            election.denied(now);
                        }
                        Verdict::Unheard => {}
                    }
                }
                why = self.log.failed() => return why,
            }
            let now = metrics.borrow_and_update().clone();
            if let Err(fatal) = &now.running_state {
                return fatal.to_string();
            }
            self.observe(&now);
            if pre_vote.is_none()
                && let Some(asked_at) = self.due(&now)
            {
                pre_vote = Some((asked_at, tokio::spawn(self.ask(&now))));
            }
        }
    }

    fn observe(&self, metrics: &Metrics) {
        let hears_leader = {
            let (election, now) = self.shared.election();
            election.heard_within(now, self.config.election_timeout_max)
                || self.shared.is_following()
        };
        let committed = self.log.committed();
        let status = derive(
            metrics,
            Beside {
                committed,
                hears_leader,
                quorum_patience: self.config.election_timeout_max,
                failure: (self.snapshots.failure.borrow().clone())
                    .or_else(|| self.shared.waits_for_others()),
                lost: self.shared.witness.lost(),
            },
        );
        let member = !matches!(status.role, Role::Outside | Role::Down);
        let leads = status.role == Role::Leader;
        let fed = self.replica.fed_by_raft();
        if fed && !leads && (!member || !hears_leader) {
            // Observation may know more; it is ignored again as soon as Raft applies something.
            self.replica.release();
        }
        // A voter that was taken out is not told by Raft: what it observes is all that it hears.
        if member && (fed || hears_leader) {
            self.replica.set_leader(status.leader);
        }
        if let Some(age) = quorum_age(metrics)
            && committed.is_none_or(|id| self.replica.applied_index() >= id.index)
            && let Some(at) = Instant::now().checked_sub(age)
        {
            self.replica.mark_fresh(at);
        }
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    /// Since when this node wants to stand, if it is to now.
    fn due(&self, metrics: &Metrics) -> Option<Time> {
        let mut voters = metrics.membership_config.voter_ids();
        let votes = voters.any(|id| id == metrics.id);
        let standing = Standing {
            leads: metrics.state.is_leader(),
            votes,
            only_voter: votes && metrics.membership_config.voter_ids().count() == 1,
            busy_following: self.shared.is_following(),
        };
        let behind = self.shared.is_below_floor(last_log(&self.log));
        let (mut election, now) = self.shared.election();
        let due = election.due(now, standing);
        (due && !behind).then(|| election.since())
    }

    /// Asks all voters whether they would vote for this node.
    fn ask(&self, metrics: &Metrics) -> impl Future<Output = Verdict> + Send + use<> {
        let configs = metrics
            .membership_config
            .membership()
            .get_joint_config()
            .clone();
        let me = metrics.id;
        let last_log = last_log(&self.log);
        let transport = Arc::clone(&self.transport);
        let patience = self.config.election_timeout_min;
        async move {
            let mut granted = BTreeSet::from([me]);
            if is_quorum(&configs, &granted) {
                return Verdict::Won;
            }
            let mut denied = false;
            let others: BTreeSet<u64> = configs.iter().flatten().copied().collect();
            let mut answers: FuturesUnordered<_> = others
                .into_iter()
                .filter(|id| *id != me)
                .map(|id| {
                    let transport = Arc::clone(&transport);
                    async move {
                        let request = Request::PreVote { last_log };
                        let answer =
                            call(transport.as_ref(), id, MessageKind::Vote, &request).await;
                        match answer {
                            Ok(Reply::PreVote { granted }) => Some((id, granted)),
                            _ => None,
                        }
                    }
                })
                .collect();
            let mut until = Instant::now() + patience;
            while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
                match answer {
                    Some((id, true)) => {
                        granted.insert(id);
                        if is_quorum(&configs, &granted) {
                            return Verdict::Won;
                        }
                    }
                    // Who has not answered soon after is the dead leader, most likely.
                    Some((_, false)) => {
                        denied = true;
                        until = until.min(Instant::now() + patience / 8);
                    }
                    None => {}
                }
            }
            if denied {
                Verdict::Denied
            } else {
                Verdict::Unheard
            }
        }
    }
}

/// Where this node's log ends.
pub(crate) fn last_log(log: &LogStore) -> LastLog {
    log.last().map(|id| (id.leader_id.term, id.index))
}

async fn finished(pre_vote: &mut PreVote) -> (Time, Verdict) {
    match pre_vote {
        Some((asked_at, task)) => (*asked_at, task.await.unwrap_or(Verdict::Unheard)),
        None => std::future::pending().await,
    }
}
