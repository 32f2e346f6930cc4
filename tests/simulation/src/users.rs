//! What users know of their services: what was acknowledged, and what may be, where an answer was lost. Pure.

use std::collections::{BTreeMap, BTreeSet};
use swarm_api::Error;

/// What a service may be like: the number of its tasks, or not there at all.
pub type Known = Option<u32>;

/// A user's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The service is to be there.
    Run(u32),
    /// It is to have that many tasks.
    Scale(u32),
    /// It is to be gone.
    Remove,
}

/// All users' knowledge. A name that was never used is not there.
#[derive(Debug, Clone, Default)]
pub struct Users {
    services: BTreeMap<String, BTreeSet<Known>>,
    busy: BTreeSet<String>,
    /// Wishes whose answers were lost: they may come true at any later time.
    late: BTreeMap<String, Vec<Wish>>,
}

impl Users {
    /// Whether a wish about this service waits for its answer: each has one user, who waits.
    #[must_use]
    pub fn is_busy(&self, service: &str) -> bool {
        self.busy.contains(service)
    }

    /// A wish is sent.
    pub fn sent(&mut self, service: &str) {
        self.busy.insert(service.to_owned());
    }

    /// What the service may be like.
    #[must_use]
    pub fn possible(&self, service: &str) -> BTreeSet<Known> {
        let none = || BTreeSet::from([None]);
        self.services.get(service).cloned().unwrap_or_else(none)
    }

    /// The answer came, or will never come (`None`).
    ///
    /// # Errors
    /// When the answer contradicts what was acknowledged before.
    pub fn answered(
        &mut self,
        service: &str,
        wish: Wish,
        answer: Option<&Result<(), Error>>,
    ) -> Result<(), String> {
        self.busy.remove(service);
        let before = self.possible(service);
        let after = match answer {
            Some(Ok(())) => {
                // It must have been possible.
                let fits = before.iter().any(|known| effect(wish, *known).is_some());
                if !fits {
                    return Err(format!(
                        "{wish:?} of {service} was acknowledged, which was {before:?}"
                    ));
                }
                let after = before.iter().filter_map(|known| effect(wish, *known));
                after.collect()
            }
            Some(Err(Error::NotFound(_))) => {
                let after: BTreeSet<Known> =
                    before.iter().filter(|k| k.is_none()).copied().collect();
                if after.is_empty() {
                    return Err(format!(
                        "{service} was not found, which was acknowledged to be {before:?}"
                    ));
                }
                after
            }
            // The name is taken while an earlier service of that name goes; the port may be another's.
            Some(Err(Error::AlreadyExists(_) | Error::Conflict(_) | Error::Invalid(_))) => before,
            // Nobody knows.
            Some(Err(_)) | None => {
                self.late.entry(service.to_owned()).or_default().push(wish);
                before
            }
        };
        let after = self.with_what_may_come(service, after);
        self.services.insert(service.to_owned(), after);
        Ok(())
    }

    /// Somebody looked, while no wish was under way since `possible` was asked.
    ///
    /// # Errors
    /// When what was seen contradicts what was acknowledged.
    pub fn saw(&mut self, service: &str, seen: Known) -> Result<(), String> {
        let before = self.possible(service);
        if before.contains(&seen) {
            return Ok(());
        }
        Err(format!(
            "{service} is {seen:?}, and was acknowledged to be {before:?}"
        ))
    }

    /// As [`Users::saw`], but a service that is being removed may be seen until the last of its tasks has gone.
    ///
    /// # Errors
    /// As those of [`Users::saw`].
    pub fn saw_while_it_may_go(&mut self, service: &str, seen: Known) -> Result<(), String> {
        if seen.is_some() && self.possible(service).contains(&None) {
            return Ok(());
        }
        self.saw(service, seen)
    }

    /// A look at it has ended.
    pub fn looked(&mut self, service: &str) {
        self.busy.remove(service);
    }

    fn with_what_may_come(&self, service: &str, mut possible: BTreeSet<Known>) -> BTreeSet<Known> {
        let late = self.late.get(service).map_or(&[][..], Vec::as_slice);
        // Each at most once, in any order: so many rounds are enough.
        for _ in late {
            let more: Vec<Known> = (possible.iter())
                .flat_map(|known| late.iter().filter_map(|wish| effect(*wish, *known)))
                .collect();
            possible.extend(more);
        }
        possible
    }

    /// All names that were ever used.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.services.keys()
    }
}

fn effect(wish: Wish, before: Known) -> Option<Known> {
    match (wish, before) {
        (Wish::Run(replicas), None) => Some(Some(replicas)),
        (Wish::Scale(replicas), Some(_)) => Some(Some(replicas)),
        (Wish::Remove, Some(_)) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_must_be_seen_and_what_was_lost_may_be() {
        let mut users = Users::default();
        let lost = Err(Error::Unavailable("lost".into()));
        users.answered("web", Wish::Run(3), Some(&Ok(()))).unwrap();
        assert!(users.saw("web", None).is_err());
        users.answered("web", Wish::Scale(5), Some(&lost)).unwrap();
        for seen in [Some(3), Some(5)] {
            assert!(users.saw("web", seen).is_ok());
        }
        users.answered("web", Wish::Remove, Some(&Ok(()))).unwrap();
        assert!(users.saw("web", Some(5)).is_err());
        assert!(
            users
                .answered("web", Wish::Scale(1), Some(&Ok(())))
                .is_err()
        );
    }
}
