//! A part of the state that copies of the state have in common until one of them changes it: a copy costs nothing, be it for
//! a snapshot on its way to the disk or for a replica of the same process.
//!
//! It must not know what the part is.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A value that its copies share. A change by one copy is not seen by the others: it copies the value first, if they are
/// still there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Kept<T>(Arc<T>);

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T> From<T> for Kept<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize> Serialize for Kept<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Kept<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_a_value_until_one_changes_it() {
        let mut one = Kept::from(vec![1]);
        let two = one.clone();
        assert!(std::ptr::eq(&*one, &*two));
        one.push(2);
        assert_eq!((&*one, &*two), (&vec![1, 2], &vec![1]));
        let bytes = postcard::to_stdvec(&one).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&vec![1, 2]).unwrap());
        assert_eq!(postcard::from_bytes::<Kept<Vec<i32>>>(&bytes).unwrap(), one);
    }
}
