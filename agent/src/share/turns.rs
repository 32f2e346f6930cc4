//! Who gets which part of an image from whom: the account that one node keeps of one part, for all that want it. A pure
//! core: what is asked and what becomes of it goes in, who may go on comes out. It knows no time; a node that dies gives
//! up its tickets through [`Turns::gone`].
//!
//! A part is got from a registry by one node at a time, and only while no node that could give it is known or about to
//! get it. Whoever has got it gives it to the others, a few at a time, so that those in turn can give it.

use std::collections::{BTreeMap, BTreeSet};
use swarm_api::model::NodeId;

/// How many a node gives one part to at a time.
const GIVEN: usize = 2;
/// Parts that nobody asks for now and whose holders are still known.
const KEPT: usize = 512;

/// A place in the line for one part.
pub(crate) type Ticket = u64;

/// Where a part is to be taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// The node has it already, as it said itself.
    Here,
    /// From that node.
    From(NodeId),
    /// From the registry.
    Registry,
}

/// What a node says when it asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    /// The part.
    pub(crate) digest: String,
    /// Who asks.
    pub(crate) node: NodeId,
    /// Who has the part, as far as the one who asks knows.
    pub(crate) holders: Vec<NodeId>,
    /// Who had it and seems to be away.
    pub(crate) unlikely: Vec<NodeId>,
    /// Who did not give it.
    pub(crate) refused: Vec<NodeId>,
}

/// What came of a question: who may go on.
pub(crate) type Allowed = Vec<(Ticket, Given)>;

#[derive(Debug, Default)]
struct Part {
    /// Whether it is unlikely that they give it.
    holders: BTreeMap<NodeId, bool>,
    tickets: BTreeMap<Ticket, Asker>,
    touched: u64,
}

#[derive(Debug)]
struct Asker {
    node: NodeId,
    refused: BTreeSet<NodeId>,
    /// What was said; nothing while it waits.
    given: Option<Given>,
}

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    parts: BTreeMap<String, Part>,
    tickets: BTreeMap<Ticket, String>,
    next: Ticket,
}

impl Turns {
    /// Takes a node into the line.
    pub(crate) fn ask(&mut self, ask: Ask) -> (Ticket, Allowed) {
        self.next += 1;
        let ticket = self.next;
        let part = self.parts.entry(ask.digest.clone()).or_default();
        part.touched = ticket;
        for node in ask.unlikely {
            part.holders.entry(node).or_insert(true);
        }
        for node in ask.holders {
            part.holders.insert(node, false);
        }
        let asker = Asker {
            node: ask.node,
            refused: ask.refused.into_iter().collect(),
            given: None,
        };
        part.tickets.insert(ticket, asker);
        self.tickets.insert(ticket, ask.digest);
        let allowed = part.go_on();
        self.tidy();
        (ticket, allowed)
    }

    /// The part has come: its node can give it from now on. The ticket is done with.
    pub(crate) fn came(&mut self, ticket: Ticket) -> Allowed {
        self.end(ticket, true)
    }

    /// Whoever had the ticket is gone, or gives it up.
    pub(crate) fn gone(&mut self, ticket: Ticket) -> Allowed {
        self.end(ticket, false)
    }

    /// What was named did not give the part: another is named, in time. With the registry, that was the last one.
    pub(crate) fn failed(&mut self, ticket: Ticket) -> Allowed {
        let part = self
            .tickets
            .get(&ticket)
            .and_then(|d| self.parts.get_mut(d));
        let Some(part) = part else {
            return Vec::new();
        };
        let Some(asker) = part.tickets.get_mut(&ticket) else {
            return Vec::new();
        };
        let refused = match asker.given.take() {
            Some(Given::Registry) => return self.end(ticket, false),
            Some(Given::Here) => Some(asker.node),
            Some(Given::From(node)) => Some(node),
            None => None,
        };
        if let Some(node) = refused {
            asker.refused.insert(node);
            part.holders.remove(&node);
        }
        part.go_on()
    }

    fn end(&mut self, ticket: Ticket, came: bool) -> Allowed {
        let digest = self.tickets.remove(&ticket);
        let Some(part) = digest.and_then(|d| self.parts.get_mut(&d)) else {
            return Vec::new();
        };
        if let Some(asker) = part.tickets.remove(&ticket)
            && came
        {
            part.holders.insert(asker.node, false);
        }
        part.go_on()
    }

    /// Forgets the parts that nobody has asked for the longest time.
    fn tidy(&mut self) {
        let idle = |part: &Part| part.tickets.is_empty();
        while self.parts.values().filter(|p| idle(p)).count() > KEPT {
            let parts = self.parts.iter().filter(|(_, p)| idle(p));
            let oldest = parts.min_by_key(|(_, p)| p.touched).map(|(d, _)| d.clone());
            let Some(oldest) = oldest else { return };
            self.parts.remove(&oldest);
        }
    }
}

impl Part {
    /// Says to those who wait what they can be told now.
    fn go_on(&mut self) -> Allowed {
        let mut allowed = Vec::new();
        let waiting: Vec<Ticket> = (self.tickets.iter())
            .filter(|(_, asker)| asker.given.is_none())
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in waiting {
            let given = self.source(ticket);
            if let (Some(given), Some(asker)) = (given, self.tickets.get_mut(&ticket)) {
                asker.given = Some(given);
                allowed.push((ticket, given));
            }
        }
        allowed
    }

    fn source(&self, ticket: Ticket) -> Option<Given> {
        let asker = self.tickets.get(&ticket)?;
        let may_give = |node: &NodeId| *node != asker.node && !asker.refused.contains(node);
        if self.holders.contains_key(&asker.node) && !asker.refused.contains(&asker.node) {
            return Some(Given::Here);
        }
        let holders = || self.holders.iter().filter(|(node, _)| may_give(node));
        let free = holders().filter(|(node, _)| self.gives(**node) < GIVEN);
        // Each ticket begins with another of those that are alike.
        let best = free.min_by_key(|(node, unlikely)| {
            (**unlikely, self.gives(**node), mix(node.0 ^ mix(ticket)))
        });
        if let Some((node, _)) = best {
            return Some(Given::From(*node));
        }
        // One that gets it will give it.
        let comes = |other: &Asker| {
            let gets = matches!(other.given, Some(Given::From(_) | Given::Registry));
            gets && (may_give(&other.node) || other.node == asker.node)
        };
        // Only one asks the registry, whoever it is.
        let asked = |other: &Asker| other.given == Some(Given::Registry);
        let wait = holders().next().is_some()
            || self
                .tickets
                .values()
                .any(|other| comes(other) || asked(other));
        (!wait).then_some(Given::Registry)
    }

    fn gives(&self, node: NodeId) -> usize {
        let given = self.tickets.values().filter_map(|asker| asker.given);
        given.filter(|g| *g == Given::From(node)).count()
    }
}

/// The nodes in the order in which they are asked to keep the account of a part: the same on all of them (rendezvous
/// hashing), and another one first for each part.
pub(crate) fn keepers(digest: &str, nodes: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let part = hash(digest);
    let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
    nodes.sort_by_key(|node| (mix(part ^ mix(node.0)), *node));
    nodes
}

/// Where `node` begins among the parts of an image, the lowest first: each node elsewhere.
pub(crate) fn order(digest: &str, node: NodeId) -> u64 {
    mix(hash(digest).wrapping_add(mix(node.0)))
}

/// FNV-1a: the same on every host and in every version.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The last step of splitmix64: each bit of the result depends on each of `x`.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
