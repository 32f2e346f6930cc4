//! The user's terminal: its size, and raw mode, from which it is set back whatever happens.

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use swarm_api::backend::WindowSize;

/// Whether standard input is a terminal.
pub(crate) fn has_input() -> bool {
    isatty(rustix::stdio::stdin())
}

/// Whether standard output is a terminal.
pub(crate) fn has_output() -> bool {
    isatty(rustix::stdio::stdout())
}

/// Whether standard error is a terminal.
pub(crate) fn has_error() -> bool {
    isatty(rustix::stdio::stderr())
}

/// The size of the terminal, where there is one.
pub(crate) fn size() -> Option<WindowSize> {
    let size = tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Raw mode of the terminal on standard input, until it is dropped.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Every key goes to the program, and nothing is echoed here.
    pub(crate) fn enter() -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).context("cannot set the terminal's mode")?;
        // A panic that aborts drops nothing.
        let (mode, next) = (before.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &mode);
            next(info);
        }));
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}
