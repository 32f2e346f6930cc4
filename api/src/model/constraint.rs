//! Placement constraints: `node.name==host2`, `node.labels.disk!=hdd`.

use super::{Node, NodeRole};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a constraint compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// `==`
    Equals,
    /// `!=`
    Differs,
}

/// One condition that a node must meet for a task to be placed on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Constraint {
    key: String,
    operator: Operator,
    value: String,
}

const KEYS: &str = "node.id, node.name, node.role, node.arch, node.os or node.labels.NAME";

impl Constraint {
    /// Whether `node` meets it. A label that the node does not have equals nothing.
    #[must_use]
    pub fn accepts(&self, node: &Node) -> bool {
        let equal = match self.key.as_str() {
            "node.id" => node.id.to_string() == self.value,
            "node.name" => node.name == self.value,
            "node.role" => match node.role {
                NodeRole::Manager => self.value == "manager",
                NodeRole::Worker => self.value == "worker",
            },
            "node.arch" => node.arch == self.value,
            "node.os" => node.os == self.value,
            key => key
                .strip_prefix("node.labels.")
                .and_then(|label| node.labels.get(label))
                .is_some_and(|value| *value == self.value),
        };
        equal == (self.operator == Operator::Equals)
    }
}

impl std::str::FromStr for Constraint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::Invalid(format!(
                "\"{text}\" is not a constraint: {why}; write KEY==VALUE or KEY!=VALUE with {KEYS}"
            ))
        };
        let (key, operator, value) = if let Some((k, v)) = text.split_once("!=") {
            (k, Operator::Differs, v)
        } else if let Some((k, v)) = text.split_once("==") {
            (k, Operator::Equals, v)
        } else {
            return Err(bad("it has neither == nor !="));
        };
        let (key, value) = (key.trim(), value.trim());
        let known = matches!(
            key,
            "node.id" | "node.name" | "node.role" | "node.arch" | "node.os"
        ) || key
            .strip_prefix("node.labels.")
            .is_some_and(|l| !l.is_empty());
        if !known {
            return Err(bad(&format!("the key \"{key}\" is unknown")));
        }
        if value.is_empty() {
            return Err(bad("its value is empty"));
        }
        Ok(Self {
            key: key.into(),
            operator,
            value: value.into(),
        })
    }
}

impl std::fmt::Display for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operator = match self.operator {
            Operator::Equals => "==",
            Operator::Differs => "!=",
        };
        write!(f, "{}{operator}{}", self.key, self.value)
    }
}

impl TryFrom<String> for Constraint {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Constraint> for String {
    fn from(constraint: Constraint) -> Self {
        constraint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constraint_reads_back_as_it_was_written() {
        for text in [
            "node.name==host2",
            "node.labels.disk!=hdd",
            "node.role==manager",
        ] {
            assert_eq!(text.parse::<Constraint>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "node.name",
            "node.name=a",
            "zone==a",
            "node.labels.==x",
            "node.id==",
        ] {
            assert!(bad.parse::<Constraint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_label_equals_nothing_and_differs_from_everything() {
        let node = Node::default();
        assert!(
            !"node.labels.disk==ssd"
                .parse::<Constraint>()
                .unwrap()
                .accepts(&node)
        );
        assert!(
            "node.labels.disk!=ssd"
                .parse::<Constraint>()
                .unwrap()
                .accepts(&node)
        );
    }
}
