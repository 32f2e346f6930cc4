//! A mount's options (OCI config-linux, "Linux mount options"), sorted by who must hear them. Pure.

use crate::container::sys::MountAttr;
use crate::{Error, Result};

pub(super) const RDONLY: u64 = 0x1;
pub(super) const NOSUID: u64 = 0x2;
pub(super) const NODEV: u64 = 0x4;
pub(super) const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x0020_0000;
/// `MOUNT_ATTR_IDMAP`: owners are mapped by a user namespace.
pub(super) const IDMAP: u64 = 0x0010_0000;

pub(super) const PRIVATE: u64 = 1 << 18;
pub(super) const SLAVE: u64 = 1 << 19;
pub(super) const SHARED: u64 = 1 << 20;
const UNBINDABLE: u64 = 1 << 17;

/// What a list of options asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A bind mount, of everything below as well or not.
    pub(super) bind: Option<Recursive>,
    /// What is mounted there is changed.
    pub(super) remount: bool,
    /// Owners are mapped, of everything below as well or not.
    pub(super) idmap: Option<Recursive>,
    /// Attributes of the mount itself.
    pub(super) attr: MountAttr,
    /// Attributes of everything below as well.
    pub(super) below: MountAttr,
    /// Propagation, in order.
    pub(super) propagation: Vec<(u64, Recursive)>,
    /// For the file system: keys, with values where they have some.
    pub(super) data: Vec<(String, Option<String>)>,
}

/// Whether something holds for the mounts below as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recursive(pub(super) bool);

/// Sorts the options of one mount.
pub(super) fn parse(options: &[String]) -> Result<Options> {
    let mut parsed = Options::default();
    for option in options {
        parse_one(option, &mut parsed)?;
    }
    Ok(parsed)
}

/// `private`, `rslave` …
pub(super) fn propagation(name: &str) -> Option<(u64, Recursive)> {
    let (name, recursive) = match name.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let kind = match name {
        "private" => PRIVATE,
        "slave" => SLAVE,
        "shared" => SHARED,
        "unbindable" => UNBINDABLE,
        _ => return None,
    };
    Some((kind, Recursive(recursive)))
}

/// The attribute an option sets (true) or takes away, with what else must go then.
fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "noatime" => (NOATIME, ATIME),
        "atime" | "norelatime" | "nostrictatime" | "relatime" => (0, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        _ => return None,
    })
}

fn parse_one(option: &str, parsed: &mut Options) -> Result<()> {
    if let Some((set, clear)) = attribute(option) {
        add(&mut parsed.attr, set, clear);
        return Ok(());
    }
    if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
        add(&mut parsed.below, set, clear);
        return Ok(());
    }
    if let Some(propagation) = propagation(option) {
        parsed.propagation.push(propagation);
        return Ok(());
    }
    match option {
        "bind" => parsed.bind = Some(parsed.bind.unwrap_or(Recursive(false))),
        "rbind" => parsed.bind = Some(Recursive(true)),
        "defaults" | "async" | "loud" | "silent" | "nomand" | "nolazytime" => {}
        "remount" => parsed.remount = true,
        "idmap" => parsed.idmap = Some(Recursive(false)),
        "ridmap" => parsed.idmap = Some(Recursive(true)),
        "tmpcopyup" | "iversion" | "noiversion" => {
            return Err(Error::Unsupported(format!(
                "the mount option `{option}` is not supported by this runtime"
            )));
        }
        other => {
            let (key, value) = match other.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (other, None),
            };
            if key.is_empty() {
                return Err(Error::Invalid(format!("`{other}` is not a mount option")));
            }
            parsed.data.push((key.to_owned(), value));
        }
    }
    Ok(())
}

/// The later option wins.
fn add(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.set = attr.set & !clear | set;
    attr.clear = attr.clear & !set | clear;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[&str]) -> Options {
        parse(&options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn options_go_to_the_mount_or_to_the_file_system() {
        let parsed = of(&["nosuid", "strictatime", "mode=755", "size=64k", "ro"]);
        assert_eq!(parsed.attr.set, NOSUID | STRICTATIME | RDONLY);
        assert_eq!(parsed.attr.clear, ATIME);
        let expected =
            [("mode", "755"), ("size", "64k")].map(|(k, v)| (k.to_owned(), Some(v.to_owned())));
        assert_eq!(parsed.data, expected);
    }

    #[test]
    fn the_later_of_two_contrary_options_wins() {
        assert_eq!(
            of(&["ro", "rw"]).attr,
            MountAttr {
                clear: RDONLY,
                ..MountAttr::default()
            }
        );
        assert_eq!(
            of(&["rw", "ro"]).attr,
            MountAttr {
                set: RDONLY,
                ..MountAttr::default()
            }
        );
        assert_eq!(of(&["noatime", "relatime"]).attr.set, 0);
    }

    #[test]
    fn recursive_options_are_told_from_plain_ones() {
        let parsed = of(&["rbind", "rro", "rslave", "private"]);
        assert_eq!(parsed.bind, Some(Recursive(true)));
        assert_eq!(parsed.below.set, RDONLY);
        assert_eq!(parsed.attr.set, 0);
        assert_eq!(
            parsed.propagation,
            [(SLAVE, Recursive(true)), (PRIVATE, Recursive(false))]
        );
        assert_eq!(of(&["relatime"]).attr.clear, ATIME);
    }

    #[test]
    fn what_is_not_supported_is_an_error() {
        assert!(parse(&["tmpcopyup".to_owned()]).is_err());
        assert!(parse(&["=x".to_owned()]).is_err());
    }
}
