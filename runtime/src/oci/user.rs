//! Users and groups by name, as an image's /etc/passwd and /etc/group have them (passwd(5), group(5)).

use crate::{Error, Result};

/// An image's users and groups.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory; `/` where it is not known.
    pub home: String,
}

impl Accounts {
    /// Of the files' contents; nothing where there is no file.
    #[must_use]
    pub fn new(passwd: Option<Vec<u8>>, group: Option<Vec<u8>>) -> Self {
        let text = |bytes: Option<Vec<u8>>| {
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        Self {
            passwd: text(passwd),
            group: text(group),
        }
    }

    /// Whom `user`, `uid`, `user:group` or `uid:gid` means; root if it is empty. Numbers work without an entry.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a name is not there.
    pub fn find(&self, name: &str) -> Result<User> {
        let (user, group) = match name.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
            None => (name, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = user.parse::<u32>().ok();
        let entry = self.passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid: u32 = fields.nth(1)?.parse().ok()?;
            let gid: u32 = fields.next()?.parse().ok()?;
            let home = fields.nth(1)?;
            (name == user || number == Some(uid)).then_some((name, uid, gid, home))
        });
        let mut found = match (entry, number) {
            (Some((name, uid, gid, home)), _) => User {
                uid,
                gid,
                groups: if group.is_none() {
                    self.groups_of(name)
                } else {
                    Vec::new()
                },
                home: if home.is_empty() {
                    "/".into()
                } else {
                    home.into()
                },
            },
            (None, Some(uid)) => User {
                uid,
                gid: 0,
                groups: Vec::new(),
                home: if uid == 0 { "/root".into() } else { "/".into() },
            },
            (None, None) => {
                return Err(Error::Invalid(format!(
                    "the image's /etc/passwd has no user \"{user}\"; give one that it has, or a number"
                )));
            }
        };
        if let Some(group) = group {
            found.gid = self.group(group)?;
        }
        Ok(found)
    }

    fn group(&self, group: &str) -> Result<u32> {
        if let Ok(gid) = group.parse() {
            return Ok(gid);
        }
        self.group_lines()
            .find_map(|(name, gid, _)| (name == group).then_some(gid))
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "the image's /etc/group has no group \"{group}\"; give one that it has, or a number"
                ))
            })
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        self.group_lines()
            .filter(|(_, _, members)| members.split(',').any(|m| m == user))
            .map(|(_, gid, _)| gid)
            .collect()
    }

    fn group_lines(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }
}
