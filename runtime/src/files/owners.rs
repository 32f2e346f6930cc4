//! Whose files are whose: users and groups inside of a user namespace, and the host's that stand for them. Pure.

use crate::{Error, Result};
use oci_spec::runtime::{LinuxIdMapping, Spec};

/// The mappings of one container; none where its users are the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    users: Vec<Range>,
    groups: Vec<Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    size: u32,
}

impl Owners {
    /// As a container's spec has them.
    pub(crate) fn of(spec: &Spec) -> Self {
        let ranges = |mappings: Option<&Vec<LinuxIdMapping>>| {
            let range = |m: &LinuxIdMapping| Range {
                inside: m.container_id(),
                outside: m.host_id(),
                size: m.size(),
            };
            mappings.into_iter().flatten().map(range).collect()
        };
        let linux = spec.linux().as_ref();
        Self {
            users: ranges(linux.and_then(|l| l.uid_mappings().as_ref())),
            groups: ranges(linux.and_then(|l| l.gid_mappings().as_ref())),
        }
    }

    /// The container's user and group for the host's. What it has none for stays: layers that were not mapped have the
    /// container's own.
    pub(crate) fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        (inside(&self.users, uid), inside(&self.groups, gid))
    }

    /// The host's user and group for the container's.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that the container does not have.
    pub(crate) fn outside(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        Ok((
            outside(&self.users, uid, "user")?,
            outside(&self.groups, gid, "group")?,
        ))
    }
}

fn inside(ranges: &[Range], id: u32) -> u32 {
    let found = ranges
        .iter()
        .find_map(|r| Some((r, id.checked_sub(r.outside).filter(|n| *n < r.size)?)));
    found.map_or(id, |(range, offset)| range.inside.saturating_add(offset))
}

fn outside(ranges: &[Range], id: u32, what: &str) -> Result<u32> {
    if ranges.is_empty() {
        return Ok(id);
    }
    let found = ranges
        .iter()
        .find_map(|r| Some((r, id.checked_sub(r.inside).filter(|n| *n < r.size)?)));
    match found {
        Some((range, offset)) => Ok(range.outside.saturating_add(offset)),
        None => Err(Error::Invalid(format!(
            "the {what} {id} cannot own a file in the container: its user namespace does not have that {what}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_there_and_back_and_others_are_refused() {
        let range = Range {
            inside: 0,
            outside: 100_000,
            size: 1000,
        };
        let owners = Owners {
            users: vec![range],
            groups: vec![range],
        };
        assert_eq!(owners.outside(5, 999).unwrap(), (100_005, 100_999));
        assert_eq!(owners.inside(100_005, 100_999), (5, 999));
        assert_eq!(owners.inside(7, 101_000), (7, 101_000));
        assert!(
            owners
                .outside(1000, 0)
                .unwrap_err()
                .to_string()
                .contains("user 1000")
        );
        assert_eq!(Owners::default().outside(70_000, 1).unwrap(), (70_000, 1));
    }
}
