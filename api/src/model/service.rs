//! A service: a name, and the tasks that are to run for it.

use super::{Id, RestartPolicy, TaskSpec, Timestamp, validate_name};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A transport protocol.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A port that a service listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Port {
    /// The port on every node that leads to the service; none if it is only for other containers.
    pub published: Option<u16>,
    /// The port in the container.
    pub target: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

impl std::str::FromStr for Port {
    type Err = Error;

    /// Reads `8080:80`, `80`, `53:53/udp`. A bare port is the container's and is not published.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::Invalid(format!(
                "\"{text}\" is not a port: {why}; write [PUBLISHED:]TARGET[/tcp|udp], such as 8080:80 or 53:53/udp"
            ))
        };
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(bad(format!("the protocol \"{other}\" is unknown"))),
        };
        let number = |s: &str| match s.parse::<u16>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(bad(format!("\"{s}\" is not a number from 1 to 65535"))),
        };
        let (published, target) = match ports.split_once(':') {
            Some((published, target)) => (Some(number(published)?), number(target)?),
            None => (None, number(ports)?),
        };
        Ok(Self {
            published,
            target,
            protocol,
        })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(published) = self.published {
            write!(f, "{published}:")?;
        }
        write!(f, "{}", self.target)?;
        f.write_str(match self.protocol {
            Protocol::Tcp => "/tcp",
            Protocol::Udp => "/udp",
        })
    }
}

impl TryFrom<String> for Port {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

/// What a user asks of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ServiceSpec {
    /// Unique; a DNS label.
    pub name: String,
    /// For people and for filters.
    pub labels: BTreeMap<String, String>,
    /// How each of its tasks runs.
    pub task: TaskSpec,
    /// How many tasks.
    pub replicas: u32,
    /// Ports that it listens on.
    pub ports: Vec<Port>,
    /// What follows when a task ends.
    pub restart: RestartPolicy,
    /// Whether the service is removed when all of its tasks have ended for good (`run --rm`).
    pub auto_remove: bool,
}

impl ServiceSpec {
    /// The most tasks that one service may have.
    pub const MAX_REPLICAS: u32 = 10_000;

    /// Checks everything that can be checked without a cluster.
    ///
    /// # Errors
    /// [`Error::Invalid`], which says what is wrong and what would be right.
    pub fn validate(&self) -> Result<()> {
        validate_name("service", &self.name)?;
        if self.replicas > Self::MAX_REPLICAS {
            return Err(Error::Invalid(format!(
                "{} replicas are too many for one service: at most {}",
                self.replicas,
                Self::MAX_REPLICAS
            )));
        }
        let mut published = BTreeSet::new();
        for port in &self.ports {
            if let Some(number) = port.published
                && !published.insert((number, port.protocol))
            {
                return Err(Error::Invalid(format!(
                    "port {port} is published twice; give each published port once"
                )));
            }
        }
        self.task.validate()
    }
}

/// A service that a host or a cluster keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique id.
    pub id: Id,
    /// Desired state.
    pub spec: ServiceSpec,
    /// Grows with each change of the specification.
    pub version: u64,
    /// How many of its tasks run now. Filled in when answered.
    pub running: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its specification changed last.
    pub updated_at: Timestamp,
}

/// A change to a service. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ServiceChange {
    /// The new number of tasks.
    pub replicas: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_reads_back_as_it_was_written() {
        for text in ["8080:80/tcp", "80/tcp", "53:53/udp"] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "70000", "80/sctp", "a:80", ":80", "80:"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }
}
