//! The cluster's state as Raft and observation feed it, and as everything else reads it.
//! What a command does is decided in `swarm_cluster`; here are the lock, the encoding, and two things that the members
//! agree on beside the state: which proposals were carried out (so that one that is tried again is not carried out
//! twice), and which nodes were taken out (their certificates are good for nothing from then on).

use crate::shared::{Content, Shared, Step};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use swarm_api::model::{NodeId, Timestamp};
use swarm_cluster::state::Kept;
use swarm_cluster::{Change, Command, Outcome, State};
use swarm_consensus::{Frozen, StateMachine};

/// Proposals that are remembered.
const REMEMBERED: usize = 1024;
/// How long a node that was taken out is remembered: longer than any certificate is good for.
const REVOKED_FOR: Duration = Duration::from_secs(400 * 24 * 3600);

/// A command on its way into the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Random; the same whenever this proposal is tried again.
    pub(crate) id: u128,
    /// What the proposer's replica contained before it tried the first time.
    pub(crate) since: u64,
    /// What is proposed.
    pub(crate) command: Command,
}

impl Proposal {
    pub(crate) fn encode(&self) -> swarm_api::Result<Bytes> {
        postcard::to_stdvec(self)
            .map(Bytes::from)
            .map_err(|e| swarm_api::Error::Internal(format!("cannot encode a command: {e}")))
    }

    pub(crate) fn decode(bytes: &[u8]) -> swarm_api::Result<Self> {
        postcard::from_bytes(bytes).map_err(|e| {
            swarm_api::Error::Invalid(format!("this is not a command of this version: {e}"))
        })
    }
}

/// An outcome as it travels: JSON, because an object says its kind by a tag.
pub(crate) fn decode_outcome(bytes: &[u8]) -> Outcome {
    serde_json::from_slice::<Outcome>(bytes).unwrap_or_else(|e| {
        Err(swarm_api::Error::Internal(format!(
            "cannot decode an outcome: {e}"
        )))
    })
}

/// The replica's state.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    // Behind `Arc`, so that a snapshot is taken at once. A change while one is written down copies the parts it touches.
    state: RwLock<Arc<State>>,
    beside: Mutex<Arc<Beside>>,
    shared: Option<Shared>,
}

/// The state as it is now, for as long as it is held.
#[derive(Debug)]
pub struct StateGuard<'a>(RwLockReadGuard<'a, Arc<State>>);

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

/// What is agreed on beside the state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beside {
    done: VecDeque<Kept<Done>>,
    /// Proposals up to this entry may be forgotten.
    forgotten: u64,
    revoked: BTreeMap<NodeId, Timestamp>,
}

/// A proposal that was carried out, or refused, by the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Done {
    id: u128,
    index: u64,
    outcome: Vec<u8>,
}

impl Machine {
    /// An empty one, which shares what it comes to with others of this process, if so.
    pub(crate) fn new(shared: Option<Shared>) -> Self {
        Self {
            shared,
            ..Self::default()
        }
    }

    /// The state as it is now. Held briefly, and never over an await.
    pub(crate) fn read(&self) -> StateGuard<'_> {
        StateGuard(self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn content(&self) -> Content {
        let beside = Arc::clone(&self.beside());
        let state = Arc::clone(&self.read().0);
        Content { state, beside }
    }

    fn put(&self, content: Content) {
        *self.beside() = content.beside;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = content.state;
    }

    fn apply_here(&self, index: u64, command: &Bytes) -> Bytes {
        match Proposal::decode(command) {
            Ok(proposal) => self.carry_out(index, &proposal).into(),
            // An entry of a newer version: skipped alike on every node of this version.
            Err(e) => encode_outcome(&Err(swarm_api::Error::Unsupported(format!(
                "entry {index} of the log cannot be carried out: {e}"
            ))))
            .into(),
        }
    }

    /// What a proposal came to, and at which index, if it is in the state and not forgotten.
    pub(crate) fn outcome_of(&self, id: u128) -> Option<(u64, Outcome)> {
        self.beside()
            .find(id)
            .map(|done| (done.index, decode_outcome(&done.outcome)))
    }

    /// Whether the node was taken out of the cluster, or left it.
    pub(crate) fn is_revoked(&self, node: NodeId) -> bool {
        self.beside().revoked.contains_key(&node)
    }

    fn beside(&self) -> MutexGuard<'_, Arc<Beside>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, index: u64, proposal: &Proposal) -> Vec<u8> {
        let mut beside = self.beside();
        if let Some(done) = beside.find(proposal.id) {
            return done.outcome.clone();
        }
        if proposal.since < beside.forgotten {
            return encode_outcome(&Err(swarm_api::Error::Unavailable(format!(
                "the change was proposed before entry {} of the log and came {} entries later: whether it was carried \
                 out already is forgotten; look before trying again",
                beside.forgotten,
                index - proposal.since
            ))));
        }
        let outcome = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            Arc::make_mut(&mut state).apply(index, &proposal.command)
        };
        let beside = Arc::make_mut(&mut beside);
        if outcome.is_ok() {
            beside.note(&proposal.command);
        }
        let outcome = encode_outcome(&outcome);
        beside.remember(Done {
            id: proposal.id,
            index,
            outcome: outcome.clone(),
        });
        outcome
    }
}

impl Beside {
    fn find(&self, id: u128) -> Option<&Done> {
        let mut newest_first = self.done.iter().rev().map(|done| &**done);
        newest_first.find(|done| done.id == id)
    }

    fn remember(&mut self, done: Done) {
        self.done.push_back(done.into());
        while self.done.len() > REMEMBERED {
            if let Some(oldest) = self.done.pop_front() {
                self.forgotten = oldest.index;
            }
        }
    }

    fn note(&mut self, command: &Command) {
        match &command.change {
            Change::RemoveNode { id, .. } => {
                self.revoked
                    .retain(|_, since| command.time.since(*since) < REVOKED_FOR);
                self.revoked.insert(*id, command.time);
            }
            Change::AddNode { node, .. } => {
                self.revoked.remove(&node.id);
            }
            _ => {}
        }
    }
}

fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    // Plain data with string keys: it cannot fail, and an empty answer is an error to who decodes it.
    serde_json::to_vec(outcome).unwrap_or_default()
}

impl StateMachine for Machine {
    fn apply(&self, index: u64, command: &Bytes) -> Bytes {
        let Some(shared) = &self.shared else {
            return self.apply_here(index, command);
        };
        let step = shared.step(index, command, || {
            let outcome = self.apply_here(index, command);
            Step {
                command: Some(command.clone()),
                content: self.content(),
                outcome,
            }
        });
        self.put(step.content);
        step.outcome
    }

    fn keep(&self, index: u64, command: Bytes) -> Bytes {
        match &self.shared {
            Some(shared) => shared.keep(index, command),
            None => command,
        }
    }

    fn freeze(&self) -> Frozen {
        let content = self.content();
        match self.shared.clone() {
            Some(shared) => Box::new(move || shared.encode(content, encode)),
            None => Box::new(move || encode(&content)),
        }
    }

    fn restore(&self, index: u64, snapshot: &[u8]) -> Result<(), String> {
        let content = match &self.shared {
            Some(shared) => shared.restore(index, || decode(snapshot))?,
            None => decode(snapshot)?,
        };
        self.put(content);
        Ok(())
    }
}

fn encode(content: &Content) -> Bytes {
    match postcard::to_stdvec(&(&*content.state, &*content.beside)) {
        Ok(bytes) => bytes.into(),
        Err(e) => {
            tracing::error!("cannot encode the state for a snapshot: {e}");
            Bytes::new()
        }
    }
}

fn decode(snapshot: &[u8]) -> Result<Content, String> {
    let (mut state, beside): (State, Beside) =
        postcard::from_bytes(snapshot).map_err(|e| e.to_string())?;
    state.renew();
    Ok(Content {
        state: Arc::new(state),
        beside: Arc::new(beside),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::Node;

    fn proposal(id: u128, since: u64, change: Change) -> Bytes {
        let command = Command {
            time: Timestamp(1),
            change,
        };
        Proposal { id, since, command }.encode().unwrap()
    }

    fn init() -> Change {
        Change::Init {
            cluster: "c".into(),
            node: Node {
                id: NodeId(1),
                name: "one".into(),
                ..Node::default()
            },
            pool: "10.0.0.0/8".parse().unwrap(),
            sealed: Vec::new(),
        }
    }

    fn token(n: u32) -> Change {
        Change::AddToken {
            id: format!("t{n}"),
            hash: [0; 32],
            role: swarm_api::model::NodeRole::Worker,
            expires_at: Timestamp(u64::MAX),
        }
    }

    #[test]
    fn a_proposal_that_is_tried_again_is_carried_out_once_also_after_a_snapshot() {
        let machine = Machine::default();
        machine.apply(1, &proposal(1, 0, init()));
        let first = machine.apply(2, &proposal(2, 1, token(1)));
        assert!(decode_outcome(&first).is_ok());
        let again = Machine::default();
        again.restore(2, &machine.freeze()()).unwrap();
        assert_eq!(*again.read(), *machine.read());
        let before = again.read().clone();
        assert_eq!(again.apply(3, &proposal(2, 1, token(1))), first);
        assert_eq!(*again.read(), before);
        assert_eq!(again.outcome_of(2).unwrap().0, 2);
    }

    #[test]
    fn replicas_of_one_process_may_share_what_they_come_to_and_are_as_others() {
        let shared = Shared::default();
        let [one, two] = [(); 2].map(|()| Machine::new(Some(shared.clone())));
        let alone = Machine::default();
        let entries = [init(), token(1), token(1), token(2)].map(|change| proposal(1, 0, change));
        let entries = (1..).zip(entries).map(|(index, bytes)| {
            let mut proposal = Proposal::decode(&bytes).unwrap();
            (proposal.id, proposal.since) = (index.into(), index - 1);
            (index, proposal.encode().unwrap())
        });
        for (index, command) in entries {
            let expected = alone.apply(index, &command);
            assert_eq!(one.apply(index, &command), expected);
            // A copy, as it comes from elsewhere.
            let copy = Bytes::copy_from_slice(&command);
            assert_eq!(two.apply(index, &copy), expected);
            assert_eq!(
                two.keep(index, copy).as_ptr(),
                one.keep(index, command).as_ptr()
            );
        }
        assert_eq!(*two.read(), *alone.read());
        assert!(Arc::ptr_eq(&one.read().0, &two.read().0));
        assert_eq!(one.freeze()(), alone.freeze()());
        // One that comes later finds the same by the snapshot, and one that went another way does not.
        let late = Machine::new(Some(shared));
        late.restore(4, &one.freeze()()).unwrap();
        assert!(Arc::ptr_eq(&late.read().0, &two.read().0));
        late.apply(5, &proposal(5, 4, token(3)));
        two.apply(5, &proposal(6, 4, token(4)));
        assert!(late.read().tokens.contains_key("t3") && !late.read().tokens.contains_key("t4"));
        assert!(two.read().tokens.contains_key("t4") && !two.read().tokens.contains_key("t3"));
    }

    #[test]
    fn a_proposal_too_old_to_tell_is_refused() {
        let machine = Machine::default();
        machine.apply(1, &proposal(1, 0, init()));
        for n in 0..u32::try_from(REMEMBERED).unwrap() + 1 {
            let index = u64::from(n) + 2;
            machine.apply(index, &proposal(u128::from(n) + 2, index - 1, token(n)));
        }
        let late = machine.apply(5000, &proposal(1, 0, init()));
        assert!(decode_outcome(&late).unwrap_err().is_transient());
    }

    #[test]
    fn who_left_is_revoked_until_it_joins_again() {
        let machine = Machine::default();
        let node = Node {
            id: NodeId(2),
            name: "two".into(),
            ..Node::default()
        };
        machine.apply(1, &proposal(1, 0, init()));
        let add = Change::AddNode { node, token: None };
        machine.apply(2, &proposal(2, 1, add.clone()));
        assert!(!machine.is_revoked(NodeId(2)));
        machine.apply(
            3,
            &proposal(
                3,
                2,
                Change::RemoveNode {
                    id: NodeId(2),
                    force: true,
                },
            ),
        );
        assert!(machine.is_revoked(NodeId(2)));
        machine.apply(4, &proposal(4, 3, add));
        assert!(!machine.is_revoked(NodeId(2)));
    }
}
