//! What an answer of the API says of an operation: done, not done, or nobody knows. Pure.

use super::record::Outcome;
use crate::linearizability::object::{Input, Output, Seen};
use swarm_api::Error;
use swarm_api::model::{Answer, Object};

/// How an error begins that promises that nothing was done and nothing will be.
const NOT_MADE: &str = "the change was not made";

/// What a change came to.
pub(super) fn of_change(
    input: &Input,
    answer: Result<Option<Object>, Error>,
    label: &str,
) -> Outcome {
    let output = match (input, answer) {
        (_, Ok(Some(object))) => match seen(&object, label) {
            Some(seen) => Output::Is(seen),
            None => return Outcome::Odd(format!("another object: {object:?}")),
        },
        (Input::Remove, Ok(None)) => Output::Done,
        (_, Ok(None)) => return Outcome::Odd("no object".into()),
        (Input::Create(_), Err(Error::AlreadyExists(_))) => Output::InUse,
        (Input::Update(_) | Input::Remove, Err(Error::NotFound(_))) => Output::Absent,
        (Input::Update(_), Err(Error::Conflict(_))) => Output::Leaving,
        (_, Err(Error::Unavailable(why))) if why.contains(NOT_MADE) => return Outcome::NotDone,
        // An internal error and a limit say nothing of what was done before.
        (_, Err(Error::Unavailable(_) | Error::Internal(_) | Error::Exhausted(_))) => {
            return Outcome::Unknown;
        }
        (_, Err(other)) => return Outcome::Odd(format!("{other:?}")),
    };
    Outcome::Answer {
        output,
        index: None,
    }
}

/// What a read saw.
pub(super) fn of_read(answer: Result<Answer<Object>, Error>, label: &str) -> Outcome {
    match answer {
        Ok(Answer { value, freshness }) => match seen(&value, label) {
            None => Outcome::Odd(format!("another object: {value:?}")),
            Some(seen) => read(Output::Is(seen), freshness),
        },
        Err(Error::NotFound(_)) => Outcome::Answer {
            output: Output::Absent,
            index: None,
        },
        Err(Error::Unavailable(_)) => Outcome::Unknown,
        Err(other) => Outcome::Odd(format!("{other:?}")),
    }
}

/// What a list says of the object of this name.
pub(super) fn of_list(
    objects: &[Object],
    freshness: swarm_api::model::Freshness,
    name: &str,
    label: &str,
) -> Outcome {
    let found = objects.iter().find(|o| self::name(o) == name);
    let output = match found.map(|o| seen(o, label)) {
        None => Output::Absent,
        Some(Some(seen)) => Output::Is(seen),
        Some(None) => return Outcome::Odd(format!("not what was listed: {found:?}")),
    };
    read(output, freshness)
}

fn read(output: Output, freshness: swarm_api::model::Freshness) -> Outcome {
    let index = freshness.index;
    if freshness.stale {
        Outcome::Stale { output, index }
    } else {
        Outcome::Answer {
            output,
            index: Some(index),
        }
    }
}

fn name(object: &Object) -> &str {
    match object {
        Object::Service(service) => &service.spec.name,
        Object::Network(network) => &network.name,
        Object::Node(node) => &node.name,
        Object::Task(_) | Object::Image(_) => "",
    }
}

fn seen(object: &Object, label: &str) -> Option<Seen> {
    Some(match object {
        Object::Service(service) => Seen {
            id: service.id.to_string(),
            version: Some(service.version),
            value: service.spec.replicas.into(),
        },
        Object::Network(network) => Seen {
            id: network.id.to_string(),
            version: Some(1),
            value: 0,
        },
        Object::Node(node) => Seen {
            id: node.id.to_string(),
            version: None,
            value: match node.labels.get(label) {
                Some(text) => text.parse().ok()?,
                None => 0,
            },
        },
        Object::Task(_) | Object::Image(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_to_be_undone_may_have_been_done() {
        let of = |input: Input, error| of_change(&input, Err(error), "");
        let unavailable = |why: &str| Error::Unavailable(why.into());
        assert_eq!(
            of(Input::Create(1), unavailable("the connection broke off")),
            Outcome::Unknown
        );
        assert_eq!(
            of(Input::Update(1), unavailable("the change was sent, but")),
            Outcome::Unknown
        );
        assert_eq!(
            of(
                Input::Remove,
                unavailable("the change was not made: no leader")
            ),
            Outcome::NotDone
        );
        let answer = |output| Outcome::Answer {
            output,
            index: None,
        };
        assert_eq!(
            of(Input::Create(1), Error::AlreadyExists("x".into())),
            answer(Output::InUse)
        );
        assert_eq!(
            of(Input::Update(1), Error::NotFound("x".into())),
            answer(Output::Absent)
        );
        assert_eq!(
            of(Input::Update(1), Error::Conflict("x".into())),
            answer(Output::Leaving)
        );
        assert!(matches!(
            of(Input::Create(1), Error::Denied("x".into())),
            Outcome::Odd(_)
        ));
    }
}
