//! Which ids an ordinary user has (subuid(5), subgid(5)), and how those of a user namespace are told from those outside. Pure.

use crate::{Error, Result};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

/// A row of ids: `count` of them, from `inside` on in the namespace, from `outside` on out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) inside: u32,
    pub(super) outside: u32,
    pub(super) count: u32,
}

/// The rows of a file like `/proc/PID/uid_map`.
pub(super) fn rows(text: &str) -> Vec<Row> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::parse);
            Some(Row {
                inside: words.next()?.ok()?,
                outside: words.next()?.ok()?,
                count: words.next()?.ok()?,
            })
        })
        .collect()
}

/// The rows of a user's namespace: itself as root, and then the subordinate ids that a file like `/etc/subuid` gives it, by
/// name or by number.
pub(super) fn of_user(own: u32, uid: u32, name: Option<&str>, subordinate: &str) -> Vec<Row> {
    let mut rows = vec![Row {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let number = uid.to_string();
    let mut next = 1u32;
    for line in subordinate.lines() {
        let mut fields = line.trim().split(':');
        let Some(owner) = fields.next() else { continue };
        if owner != number && Some(owner) != name {
            continue;
        }
        let mut numbers = fields.map(str::parse::<u32>);
        let (Some(Ok(outside)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
            continue;
        };
        let taken = outside.checked_add(count);
        let (Some(end), Some(_)) = (next.checked_add(count), taken) else {
            continue;
        };
        if count > 0 {
            rows.push(Row {
                inside: next,
                outside,
                count,
            });
            next = end;
        }
    }
    rows
}

/// The name that a file like `/etc/passwd` has for a user.
pub(super) fn name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// A spec's mappings, whose `hostID`s are the ids outside, as they are within the namespace with these rows.
pub(super) fn inside(
    mappings: &[LinuxIdMapping],
    rows: &[Row],
    file: &str,
) -> Result<Vec<LinuxIdMapping>> {
    let mut found = Vec::new();
    for mapping in mappings {
        let mut container = mapping.container_id();
        let mut host = mapping.host_id();
        let mut left = mapping.size();
        while left > 0 {
            let row = rows
                .iter()
                .find(|row| host >= row.outside && host - row.outside < row.count)
                .ok_or_else(|| {
                    Error::Invalid(format!(
                        "the spec maps to id {host} of the host, which is neither this user's own nor one that {file} gives it"
                    ))
                })?;
            let skip = host - row.outside;
            let count = left.min(row.count - skip);
            let one = LinuxIdMappingBuilder::default()
                .container_id(container)
                .host_id(row.inside + skip)
                .size(count)
                .build();
            found.push(one.map_err(|e| Error::Internal(format!("a mapping is malformed: {e}")))?);
            container = container.saturating_add(count);
            host = host.saturating_add(count);
            left -= count;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_root_and_has_its_subordinate_ids_after_that() {
        let file = "other:1:2\nme:100000:65536\n1000:300000:10\nme:x:1\nme:4294967295:5\n";
        let rows = of_user(1000, 1000, Some("me"), file);
        let row = |inside, outside, count| Row {
            inside,
            outside,
            count,
        };
        assert_eq!(
            rows,
            [
                row(0, 1000, 1),
                row(1, 100_000, 65_536),
                row(65_537, 300_000, 10)
            ]
        );
        assert_eq!(of_user(7, 7, None, file), [row(0, 7, 1)]);
        assert_eq!(
            name("root:x:0:0\nme:x:1000:1000::/h:/s\n", 1000),
            Some("me")
        );
        assert_eq!(name("root:x:0:0\n", 1000), None);
    }

    #[test]
    fn a_specs_mappings_are_cut_where_the_users_rows_are() {
        let rows = rows("         0       1000          1\n         1     100000      65536\n");
        let map = |c: u32, h: u32, n: u32| -> LinuxIdMapping {
            serde_json::from_value(serde_json::json!({"containerID": c, "hostID": h, "size": n}))
                .unwrap()
        };
        let told = inside(&[map(0, 1000, 1), map(1, 100_000, 65_536)], &rows, "f").unwrap();
        assert_eq!(told, [map(0, 0, 1), map(1, 1, 65_536)]);
        let error = inside(&[map(0, 1000, 2)], &rows, "/etc/subuid").unwrap_err();
        assert!(error.to_string().contains("/etc/subuid"), "{error}");
    }
}
