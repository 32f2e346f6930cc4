//! An object with a name, as users of the API see it: it is made under a name that must be free, changed, read and
//! removed, and what is made again under the same name is another object.
//!
//! Services are such objects (their value is the number of replicas), networks (without a value) and the labels of nodes
//! (which are always there).

use super::Model;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// To make it, with this value.
    Create(u64),
    /// To give it this value.
    Update(u64),
    /// To remove it. It may take a while until it is gone.
    Remove,
    /// That it is gone now: not asked for by anyone, but what follows from a removal.
    Gone,
    /// To read it.
    Read,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// So it is now.
    Is(Seen),
    /// Done; nothing more is said.
    Done,
    /// There is no object of that name.
    Absent,
    /// There is one already.
    InUse,
    /// There is one, but it is being removed.
    Leaving,
}

/// What an answer says of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// 1 when it is made, and one more with each change; where it has one.
    pub version: Option<u64>,
    /// Its value.
    pub value: u64,
}

/// The object of one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// There is none.
    Absent,
    /// There is one.
    Present {
        /// Its id, as soon as an answer has told it.
        id: Option<String>,
        /// Its version.
        version: u64,
        /// Its value.
        value: u64,
        /// Whether it is being removed.
        leaving: bool,
    },
}

/// How such an object behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Whether it is gone as soon as its removal is acknowledged, or may still be seen for a while.
    pub goes_at_once: bool,
    /// Before the first operation.
    pub at_first: State,
}

impl Object {
    /// One that is not there at first, and takes a while to go.
    #[must_use]
    pub fn slow_to_go() -> Self {
        Self {
            goes_at_once: false,
            at_first: State::Absent,
        }
    }

    /// One that is not there at first, and goes at once.
    #[must_use]
    pub fn quick_to_go() -> Self {
        Self {
            goes_at_once: true,
            at_first: State::Absent,
        }
    }

    /// One that is always there.
    #[must_use]
    pub fn lasting(value: u64) -> Self {
        Self {
            goes_at_once: true,
            at_first: State::Present {
                id: None,
                version: 1,
                value,
                leaving: false,
            },
        }
    }

    fn create(state: &State, value: u64, output: Option<&Output>) -> Option<State> {
        let made = |id: Option<String>| State::Present {
            id,
            version: 1,
            value,
            leaving: false,
        };
        match (state, output) {
            (State::Absent, None) => Some(made(None)),
            (State::Absent, Some(Output::Is(seen))) => {
                let fits = seen.value == value && seen.version.is_none_or(|v| v == 1);
                fits.then(|| made(Some(seen.id.clone())))
            }
            (State::Present { .. }, Some(Output::InUse)) => Some(state.clone()),
            _ => None,
        }
    }

    fn update(state: &State, value: u64, output: Option<&Output>) -> Option<State> {
        match (state, output) {
            (State::Absent, Some(Output::Absent))
            | (State::Present { leaving: true, .. }, Some(Output::Leaving)) => Some(state.clone()),
            (
                State::Present {
                    id,
                    version,
                    value: before,
                    leaving: false,
                },
                output,
            ) => {
                let after = State::Present {
                    id: id.clone(),
                    version: version + u64::from(*before != value),
                    value,
                    leaving: false,
                };
                match output {
                    None => Some(after),
                    Some(Output::Is(seen)) => after.seen_as(seen),
                    Some(_) => None,
                }
            }
            _ => None,
        }
    }

    fn remove(&self, state: &State, output: Option<&Output>) -> Option<State> {
        match (state, output) {
            (State::Absent, Some(Output::Absent)) => Some(State::Absent),
            (State::Present { .. }, None | Some(Output::Done)) if self.goes_at_once => {
                Some(State::Absent)
            }
            (
                State::Present {
                    id, version, value, ..
                },
                None | Some(Output::Done),
            ) => Some(State::Present {
                id: id.clone(),
                version: *version,
                value: *value,
                leaving: true,
            }),
            _ => None,
        }
    }

    fn read(state: &State, output: Option<&Output>) -> Option<State> {
        match (state, output) {
            (_, None) => Some(state.clone()),
            (State::Absent, Some(Output::Absent)) => Some(State::Absent),
            (State::Present { .. }, Some(Output::Is(seen))) => state.clone().seen_as(seen),
            _ => None,
        }
    }
}

impl State {
    /// This state, if `seen` is what it looks like; with the id that was seen.
    fn seen_as(self, seen: &Seen) -> Option<Self> {
        let Self::Present {
            id,
            version,
            value,
            leaving,
        } = self
        else {
            return None;
        };
        let fits = id.is_none_or(|id| id == seen.id)
            && seen.version.is_none_or(|v| v == version)
            && seen.value == value;
        let id = Some(seen.id.clone());
        fits.then_some(Self::Present {
            id,
            version,
            value,
            leaving,
        })
    }
}

impl Model for Object {
    type State = State;
    type Input = Input;
    type Output = Output;

    fn init(&self) -> State {
        self.at_first.clone()
    }

    fn step(&self, state: &State, input: &Input, output: Option<&Output>) -> Option<State> {
        match input {
            Input::Create(value) => Self::create(state, *value, output),
            Input::Update(value) => Self::update(state, *value, output),
            Input::Remove => self.remove(state, output),
            Input::Gone => match state {
                State::Present { leaving: true, .. } => Some(State::Absent),
                _ => None,
            },
            Input::Read => Self::read(state, output),
        }
    }

    fn is_read(&self, input: &Input) -> bool {
        *input == Input::Read
    }

    fn describe(&self, input: &Input, output: Option<&Output>) -> String {
        let asked = match input {
            Input::Create(value) => format!("create({value})"),
            Input::Update(value) => format!("update({value})"),
            Input::Remove => "remove".into(),
            Input::Gone => "(gone)".into(),
            Input::Read => "read".into(),
        };
        let answered = match output {
            None => "?".into(),
            Some(Output::Is(Seen { id, version, value })) => {
                let version = version.map(|v| format!(" version {v}")).unwrap_or_default();
                format!("{value} ({id}{version})")
            }
            Some(Output::Done) => "done".into(),
            Some(Output::Absent) => "there is none".into(),
            Some(Output::InUse) => "the name is in use".into(),
            Some(Output::Leaving) => "it is being removed".into(),
        };
        format!("{asked} -> {answered}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limit, Operation, check, check::Found};
    use super::*;

    type Op = Operation<Input, Output>;

    fn op(called: u64, returned: u64, input: Input, output: Output) -> Op {
        Operation {
            client: 0,
            input,
            called,
            returned: Some((returned, output)),
        }
    }

    fn open(called: u64, input: Input) -> Op {
        Operation {
            client: 0,
            input,
            called,
            returned: None,
        }
    }

    fn is(id: &str, version: u64, value: u64) -> Output {
        Output::Is(Seen {
            id: id.into(),
            version: Some(version),
            value,
        })
    }

    fn linearizable(operations: &[Op]) -> bool {
        matches!(
            check(&Object::slow_to_go(), operations, Limit::default()),
            Found::Order { .. }
        )
    }

    #[test]
    fn a_life_of_an_object_is_explained() {
        let mut life = vec![
            op(0, 1, Input::Read, Output::Absent),
            op(2, 3, Input::Create(2), is("a", 1, 2)),
            op(4, 5, Input::Create(1), Output::InUse),
            op(6, 7, Input::Update(2), is("a", 1, 2)),
            op(8, 9, Input::Update(5), is("a", 2, 5)),
            op(10, 20, Input::Remove, Output::Done),
            open(10, Input::Gone),
            op(11, 12, Input::Update(6), Output::Leaving),
            op(13, 14, Input::Read, is("a", 2, 5)),
            op(21, 22, Input::Create(1), is("b", 1, 1)),
        ];
        assert!(linearizable(&life));
        // The same object cannot come back.
        life.push(op(23, 24, Input::Read, is("a", 2, 5)));
        assert!(!linearizable(&life));
    }

    #[test]
    fn a_change_that_was_made_twice_is_found() {
        let once = [
            op(0, 1, Input::Create(1), is("a", 1, 1)),
            open(2, Input::Update(2)),
            op(3, 4, Input::Update(3), is("a", 3, 3)),
            op(5, 6, Input::Read, is("a", 3, 3)),
        ];
        assert!(linearizable(&once));
        let twice = [&once[..], &[op(7, 8, Input::Read, is("a", 4, 2))]].concat();
        assert!(!linearizable(&twice));
    }

    #[test]
    fn a_name_that_is_said_to_be_free_though_it_was_taken_before_is_found() {
        let made = op(0, 1, Input::Create(1), is("a", 1, 1));
        for answer in [
            op(2, 3, Input::Read, Output::Absent),
            op(2, 3, Input::Update(2), Output::Absent),
            op(2, 3, Input::Remove, Output::Absent),
            op(2, 3, Input::Create(1), is("b", 1, 1)),
        ] {
            assert!(!linearizable(&[made.clone(), answer.clone()]), "{answer:?}");
        }
    }

    #[test]
    fn what_is_being_removed_may_be_seen_but_not_changed() {
        let removed = [
            op(0, 1, Input::Create(1), is("a", 1, 1)),
            op(2, 3, Input::Remove, Output::Done),
            open(2, Input::Gone),
        ];
        let then = |last: Op| linearizable(&[&removed[..], &[last]].concat());
        assert!(then(op(4, 5, Input::Read, is("a", 1, 1))));
        assert!(then(op(4, 5, Input::Read, Output::Absent)));
        assert!(then(op(4, 5, Input::Update(3), Output::Leaving)));
        assert!(!then(op(4, 5, Input::Update(3), is("a", 2, 3))));
        let quick = check(
            &Object::quick_to_go(),
            &[&removed[..], &[op(4, 5, Input::Read, is("a", 1, 1))]].concat(),
            Limit::default(),
        );
        assert!(matches!(quick, Found::None { .. }));
    }

    #[test]
    fn a_creation_of_which_nothing_was_heard_gets_its_id_from_who_sees_it_first() {
        let history = [
            open(0, Input::Create(4)),
            op(1, 2, Input::Read, Output::Absent),
            op(3, 4, Input::Read, is("a", 1, 4)),
            op(5, 6, Input::Read, is("a", 1, 4)),
        ];
        assert!(linearizable(&history));
        let two = [&history[..], &[op(7, 8, Input::Read, is("b", 1, 4))]].concat();
        assert!(!linearizable(&two));
    }

    #[test]
    fn a_label_that_lasts_is_a_register() {
        let seen = |value| {
            Output::Is(Seen {
                id: "n".into(),
                version: None,
                value,
            })
        };
        let model = Object::lasting(0);
        let holds = |last: Op| {
            let history = [
                op(0, 1, Input::Read, seen(0)),
                op(2, 9, Input::Update(1), seen(1)),
                last,
            ];
            matches!(
                check(&model, &history, Limit::default()),
                Found::Order { .. }
            )
        };
        assert!(holds(op(3, 4, Input::Read, seen(0))));
        assert!(holds(op(3, 4, Input::Read, seen(1))));
        assert!(!holds(op(10, 11, Input::Read, seen(0))));
    }
}
