//! Which object a user's word means.

use super::missing;
use crate::state::State;
use swarm_api::model::{DesiredState, Kind, Task};
use swarm_api::{Error, Result};

/// How many candidates an error names.
const NAMED: usize = 8;

/// The one of `all` (name, id, object) that `word` means: its name, its id, or a prefix of no other's id.
///
/// # Errors
/// [`Error::NotFound`], or [`Error::Invalid`] with the candidates.
pub(super) fn one<'a, T>(
    kind: Kind,
    word: &str,
    all: impl Iterator<Item = (&'a str, String, T)>,
) -> Result<T> {
    let mut prefixed = Vec::new();
    for (name, id, object) in all {
        if name == word || id == word {
            return Ok(object);
        }
        if !word.is_empty() && id.starts_with(word) {
            prefixed.push((name, id, object));
        }
    }
    if prefixed.len() > 1 {
        let names = prefixed
            .iter()
            .map(|(name, id, _)| format!("{name} ({id})"));
        return Err(ambiguous(kind, word, names.collect()));
    }
    prefixed
        .pop()
        .map(|(_, _, object)| object)
        .ok_or_else(|| missing(kind, word))
}

fn ambiguous(kind: Kind, word: &str, mut candidates: Vec<String>) -> Error {
    candidates.sort();
    let more = candidates.len().saturating_sub(NAMED);
    candidates.truncate(NAMED);
    if more > 0 {
        candidates.push(format!("{more} more"));
    }
    let candidates = candidates.join(", ");
    Error::Invalid(format!(
        "\"{word}\" could be more than one {kind}: {candidates}; say which"
    ))
}

impl State {
    /// The task that `word` means: by its name (of the tasks of that name the live one, or else the newest), its id,
    /// its service's name where that has one live task, or a unique prefix of its id.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming it, [`Error::Invalid`] with the candidates where several could be meant.
    pub fn find_task(&self, word: &str) -> Result<&Task> {
        let is_live = |t: &Task| !t.status.state.is_final();
        // What was removed and has ended is gone for users.
        let shown = |t: &&Task| is_live(t) || t.desired < DesiredState::Removed;
        let tasks = || self.tasks.values().filter(shown);
        let order = |t: &&Task| {
            let wanted = t.desired == DesiredState::Running;
            (
                is_live(t),
                is_live(t) && wanted,
                t.created_at,
                self.is_newest(t),
            )
        };
        if let Some(task) = tasks().filter(|t| t.name == word).max_by_key(order) {
            return Ok(task);
        }
        if let Some(task) = tasks().find(|t| t.id.as_str() == word) {
            return Ok(task);
        }
        if let Some(record) = (self.services.values()).find(|r| r.service.spec.name == word) {
            let id = &record.service.id;
            let live: Vec<&Task> = tasks()
                .filter(|t| t.service_id == *id && is_live(t))
                .collect();
            return match live[..] {
                [task] => Ok(task),
                [] => Err(Error::NotFound(format!(
                    "service \"{word}\" has no task that has not ended; see `swarmctl ps -a {word}`"
                ))),
                _ => {
                    let names = live.iter().map(|t| t.name.clone()).collect();
                    Err(ambiguous(Kind::Task, word, names))
                }
            };
        }
        let named = tasks().map(|t| (t.name.as_str(), t.id.to_string(), t));
        one(Kind::Task, word, named)
    }

    fn is_newest(&self, task: &Task) -> bool {
        let record = self.services.get(&task.service_id);
        record.is_some_and(|r| r.newest.get(&task.slot) == Some(&task.id))
    }
}
