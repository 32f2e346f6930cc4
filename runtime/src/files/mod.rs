//! Files out of and into a container's root, as tar archives, by whoever is outside of it. The container may be hostile and
//! running: every path is resolved by the kernel with its root as the root, so that no link leads out of it.
//! Must not know of containers.

mod owners;
mod pack;
mod place;
#[cfg(test)]
mod tests;
mod unpack;

pub(crate) use owners::Owners;
pub(crate) use pack::pack;
pub(crate) use place::{Place, find};
pub(crate) use unpack::unpack;

/// A path for a message.
fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
