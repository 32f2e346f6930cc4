//! Soft states: one small opaque payload per node, newest version wins.
//!
//! They travel as foca's custom broadcasts (fast, while they are news), and are pulled by digest from a random member
//! now and then (so that who came late or lost a packet gets them too). Knows nothing of what the payload means.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::config::MAX_SOFT_STATE;
use super::identity::NodeIdentity;

/// What orders two soft states of one node.
pub(crate) type Version = (u64, u64);

/// One node's soft state on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) node: u64,
    pub(crate) generation: u64,
    pub(crate) seq: u64,
    /// The node said good-bye in this generation.
    pub(crate) leaving: bool,
    pub(crate) payload: Bytes,
}

impl Item {
    pub(crate) fn version(&self) -> Version {
        (self.generation, self.seq)
    }
}

/// The newest item of every node, this one included.
#[derive(Debug)]
pub(crate) struct Store {
    own: u64,
    items: BTreeMap<u64, Item>,
    changed: Vec<u64>,
}

impl Store {
    pub(crate) fn new(own: u64) -> Self {
        Self {
            own,
            items: BTreeMap::new(),
            changed: Vec::new(),
        }
    }

    /// Takes an item from another node if it is news.
    pub(crate) fn offer(&mut self, item: Item) -> bool {
        // Nobody but this node says what this node's state is.
        if item.node == self.own || item.node == 0 || item.payload.len() > MAX_SOFT_STATE {
            return false;
        }
        if self.version(item.node) >= item.version() {
            return false;
        }
        self.changed.push(item.node);
        self.items.insert(item.node, item);
        true
    }

    /// Sets this node's own item.
    pub(crate) fn set_own(&mut self, item: Item) {
        self.items.insert(self.own, item);
    }

    pub(crate) fn get(&self, node: u64) -> Option<&Item> {
        self.items.get(&node)
    }

    /// The version held for `node`; (0, 0) for none.
    pub(crate) fn version(&self, node: u64) -> Version {
        self.items.get(&node).map_or((0, 0), Item::version)
    }

    /// The items of the nodes from `first` to `last`.
    pub(crate) fn range(&self, first: u64, last: u64) -> impl Iterator<Item = &Item> {
        let first = first.min(last);
        self.items.range(first..=last).map(|(_, item)| item)
    }

    /// The nodes whose items changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.changed)
    }

    /// Drops the items of nodes that are not members any more.
    pub(crate) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let own = self.own;
        self.items.retain(|&node, _| node == own || keep(node));
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}

/// The store, shared between the core and the broadcast handler that foca owns.
#[derive(Debug, Clone)]
pub(crate) struct SharedStore(Arc<Mutex<Store>>);

impl SharedStore {
    pub(crate) fn new(own: u64) -> Self {
        Self(Arc::new(Mutex::new(Store::new(own))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which pending broadcast replaces which.
pub(crate) struct Key {
    node: u64,
    version: Version,
}

impl foca::Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && self.version >= other.version
    }
}

impl foca::BroadcastHandler<NodeIdentity> for SharedStore {
    type Key = Key;
    type Error = postcard::Error;

    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&NodeIdentity>,
    ) -> Result<Option<Key>, postcard::Error> {
        let item: Item = postcard::from_bytes(data)?;
        let key = Key {
            node: item.node,
            version: item.version(),
        };
        // Without a sender it is this node's own, already in the store.
        let news = sender.is_none() || self.lock().offer(item);
        Ok(news.then_some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_item() -> impl Strategy<Value = Item> {
        (1u64..5, 0u64..3, 0u64..5, any::<bool>()).prop_map(|(node, generation, seq, leaving)| {
            Item {
                node,
                generation,
                seq,
                leaving,
                payload: Bytes::from(vec![seq as u8]),
            }
        })
    }

    proptest! {
        #[test]
        fn the_newest_version_wins_in_any_order(mut items in prop::collection::vec(any_item(), 0..60), seed in any::<u64>()) {
            let versions = |items: &[Item]| {
                let mut store = Store::new(1);
                for item in items {
                    store.offer(item.clone());
                }
                (1..5).map(|node| store.version(node)).collect::<Vec<_>>()
            };
            let first = versions(&items);
            let turn = if items.is_empty() { 0 } else { seed as usize % items.len() };
            items.rotate_left(turn);
            items.reverse();
            prop_assert_eq!(&versions(&items), &first);
            prop_assert_eq!(first[0], (0, 0), "others spoke for this node");
        }
    }
}
