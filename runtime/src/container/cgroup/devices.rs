//! Device rules (OCI config-linux, "Allowed Device list"): what the spec says, with what every container may use. Pure.
//!
//! Everything is denied, then come the spec's rules in their order, then what every container may use. For each kind of access
//! the last rule about a device decides.

use crate::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// Kinds of access, as the kernel numbers them for a filter program.
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// Block or character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Character,
}

/// One rule. What is none stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Option<Kind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// At least one of the kinds of access.
    pub(super) access: u8,
}

impl Rule {
    const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Self {
        Self {
            allow: true,
            kind: Some(kind),
            major,
            minor,
            access,
        }
    }

    /// Whether it is about every device and every kind of access.
    pub(super) fn is_about_all(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

const NOTHING: Rule = Rule {
    allow: false,
    kind: None,
    major: None,
    minor: None,
    access: ALL,
};

/// What every container may use: the devices of OCI config-linux, "Default Devices", terminals, and the making of nodes,
/// which is no use of them.
const USUAL: [Rule; 11] = [
    Rule::allow(Kind::Character, None, None, MKNOD),
    Rule::allow(Kind::Block, None, None, MKNOD),
    Rule::allow(Kind::Character, Some(1), Some(3), ALL),
    Rule::allow(Kind::Character, Some(1), Some(5), ALL),
    Rule::allow(Kind::Character, Some(1), Some(7), ALL),
    Rule::allow(Kind::Character, Some(1), Some(8), ALL),
    Rule::allow(Kind::Character, Some(1), Some(9), ALL),
    Rule::allow(Kind::Character, Some(5), Some(0), ALL),
    Rule::allow(Kind::Character, Some(5), Some(1), ALL),
    Rule::allow(Kind::Character, Some(5), Some(2), ALL),
    Rule::allow(Kind::Character, Some(136), None, ALL),
];

/// All rules in their order. The first is that nothing is allowed.
pub(super) fn rules(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = vec![NOTHING];
    for rule in spec {
        let rule = one(rule)?;
        // What came before says nothing any more.
        if rule.is_about_all() {
            rules.clear();
        }
        if rules.is_empty() && rule.allow {
            rules.push(NOTHING);
        }
        rules.push(rule);
    }
    // Where the last word was that everything is allowed there is nothing to add.
    if !rules.last().is_some_and(|r| r.allow && r.is_about_all()) {
        rules.extend(USUAL);
    }
    Ok(rules)
}

fn one(rule: &LinuxDeviceCgroup) -> Result<Rule> {
    let text = rule.access().as_deref().unwrap_or("rwm");
    let mut access = 0;
    for letter in text.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => 0,
        };
    }
    if access == 0 || !text.chars().all(|c| "rwm".contains(c)) {
        return Err(Error::Invalid(format!(
            "a device rule's access is of the letters r, w and m, not `{text}`"
        )));
    }
    let number = |n: Option<i64>| match n {
        Some(n) if n >= 0 => u32::try_from(n).map(Some).map_err(|_| {
            Error::Invalid(format!(
                "a device rule has the number {n}, which no device has"
            ))
        }),
        _ => Ok(None),
    };
    Ok(Rule {
        allow: rule.allow(),
        kind: match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(Kind::Block),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Character),
            LinuxDeviceType::P => {
                return Err(Error::Invalid(
                    "a device rule cannot be about a fifo".to_owned(),
                ));
            }
        },
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access,
    })
}
