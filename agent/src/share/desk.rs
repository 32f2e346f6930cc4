//! The account of [`super::turns`], and those who wait at it: of this node and of others.

use super::turns::{Allowed, Ask, Given, Ticket, Turns};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Where the line for a part forms, as far as this node keeps the account.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turns: Turns,
    places: BTreeMap<Ticket, mpsc::UnboundedSender<Given>>,
}

/// A place in the line. Dropped, it is given up.
#[derive(Debug)]
pub(crate) struct Place {
    desk: Arc<Desk>,
    ticket: Ticket,
    given: mpsc::UnboundedReceiver<Given>,
}

impl Desk {
    /// Takes a place in the line.
    pub(crate) fn open(self: &Arc<Self>, ask: Ask) -> Place {
        let (sender, given) = mpsc::unbounded_channel();
        let mut state = self.lock();
        let (ticket, allowed) = state.turns.ask(ask);
        state.places.insert(ticket, sender);
        state.tell(allowed);
        Place {
            desk: Arc::clone(self),
            ticket,
            given,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&mut self, allowed: Allowed) {
        for (ticket, given) in allowed {
            if let Some(place) = self.places.get(&ticket) {
                // One that is being dropped tells so itself.
                let _ = place.send(given);
            }
        }
    }
}

impl Place {
    /// What has been said and was not taken yet.
    pub(crate) fn now(&mut self) -> Option<Given> {
        self.given.try_recv().ok()
    }

    /// The next source.
    pub(crate) async fn next(&mut self) -> Option<Given> {
        self.given.recv().await
    }

    /// Tells what came of the source that was named last.
    pub(crate) fn tell(&mut self, came: bool) {
        let mut state = self.desk.lock();
        let allowed = if came {
            state.turns.came(self.ticket)
        } else {
            state.turns.failed(self.ticket)
        };
        state.tell(allowed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.desk.lock();
        state.places.remove(&self.ticket);
        let allowed = state.turns.gone(self.ticket);
        state.tell(allowed);
    }
}
