//! For simulations of many hosts in one process: what is the same in all replicas is there once. A replica that applies an
//! entry which another one has applied takes what that one came to. It rests on what replication rests on anyway, that the
//! same entries come to the same state; so replicas that are to be compared must not share.
//!
//! It must not know what a state or a command means.

use crate::machine::Beside;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use swarm_cluster::State;

/// How many entries a replica may be behind the others and still find what they came to. Each keeps a state, of which most is
/// the next one's as well.
const ENTRIES: usize = 4096;
/// How many encoded states are kept.
const ENCODED: usize = 4;

/// What replicas of one process share. Clones are the same; for the replicas of one cluster.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    steps: BTreeMap<u64, Step>,
    encoded: VecDeque<(Content, Bytes)>,
}

/// All that replicas agree on, at one index.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) state: Arc<State>,
    pub(crate) beside: Arc<Beside>,
}

/// What an entry came to. One that came with a snapshot has no command.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) command: Option<Bytes>,
    pub(crate) content: Content,
    pub(crate) outcome: Bytes,
}

impl Shared {
    /// What this entry comes to: as another replica found, or else as `apply` does.
    pub(crate) fn step(&self, index: u64, command: &Bytes, apply: impl FnOnce() -> Step) -> Step {
        let known = self.lock().steps.get(&index).cloned();
        if let Some(known) = known.filter(|step| step.command.as_ref() == Some(command)) {
            return known;
        }
        let step = apply();
        self.put(index, step.clone());
        step
    }

    /// The content of the snapshot taken at this entry: as it is here, or else as `decode` says.
    pub(crate) fn restore(
        &self,
        index: u64,
        decode: impl FnOnce() -> Result<Content, String>,
    ) -> Result<Content, String> {
        let known = self.lock().steps.get(&index).cloned();
        if let Some(known) = known {
            return Ok(known.content);
        }
        let content = decode()?;
        let step = Step {
            command: None,
            content: content.clone(),
            outcome: Bytes::new(),
        };
        self.put(index, step);
        Ok(content)
    }

    /// The content as bytes.
    pub(crate) fn encode(&self, content: Content, encode: impl FnOnce(&Content) -> Bytes) -> Bytes {
        let same = |(other, _): &&(Content, Bytes)| {
            Arc::ptr_eq(&content.state, &other.state) && Arc::ptr_eq(&content.beside, &other.beside)
        };
        if let Some((_, bytes)) = self.lock().encoded.iter().find(same) {
            return bytes.clone();
        }
        let bytes = encode(&content);
        let mut inner = self.lock();
        inner.encoded.push_back((content, bytes.clone()));
        while inner.encoded.len() > ENCODED {
            inner.encoded.pop_front();
        }
        bytes
    }

    /// The command of this entry, as others have it.
    pub(crate) fn keep(&self, index: u64, command: Bytes) -> Bytes {
        let known = self
            .lock()
            .steps
            .get(&index)
            .and_then(|s| s.command.clone());
        known.filter(|known| *known == command).unwrap_or(command)
    }

    fn put(&self, index: u64, step: Step) {
        let mut inner = self.lock();
        inner.steps.insert(index, step);
        while inner.steps.len() > ENTRIES {
            inner.steps.pop_first();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
