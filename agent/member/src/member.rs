//! The member itself: what it consists of, and what can be asked of it at once. What takes time is in `start`, `propose`,
//! `read`, `join` and `departure`.

use crate::MemberConfig;
use crate::authority::Authority;
use crate::book::Book;
use crate::config::Tuning;
use crate::departure::Departing;
use crate::identity::{self, Identity};
use crate::links::{Lane, Links};
use crate::listener::Listener;
use crate::machine::{Machine, StateGuard};
use crate::observe::{Group, Heard};
use crate::read::Asking;
use crate::tls::Tls;
use crate::token::Token as Secret;
use crate::world::World;
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::control::Token;
use swarm_api::model::{NodeId, NodeRole, Read, Timestamp};
use swarm_api::{Error, Result};
use swarm_cluster::Change;
use swarm_consensus::{Consensus, Observer, Replica, Role};
use swarm_discovery::membership::Membership;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A replica that was confirmed within this time counts as connected to a quorum.
const FRESH: Duration = Duration::from_secs(5);
const LONGEST_TOKEN: Duration = Duration::from_secs(366 * 24 * 3600);

/// This host as a member of one cluster. Clones are the same member; it lives until [`Member::shutdown`].
#[derive(Clone)]
pub struct Member {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: MemberConfig,
    pub(crate) tuning: Tuning,
    pub(crate) identity: ArcSwap<Identity>,
    /// On managers.
    pub(crate) authority: Option<Authority>,
    pub(crate) tls: Tls,
    pub(crate) machine: Arc<Machine>,
    pub(crate) replica: Replica,
    /// On managers.
    pub(crate) consensus: Option<Consensus>,
    pub(crate) links: Arc<Links>,
    pub(crate) book: Arc<Book>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) reads: mpsc::UnboundedSender<Asking>,
    /// Held by who changes the voters: what one decides must not be carried out after another's.
    pub(crate) voting: tokio::sync::Mutex<()>,
    /// Who asks this node, as the leader, to be let go.
    pub(crate) departing: Departing,
    pub(crate) stop: CancellationToken,
    pub(crate) running: tokio::sync::Mutex<Option<Running>>,
}

/// What has to be stopped.
pub(crate) struct Running {
    pub(crate) listener: Listener,
    pub(crate) observer: Observer,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

/// A member's view of the cluster and of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberStatus {
    /// The leader, where one is known to be alive.
    pub leader: Option<NodeId>,
    /// The Raft term.
    pub term: u64,
    /// The last log entry that is in the state here.
    pub applied: u64,
    /// The voters; on a node that does not vote, as last heard.
    pub voters: Vec<NodeId>,
    /// Whether, as this node's log has it, a change of the voters is not done: the former ones still count, or some are
    /// prepared for a vote that they do not have. Where nobody goes on with it, a leader died over it.
    pub voters_change: bool,
    /// Whether this node leads, with a quorum behind it.
    pub is_leader: bool,
    /// Whether, as far as this node can tell, commands can be agreed on.
    pub has_quorum: bool,
    /// What is wrong with this node: its disk, or that others refuse it.
    pub failure: Option<String>,
    /// Voters whose disks lost what they had said to be durable, as far as this node knows. They count for nothing until
    /// they have been taken out of the voters; then they begin anew by themselves.
    pub lost: BTreeSet<NodeId>,
    /// How long ago the state here was last known to be up to date.
    pub staleness: Option<Duration>,
}

impl Member {
    /// Whether this host is in a cluster.
    #[must_use]
    pub fn is_member(world: &World) -> bool {
        Identity::exists(world)
    }

    /// Removes everything that this host knows of its cluster; after [`Member::leave`] and [`Member::shutdown`].
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget(world: &World) -> io::Result<()> {
        identity::wipe(world)
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.identity.load().node
    }

    /// This node's name in the cluster.
    #[must_use]
    pub fn name(&self) -> String {
        let recorded = self.state().nodes.get(&self.id()).map(|n| n.name.clone());
        recorded.unwrap_or_else(|| self.inner.config.name.clone())
    }

    /// What this node's certificate lets it be.
    #[must_use]
    pub fn role(&self) -> NodeRole {
        self.inner.identity.load().role
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> String {
        self.inner.identity.load().cluster.clone()
    }

    /// Where others reach this node.
    #[must_use]
    pub fn advertise(&self) -> SocketAddr {
        self.inner.config.advertise
    }

    /// What is around this member.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.inner.config.world
    }

    /// The state as it is here. Held briefly, and never over an await.
    pub fn state(&self) -> StateGuard<'_> {
        self.inner.machine.read()
    }

    /// Follows the last log entry that is in the state here.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.replica.watch_applied()
    }

    /// Follows the leader (the number of its node id), as far as one is known to be alive.
    #[must_use]
    pub fn watch_leader(&self) -> watch::Receiver<Option<u64>> {
        self.inner.replica.watch_leader()
    }

    /// Follows whether this node was taken out of the cluster while it did not hear of it. Another member said so, over mutual
    /// TLS; it is final.
    #[must_use]
    pub fn watch_taken_out(&self) -> watch::Receiver<bool> {
        self.inner.heard.watch_taken_out()
    }

    /// Gossip: who is there, and everybody's soft state.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.inner.membership
    }

    /// What this node knows of the cluster and of itself now.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        let inner = &self.inner;
        let leader = inner.replica.leader().map(NodeId);
        let staleness = inner.replica.staleness();
        let group = inner.group();
        let raft = inner.consensus.as_ref().map(Consensus::status);
        let votes = raft.as_ref().is_some_and(|r| r.voters.contains(&r.node_id));
        MemberStatus {
            leader,
            term: group.term,
            applied: inner.replica.applied_index(),
            voters: group.voters.into_iter().map(NodeId).collect(),
            voters_change: (raft.as_ref()).is_some_and(|r| r.joint || !r.learners.is_empty()),
            is_leader: inner.leads(),
            // One that was taken out of the voters may not have heard of it: it observes.
            has_quorum: (raft.as_ref()).is_some_and(|r| votes && r.has_quorum)
                || (leader.is_some() && staleness.is_some_and(|age| age < FRESH)),
            lost: (raft.iter().flat_map(|r| &r.lost).copied())
                .map(NodeId)
                .collect(),
            failure: raft.and_then(|r| r.failure).or(group.refusal),
            staleness,
        }
    }

    /// A connection to a node's agent, kept for further use: mutual TLS to that very node, wherever it is now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] names the node and says why it cannot be reached.
    pub async fn connect(&self, node: NodeId) -> Result<tonic::transport::Channel> {
        self.connect_by(node, Lane::Bulk).await
    }

    /// As [`Member::connect`], for what is large and can wait: it has a connection of its own, so that a user's command
    /// never waits behind it.
    ///
    /// # Errors
    /// See [`Member::connect`].
    pub async fn connect_for_layers(&self, node: NodeId) -> Result<tonic::transport::Channel> {
        self.connect_by(node, Lane::Layers).await
    }

    async fn connect_by(&self, node: NodeId, lane: Lane) -> Result<tonic::transport::Channel> {
        let named = |e: Error| {
            let name = self.state().nodes.get(&node).map(|n| n.name.clone());
            match name {
                Some(name) => e.context(format!("node {name}")),
                None => e,
            }
        };
        self.inner.links.connect(node, lane).await.map_err(named)
    }

    /// Makes exactly these the voters. On the leader only.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when this node does not lead, or the voters do not agree in time; it can be repeated.
    /// [`Error::Conflict`] when one of them has left meanwhile.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<()> {
        let _alone = self.inner.voting.lock().await;
        let gone = voters
            .iter()
            .find(|v| !self.state().nodes.contains_key(v))
            .copied();
        if let Some(gone) = gone {
            return Err(Error::Conflict(format!(
                "node {gone} is in the cluster no more and gets no vote"
            )));
        }
        let voters = voters.into_iter().map(|v| v.0).collect();
        self.consensus()?
            .change_voters(voters)
            .await
            .map_err(unavailable)
    }

    /// Who asks this node at the moment, as the leader, to be let go: they are given no vote.
    #[must_use]
    pub fn departing(&self) -> BTreeSet<NodeId> {
        self.inner.departing.get()
    }

    /// Hands the leadership over to another voter, if this node leads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody took over; this node then goes on leading.
    pub async fn hand_over(&self) -> Result<()> {
        match &self.inner.consensus {
            Some(consensus) => consensus.hand_over().await.map_err(unavailable),
            None => Ok(()),
        }
    }

    /// Makes a token that lets hosts join, good for `ttl` from now by this node's clock.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a time that cannot be; and those of [`Member::propose`].
    pub async fn create_token(&self, role: NodeRole, ttl: Duration) -> Result<Token> {
        if ttl < Duration::from_millis(1) || ttl > LONGEST_TOKEN {
            return Err(Error::Invalid(format!(
                "a token cannot be good for {ttl:?}: give a time above zero and up to 366 days"
            )));
        }
        let secret = Secret::generate(&self.inner.identity.load().ca.0, self.world())?;
        let token = Token {
            id: secret.id.clone(),
            secret: Some(secret.text()),
            role,
            expires_at: self.inner.now().plus(ttl),
        };
        let change = Change::AddToken {
            id: token.id.clone(),
            hash: secret.hash(),
            role,
            expires_at: token.expires_at,
        };
        self.propose(change)
            .await
            .map_err(|e| e.context("cannot make a token"))?;
        Ok(token)
    }

    /// The tokens that are valid now, without their secrets.
    ///
    /// # Errors
    /// Those of [`Member::read`].
    pub async fn list_tokens(&self) -> Result<Vec<Token>> {
        self.read(Read::Linearizable).await?;
        let now = self.inner.now();
        let state = self.state();
        let valid = state
            .tokens
            .iter()
            .filter(|(_, record)| record.expires_at > now);
        let shown = valid.map(|(id, record)| Token {
            id: id.clone(),
            secret: None,
            role: record.role,
            expires_at: record.expires_at,
        });
        Ok(shown.collect())
    }

    /// Makes a token invalid.
    ///
    /// # Errors
    /// Those of [`Member::propose`].
    pub async fn remove_token(&self, id: &str) -> Result<()> {
        self.propose(Change::RemoveToken(id.to_owned()))
            .await
            .map(drop)
    }

    pub(crate) fn consensus(&self) -> Result<&Consensus> {
        self.inner.consensus.as_ref().ok_or_else(|| {
            Error::Unavailable(format!(
                "node {} is a worker, which never leads",
                self.name()
            ))
        })
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        self.config.world.now()
    }

    /// Whether this node leads, with a quorum behind it.
    pub(crate) fn leads(&self) -> bool {
        self.consensus
            .as_ref()
            .is_some_and(|c| c.status().is_leader())
    }

    /// The Raft group, from Raft itself where this node is in it, else as heard.
    pub(crate) fn group(&self) -> Group {
        let heard = self.heard.get();
        let Some(raft) = self.consensus.as_ref().map(Consensus::status) else {
            return heard;
        };
        let inside = matches!(
            raft.role,
            Role::Learner | Role::Follower | Role::Candidate | Role::Leader
        );
        if (inside && !raft.voters.is_empty()) || heard.voters.is_empty() {
            Group {
                term: raft.term,
                voters: raft.voters,
                refusal: heard.refusal,
            }
        } else {
            heard
        }
    }
}

fn unavailable(e: swarm_consensus::Error) -> Error {
    Error::Unavailable(e.to_string())
}
