//! One container's keeper: a small process that owns its streams and exit status. Must not know of the agent that started it.
pub mod launch;

use std::{path::Path, process::ExitCode};

/// `swarmd shim --dir DIR`: keeps one container until it has ended. Call it before any thread is started.
pub fn shim_main(_dir: &Path) -> ExitCode {
    ExitCode::FAILURE
}
