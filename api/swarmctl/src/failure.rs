//! How a command that failed is told: one line on standard error, and an exit code.

use std::io::ErrorKind;

/// The agent itself could not run the container or process, as Docker has it.
pub(crate) const AGENT: i32 = 125;
/// The program is there and cannot be executed.
pub(crate) const NOT_EXECUTABLE: i32 = 126;
/// There is no such program.
pub(crate) const NO_PROGRAM: i32 = 127;

/// A failure with an exit code of its own.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Says what went wrong and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> i32 {
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && io.kind() == ErrorKind::BrokenPipe
    {
        // Whoever read our output has enough of it; 128 + SIGPIPE.
        return 141;
    }
    say(&format!("{error:#}"));
    error.downcast_ref::<Failure>().map_or(1, |f| f.code)
}

/// Says something on standard error, in one line.
pub(crate) fn say(message: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "swarmctl: {}", one_line(message));
}

fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("; ")
}

/// The exit code where a process could not be started; `message` is what the agent says.
pub(crate) fn start_code(message: &str) -> i32 {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| message.contains(w));
    if says(&["permission denied", "not executable", "exec format"]) {
        NOT_EXECUTABLE
    } else if says(&[
        "no such file",
        "not found in",
        "executable file not found",
        "no such program",
    ]) {
        NO_PROGRAM
    } else {
        AGENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(one_line("a:\n  b\n\nc\n"), "a:; b; c");
    }

    #[test]
    fn a_start_that_failed_has_the_code_that_a_shell_gives() {
        assert_eq!(
            start_code("cannot execute x: No such file or directory (os error 2)"),
            127
        );
        assert_eq!(start_code("cannot execute /etc: Permission denied"), 126);
        assert_eq!(start_code("no task is called ghost.1"), 125);
    }
}
