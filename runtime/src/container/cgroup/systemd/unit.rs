//! A container's unit: what engines call it in `cgroupsPath`, its name, and where systemd puts its cgroup (systemd.slice(5)). Pure.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The longest name of a unit (`UNIT_NAME_MAX` of systemd, with its closing zero).
const LONGEST: usize = 255;

/// Which systemd makes the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// The host's.
    System,
    /// That of the user.
    User,
}

impl Manager {
    /// The slice of units that ask for none.
    fn slice(self) -> &'static str {
        match self {
            Self::System => "system.slice",
            Self::User => "user.slice",
        }
    }
}

/// A unit of systemd whose cgroup is a container's: a scope, or a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    name: String,
    /// Of a scope: the slice that it is in.
    slice: Option<String>,
    manager: Manager,
}

impl Unit {
    /// The unit that a spec's `cgroupsPath` names: `SLICE:PREFIX:NAME`, for the scope `PREFIX-NAME.scope` or, where the name is one of a
    /// slice, that itself. Nothing: a scope named after the container. Without a slice it is in `system.slice`, a user's in `user.slice`.
    pub fn parse(path: &Path, id: &str, manager: Manager) -> Result<Self> {
        let text = path.to_str().unwrap_or_default();
        let parts: Vec<&str> = if path.as_os_str().is_empty() {
            vec!["", "swarm", id]
        } else {
            text.split(':').collect()
        };
        let &[slice, prefix, name] = parts.as_slice() else {
            return Err(Error::Invalid(format!(
                "cgroupsPath `{}` must be SLICE:PREFIX:NAME for the systemd driver, as in `system.slice:docker:{id}`; paths are for \
                 the cgroupfs driver",
                path.display()
            )));
        };
        let slice = if slice.is_empty() {
            manager.slice()
        } else {
            slice
        };
        expand(slice)?;
        let unit = if name.ends_with(".slice") {
            expand(name)?;
            Self {
                name: name.to_owned(),
                slice: None,
                manager,
            }
        } else {
            let separator = if prefix.is_empty() { "" } else { "-" };
            Self {
                name: format!("{prefix}{separator}{name}.scope"),
                slice: Some(slice.to_owned()),
                manager,
            }
        };
        check(&unit.name)?;
        if name.is_empty() {
            return Err(Error::Invalid(format!(
                "cgroupsPath `{text}` has no name behind its last colon"
            )));
        }
        Ok(unit)
    }

    /// A scope for a process of the runtime's own, in the default slice.
    pub(super) fn own(pid: u32, manager: Manager) -> Self {
        Self {
            name: format!("swarm-oci-{pid}.scope"),
            slice: Some(manager.slice().to_owned()),
            manager,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn slice(&self) -> Option<&str> {
        self.slice.as_deref()
    }

    pub(super) fn manager(&self) -> Manager {
        self.manager
    }

    /// Its cgroup, relative to that of its manager.
    pub(super) fn path(&self) -> Result<PathBuf> {
        match &self.slice {
            Some(slice) => Ok(expand(slice)?.join(&self.name)),
            None => expand(&self.name),
        }
    }
}

/// A slice's cgroup: `a-b.slice` is in `a.slice`. That of the root slice, `-.slice`, is its manager's own.
fn expand(slice: &str) -> Result<PathBuf> {
    let bad = || {
        Error::Invalid(format!(
            "`{slice}` is no slice of systemd: say one like `system.slice` or `machine-containers.slice`"
        ))
    };
    check(slice)?;
    let stem = slice.strip_suffix(".slice").ok_or_else(bad)?;
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(bad());
        }
        name.push_str(part);
        path.push(format!("{name}.slice"));
        name.push('-');
    }
    Ok(path)
}

/// What may be in a unit's name (systemd.unit(5)).
fn check(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(fits) {
        return Err(Error::Invalid(format!(
            "`{name}` cannot be the name of a unit of systemd: at most {LONGEST} letters, digits and : - _ . \\ @"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(cgroups_path: &str, manager: Manager) -> Result<String> {
        let unit = Unit::parse(Path::new(cgroups_path), "id", manager)?;
        Ok(unit.path()?.display().to_string())
    }

    #[test]
    fn a_unit_is_where_systemd_puts_it() {
        let cases = [
            ("system.slice:docker:id", "system.slice/docker-id.scope"),
            (
                "machine-a-b.slice:libpod:1",
                "machine.slice/machine-a.slice/machine-a-b.slice/libpod-1.scope",
            ),
            (":libpod:id", "system.slice/libpod-id.scope"),
            ("", "system.slice/swarm-id.scope"),
            ("a.slice::id", "a.slice/id.scope"),
            ("-.slice:cri:id", "cri-id.scope"),
            (
                "kubepods.slice:cri:kubepods-pod1.slice",
                "kubepods.slice/kubepods-pod1.slice",
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(path(given, Manager::System).unwrap(), expected, "{given}");
        }
        assert_eq!(
            path(":libpod:id", Manager::User).unwrap(),
            "user.slice/libpod-id.scope"
        );
    }

    #[test]
    fn what_names_no_unit_is_refused_with_a_hint() {
        for bad in [
            "/swarm/id",
            "a:b:c:d",
            "system:docker:id",
            "a--b.slice:x:y",
            "-a.slice:x:y",
            "../x.slice:a:b",
            "system.slice:docker:a/b",
            "system.slice:docker:",
        ] {
            assert!(
                matches!(path(bad, Manager::System), Err(Error::Invalid(_))),
                "{bad}"
            );
        }
        let said = path("/swarm/id", Manager::System).unwrap_err().to_string();
        assert!(said.contains("SLICE:PREFIX:NAME"), "{said}");
        let long = format!("system.slice:docker:{}", "x".repeat(300));
        assert!(path(&long, Manager::System).is_err());
    }
}
