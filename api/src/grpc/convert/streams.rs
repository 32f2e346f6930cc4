//! What flows: input, output, logs, statistics.

use super::{enumeration, narrow, present, time};
use crate::backend::{
    AttachOptions, ExecSpec, FileKind, FileStat, Input, LogOptions, LogRecord, LogStream, Output,
    Pressure, Pressures, Stats, WindowSize,
};
use crate::model::{Id, Timestamp};
use crate::{Error, Result};
use swarm_proto::v1;
use swarm_proto::v1::{process_input, process_output};

enumeration!(log_stream: LogStream = v1::LogStream, Some(LogStream::Stdout), { Stdout, Stderr });

impl From<WindowSize> for v1::WindowSize {
    fn from(size: WindowSize) -> Self {
        Self {
            rows: size.rows.into(),
            columns: size.columns.into(),
        }
    }
}

impl TryFrom<v1::WindowSize> for WindowSize {
    type Error = Error;

    fn try_from(size: v1::WindowSize) -> Result<Self> {
        Ok(Self {
            rows: narrow("rows", size.rows)?,
            columns: narrow("columns", size.columns)?,
        })
    }
}

impl From<Input> for v1::ProcessInput {
    fn from(input: Input) -> Self {
        Self {
            input: Some(match input {
                Input::Stdin(bytes) => process_input::Input::Stdin(bytes),
                Input::CloseStdin => process_input::Input::CloseStdin(v1::Empty {}),
                Input::Resize(size) => process_input::Input::Resize(size.into()),
                Input::Signal(number) => process_input::Input::Signal(number),
            }),
        }
    }
}

impl TryFrom<v1::ProcessInput> for Input {
    type Error = Error;

    fn try_from(input: v1::ProcessInput) -> Result<Self> {
        Ok(match present("input", input.input)? {
            process_input::Input::Stdin(bytes) => Self::Stdin(bytes),
            process_input::Input::CloseStdin(_) => Self::CloseStdin,
            process_input::Input::Resize(size) => Self::Resize(size.try_into()?),
            process_input::Input::Signal(number) => Self::Signal(number),
        })
    }
}

impl From<Output> for v1::ProcessOutput {
    fn from(output: Output) -> Self {
        Self {
            output: Some(match output {
                Output::Stdout(bytes) => process_output::Output::Stdout(bytes),
                Output::Stderr(bytes) => process_output::Output::Stderr(bytes),
                Output::Exit(status) => process_output::Output::Exit(status.into()),
            }),
        }
    }
}

impl TryFrom<v1::ProcessOutput> for Output {
    type Error = Error;

    fn try_from(output: v1::ProcessOutput) -> Result<Self> {
        Ok(match present("output", output.output)? {
            process_output::Output::Stdout(bytes) => Self::Stdout(bytes),
            process_output::Output::Stderr(bytes) => Self::Stderr(bytes),
            process_output::Output::Exit(status) => Self::Exit(status.into()),
        })
    }
}

/// Asks to attach.
pub(crate) fn attach_start(task: String, options: AttachOptions) -> v1::AttachStart {
    v1::AttachStart {
        task,
        replay: options.replay,
        size: options.size.map(Into::into),
    }
}

impl TryFrom<&v1::AttachStart> for AttachOptions {
    type Error = Error;

    fn try_from(start: &v1::AttachStart) -> Result<Self> {
        Ok(Self {
            replay: start.replay,
            size: start.size.map(TryInto::try_into).transpose()?,
        })
    }
}

/// Asks for a further process.
pub(crate) fn exec_start(task: String, spec: ExecSpec) -> v1::ExecStart {
    v1::ExecStart {
        task,
        args: spec.args,
        env: spec.env,
        user: spec.user,
        working_dir: spec.working_dir,
        tty: spec.tty,
        stdin: spec.stdin,
        size: spec.size.map(Into::into),
    }
}

/// The task, and the further process asked for.
pub(crate) fn exec_spec(start: v1::ExecStart) -> Result<(String, ExecSpec)> {
    let spec = ExecSpec {
        args: start.args,
        env: start.env,
        user: start.user,
        working_dir: start.working_dir,
        tty: start.tty,
        stdin: start.stdin,
        size: start.size.map(TryInto::try_into).transpose()?,
    };
    Ok((start.task, spec))
}

/// Asks for a log.
pub(crate) fn logs_request(name: String, options: LogOptions) -> v1::LogsRequest {
    v1::LogsRequest {
        name,
        follow: options.follow,
        tail: options.tail,
        since_unix_ms: options.since.map(|t| t.0),
    }
}

impl From<&v1::LogsRequest> for LogOptions {
    fn from(request: &v1::LogsRequest) -> Self {
        Self {
            follow: request.follow,
            tail: request.tail,
            since: time(request.since_unix_ms),
        }
    }
}

impl From<LogRecord> for v1::LogRecord {
    fn from(r: LogRecord) -> Self {
        Self {
            task: r.task,
            time_unix_ms: r.time.0,
            stream: v1::LogStream::from(r.stream).into(),
            data: r.data,
        }
    }
}

impl TryFrom<v1::LogRecord> for LogRecord {
    type Error = Error;

    fn try_from(r: v1::LogRecord) -> Result<Self> {
        Ok(Self {
            task: r.task,
            time: Timestamp(r.time_unix_ms),
            stream: log_stream(r.stream)?,
            data: r.data,
        })
    }
}

enumeration!(file_kind: FileKind = v1::FileKind, Some(FileKind::Other), { File, Directory, Symlink, Other });

impl From<FileStat> for v1::FileStat {
    fn from(f: FileStat) -> Self {
        Self {
            name: f.name,
            kind: v1::FileKind::from(f.kind).into(),
            size_bytes: f.size,
            mode: f.mode,
            modified_at_unix_ms: f.modified_at.0,
            target: f.target,
        }
    }
}

impl TryFrom<v1::FileStat> for FileStat {
    type Error = Error;

    fn try_from(f: v1::FileStat) -> Result<Self> {
        Ok(Self {
            name: f.name,
            kind: file_kind(f.kind)?,
            size: f.size_bytes,
            mode: f.mode,
            modified_at: Timestamp(f.modified_at_unix_ms),
            target: f.target,
        })
    }
}

impl From<Pressures> for v1::Pressures {
    fn from(p: Pressures) -> Self {
        let of = |p: Pressure| {
            let (some, full) = (p.some, p.full);
            Some(v1::Pressure { some, full })
        };
        Self {
            cpu: of(p.cpu),
            memory: of(p.memory),
            io: of(p.io),
        }
    }
}

impl From<v1::Pressures> for Pressures {
    fn from(p: v1::Pressures) -> Self {
        let of = |p: Option<v1::Pressure>| {
            p.map(|v1::Pressure { some, full }| Pressure { some, full })
                .unwrap_or_default()
        };
        Self {
            cpu: of(p.cpu),
            memory: of(p.memory),
            io: of(p.io),
        }
    }
}

impl From<Stats> for v1::Stats {
    fn from(s: Stats) -> Self {
        Self {
            task: s.task,
            task_id: s.task_id.to_string(),
            node_name: s.node_name,
            time_unix_ms: s.time.0,
            cpu_ns: s.cpu_ns,
            memory_bytes: s.memory,
            memory_limit_bytes: s.memory_limit,
            pids: s.pids,
            rx_bytes: s.rx_bytes,
            tx_bytes: s.tx_bytes,
            oom_kills: s.oom_kills,
            pressure: s.pressure.map(Into::into),
        }
    }
}

impl From<v1::Stats> for Stats {
    fn from(s: v1::Stats) -> Self {
        Self {
            task: s.task,
            task_id: Id::from_text(s.task_id),
            node_name: s.node_name,
            time: Timestamp(s.time_unix_ms),
            cpu_ns: s.cpu_ns,
            memory: s.memory_bytes,
            memory_limit: s.memory_limit_bytes,
            pids: s.pids,
            rx_bytes: s.rx_bytes,
            tx_bytes: s.tx_bytes,
            oom_kills: s.oom_kills,
            pressure: s.pressure.map(Into::into),
        }
    }
}
