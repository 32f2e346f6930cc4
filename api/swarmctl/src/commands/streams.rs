//! Commands that go on: exec, attach, logs, stats, events.

use crate::cli::{ExecArgs, environment};
use crate::console::{self, Console, Stdin};
use crate::context::{Context, json_line, out};
use crate::failure::{self, Failure};
use crate::{render, terminal};
use anyhow::Result;
use futures_util::StreamExt;
use std::io::Write;
use swarm_api::Backend;
use swarm_api::backend::{AttachOptions, ExecSpec, LogOptions, LogRecord, LogStream};
use swarm_api::grpc::Client;
use swarm_api::model::{Kind, Object, Read};

pub(crate) async fn exec(context: &Context, args: ExecArgs) -> Result<i32> {
    let client = context.client().await?;
    let spec = ExecSpec {
        args: args.command,
        env: environment(args.env),
        user: args.user,
        working_dir: args.workdir,
        tty: args.tty,
        stdin: args.interactive,
        size: args.tty.then(terminal::size).flatten(),
    };
    let stdin = if args.interactive {
        Stdin::Passed
    } else {
        Stdin::Ignored
    };
    let (mut console, input) = Console::open(args.tty, stdin)?;
    let started = tokio::select! {
        started = client.exec(args.task.clone(), spec, input) => started,
        end = console.interrupted() => return console::code(&end, &args.task),
    };
    let end = match started {
        Ok(mut output) => console.follow(&mut output).await,
        Err(why) => Err(why.into()),
    };
    drop(console);
    match end {
        Ok(end) => console::code(&end, "the process"),
        Err(why) if why.downcast_ref::<swarm_api::Error>().is_some() => {
            let message = format!("{why:#}");
            Err(Failure {
                code: failure::start_code(&message),
                message,
            }
            .into())
        }
        Err(why) => Err(why),
    }
}

pub(crate) async fn attach(
    context: &Context,
    name: String,
    replay: bool,
    no_stdin: bool,
) -> Result<i32> {
    let client = context.client().await?;
    let (tty, open) = match client
        .get(Kind::Task, name.clone(), Read::Stale)
        .await?
        .value
    {
        Object::Task(task) => (task.spec.tty, task.spec.stdin),
        _ => (false, true),
    };
    let stdin = if open && !no_stdin {
        Stdin::PassedOpen
    } else {
        Stdin::Ignored
    };
    let (mut console, input) = Console::open(tty, stdin)?;
    let options = AttachOptions {
        replay,
        size: tty.then(terminal::size).flatten(),
    };
    let attached = tokio::select! {
        attached = client.attach(name.clone(), options, input) => attached,
        end = console.interrupted() => return console::code(&end, &name),
    };
    let end = console.follow(&mut attached?).await;
    drop(console);
    console::code(&end?, &name)
}

pub(crate) async fn logs(
    context: &Context,
    name: String,
    options: LogOptions,
    timestamps: bool,
) -> Result<()> {
    let client = context.client().await?;
    let style = LineStyle {
        timestamps,
        names: has_many_tasks(&client, &name).await,
    };
    let mut records = client.logs(name, options).await?;
    while let Some(record) = records.next().await {
        let record = record?;
        if context.json() {
            json_line(&serde_json::json!({
                "task": record.task,
                "time": record.time,
                "stream": record.stream,
                "line": String::from_utf8_lossy(&record.data),
            }))?;
            continue;
        }
        let line = style.line(&record);
        match record.stream {
            LogStream::Stdout => write(std::io::stdout().lock(), &line)?,
            LogStream::Stderr => write(std::io::stderr().lock(), &line)?,
        }
    }
    Ok(())
}

fn write(mut stream: impl Write, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    Ok(stream.flush()?)
}

/// Whether it is a service whose lines need their tasks' names.
async fn has_many_tasks(client: &Client, name: &str) -> bool {
    match client.get(Kind::Service, name.into(), Read::Stale).await {
        Ok(answer) => matches!(answer.value, Object::Service(s) if s.spec.replicas > 1),
        Err(_) => false,
    }
}

struct LineStyle {
    timestamps: bool,
    names: bool,
}

impl LineStyle {
    fn line(&self, record: &LogRecord) -> Vec<u8> {
        let mut line = Vec::with_capacity(record.data.len() + 64);
        if self.timestamps {
            line.extend_from_slice(render::time(record.time).as_bytes());
            line.push(b' ');
        }
        if self.names {
            line.extend_from_slice(record.task.as_bytes());
            line.extend_from_slice(b" | ");
        }
        line.extend_from_slice(&record.data);
        // Something stands in front of the next line, so this one must end.
        if (self.timestamps || self.names) && !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        line
    }
}

pub(crate) async fn stats(context: &Context, tasks: Vec<String>, follow: bool) -> Result<()> {
    let mut rounds = context.client().await?.stats(tasks, follow).await?;
    let redraw = follow && terminal::has_output();
    let mut before = Vec::new();
    while let Some(round) = rounds.next().await {
        let round = round?;
        if context.json() {
            json_line(&round)?;
        } else {
            // From the top left, and away with what was there.
            let clear = if redraw { "\x1b[H\x1b[2J" } else { "" };
            out(&format!("{clear}{}", render::stats(&before, &round)))?;
        }
        before = round;
        if !follow {
            break;
        }
    }
    Ok(())
}

pub(crate) async fn events(context: &Context, since: Option<u64>) -> Result<()> {
    let mut events = context.client().await?.watch(since).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if context.json() {
            json_line(&event)?;
        } else {
            out(&render::event(&event))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::model::Timestamp;

    #[test]
    fn a_line_is_as_it_was_unless_something_is_put_before_it() {
        let record = LogRecord {
            task: "web.2".into(),
            time: Timestamp(0),
            stream: LogStream::Stdout,
            data: "no end".into(),
        };
        let line = |timestamps, names| {
            String::from_utf8(LineStyle { timestamps, names }.line(&record)).unwrap()
        };
        assert_eq!(line(false, false), "no end");
        assert_eq!(line(false, true), "web.2 | no end\n");
        assert_eq!(line(true, false), "1970-01-01T00:00:00.000Z no end\n");
    }
}
