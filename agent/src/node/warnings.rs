//! What is wrong with this node at present, for people: one line per subject, there for as long as it is so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The lines of one node. Cheap to clone; all clones hold the same lines.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<BTreeMap<String, String>>>);

impl Warnings {
    /// All lines, in the order of their subjects.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.with(|lines| lines.values().cloned().collect())
    }

    /// What is wrong with `subject`.
    pub(super) fn of(&self, subject: &str) -> Option<String> {
        self.with(|lines| lines.get(subject).cloned())
    }

    /// From now on this is wrong with `subject`, or nothing is. What is new is logged.
    pub(super) fn set(&self, subject: &str, line: Option<String>) {
        let before = self.with(|lines| match &line {
            Some(line) => lines.insert(subject.to_owned(), line.clone()),
            None => lines.remove(subject),
        });
        match line {
            Some(line) if before.as_ref() != Some(&line) => tracing::warn!("{line}"),
            None if before.is_some() => tracing::info!(subject, "what was wrong is right again"),
            _ => {}
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, String>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_lasts_until_its_subject_is_right_again() {
        let warnings = Warnings::default();
        warnings.set("dns", Some("no port".into()));
        warnings.set("dns", Some("no address".into()));
        warnings.set("network", None);
        assert_eq!(warnings.lines(), ["no address"]);
        assert_eq!(warnings.of("dns").as_deref(), Some("no address"));
        warnings.clone().set("dns", None);
        assert!(warnings.lines().is_empty());
    }
}
