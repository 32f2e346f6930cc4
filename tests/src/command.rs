//! Commands that end: run with a deadline, their output kept; and commands that go on, read line by line.

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a command said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// This output, where the exit code is 0.
    ///
    /// # Errors
    /// Any other exit code; the message has the output.
    pub fn ok(self) -> Result<Self> {
        ensure!(
            self.code == 0,
            "`{}` ended with {}: {}{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The standard output as JSON.
    ///
    /// # Errors
    /// An exit code other than 0, or output that is not JSON.
    pub fn json(self) -> Result<serde_json::Value> {
        let done = self.ok()?;
        serde_json::from_str(&done.stdout)
            .with_context(|| format!("`{}` printed no JSON: {}", done.command, done.stdout))
    }

    /// The standard error, where the command was refused as it should be: an exit code other than 0, and one line
    /// that says why.
    ///
    /// # Errors
    /// Where it was not refused, or not in one line.
    pub fn refusal(self) -> Result<String> {
        ensure!(
            self.code != 0,
            "`{}` was not refused: {}",
            self.command,
            self.stdout
        );
        let message = self.stderr.trim().to_owned();
        ensure!(
            !message.is_empty() && message.lines().count() == 1,
            "`{}` was refused, but not in one line: {message:?}",
            self.command
        );
        Ok(message)
    }
}

/// Runs `command` to its end. It is killed when `limit` has passed.
///
/// # Errors
/// When it cannot be started, or did not end in time.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let line = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let ended = wait(&mut child, limit)?;
    if ended.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    let Some(status) = ended else {
        bail!("`{line}` did not end within {limit:?}; it had said: {stdout}{stderr}");
    };
    Ok(Output {
        command: line,
        code: code(status),
        stdout,
        stderr,
    })
}

/// Waits for `child` to end, `limit` at the most; `None` where it did not.
///
/// # Errors
/// Where the kernel cannot wait.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let pid = Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("cannot open a pidfd")?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("too long a wait")?;
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left)) {
            Ok(_) => return Ok(child.try_wait()?),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => bail!("cannot wait for process {pid:?}: {e}"),
        }
    }
}

/// A command that goes on (`logs -f`, `events`), read line by line. Dropping it kills it.
#[derive(Debug)]
pub struct Spawned {
    line: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Spawned {
    /// Starts `command`; its standard output and error are read together.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let line = line(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let (sender, lines) = channel();
        let readers: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as _),
            child.stderr.take().map(|s| Box::new(s) as _),
        ];
        for reader in readers.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(reader).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            line,
            child,
            lines,
            seen: Vec::new(),
        })
    }

    /// The next line that has `text` in it.
    ///
    /// # Errors
    /// When none came within `limit` or before the end of the output.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => format!("within {limit:?}"),
                Err(RecvTimeoutError::Disconnected) => "before it ended".into(),
            };
            bail!(
                "`{}` did not say {text:?} {why}; it said: {}",
                self.line,
                self.seen.join("\n")
            );
        }
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// When it has closed it.
    pub fn send(&mut self, text: &str) -> Result<()> {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().context("its input is closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.child.stdin.take();
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for its end and returns its exit code.
    ///
    /// # Errors
    /// When it did not end within `limit`.
    pub fn end(&mut self, limit: Duration) -> Result<i32> {
        match wait(&mut self.child, limit)? {
            Some(status) => Ok(code(status)),
            None => bail!("`{}` did not end within {limit:?}", self.line),
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A command as one would type it, its program without its folder.
#[must_use]
pub fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn drain(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_output_and_the_exit_code_are_kept() {
        let out = run(
            &mut sh("echo a; echo b >&2; exit 3"),
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!(
            (out.code, out.stdout.as_str(), out.stderr.as_str()),
            (3, "a\n", "b\n")
        );
        assert_eq!(out.clone().refusal().unwrap(), "b");
        assert!(out.ok().is_err());
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let error = run(
            &mut sh("echo here; exec sleep 60"),
            Duration::from_millis(300),
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("did not end within")
        );
    }

    #[test]
    fn a_command_that_goes_on_is_read_line_by_line() {
        let mut cat = Spawned::start(&mut sh("echo first; cat; exit 7")).unwrap();
        let limit = Duration::from_secs(10);
        cat.expect("first", limit).unwrap();
        cat.send("second\n").unwrap();
        cat.expect("sec", limit).unwrap();
        cat.close_input();
        assert_eq!(cat.end(limit).unwrap(), 7);
        assert!(cat.expect("third", limit).is_err());
    }

    #[test]
    fn a_command_line_is_shown_as_one_would_type_it() {
        assert_eq!(line(&sh("echo a")), "sh -c 'echo a'");
    }
}
