//! Join tokens.

use super::apply::Entry;
use super::{State, TokenRecord};
use crate::command::Outcome;
use swarm_api::model::{NodeRole, Timestamp};
use swarm_api::{Error, Result};

impl State {
    pub(super) fn add_token(
        &mut self,
        entry: Entry,
        id: &str,
        hash: [u8; 32],
        role: NodeRole,
        expires_at: Timestamp,
    ) -> Outcome {
        if self.tokens.contains_key(id) {
            return Err(Error::AlreadyExists(format!("token {id} exists already")));
        }
        // Those that expired a day ago are good for no message either.
        let day = std::time::Duration::from_secs(24 * 3600);
        (self.tokens).retain(|_, token| token.expires_at.plus(day) > entry.time);
        let record = TokenRecord {
            hash,
            role,
            expires_at,
        };
        self.tokens.insert(id.into(), record);
        Ok(None)
    }

    pub(super) fn remove_token(&mut self, id: &str) -> Outcome {
        match self.tokens.remove(id) {
            Some(_) => Ok(None),
            None => Err(Error::NotFound(format!("there is no token {id}"))),
        }
    }

    /// What the token lets a node be at `time`.
    pub(super) fn check_token(&self, id: &str, time: Timestamp) -> Result<NodeRole> {
        let token = self.tokens.get(id).ok_or_else(|| {
            Error::Denied(format!(
                "token {id} is unknown to this cluster, or was removed; make one with `swarmctl token create`"
            ))
        })?;
        if token.expires_at <= time {
            return Err(Error::Denied(format!(
                "token {id} has expired; make a new one with `swarmctl token create`"
            )));
        }
        Ok(token.role)
    }
}
