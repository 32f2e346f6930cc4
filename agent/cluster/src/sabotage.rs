//! Deliberate bugs that show that the simulation's checkers see them. Compiled with `--cfg sabotage` only, which no build but
//! that of `make sim` has; off unless a history asks for one.

use std::cell::Cell;

/// A deliberate bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A replica leaves out a report now and then.
    Divergence,
    /// The first address of a network is given to all.
    OneAddress,
    /// A slot gets a second task.
    TwoTasks,
}

thread_local! {
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    static COUNT: Cell<u32> = const { Cell::new(0) };
}

/// Turns a bug on for this thread, or all off.
pub fn set(bug: Option<Bug>) {
    BUG.set(bug);
}

/// Whether it is on.
pub(crate) fn is(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}

/// True now and then, if the bug is on.
pub(crate) fn now_and_then(bug: Bug) -> bool {
    COUNT.set(COUNT.get().wrapping_add(1));
    is(bug) && COUNT.get() % 41 == 0
}
