//! `run`: makes a service and, in the foreground, joins its only task.

use crate::cli::RunArgs;
use crate::console::{self, Console, End, Stdin};
use crate::context::{Context, out};
use crate::failure::{self, AGENT, Failure};
use crate::terminal;
use anyhow::{Result, bail};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use swarm_api::backend::{AttachOptions, Create};
use swarm_api::grpc::Client;
use swarm_api::model::{Kind, Object, Read, ServiceSpec, Task, TaskState};
use swarm_api::{Backend, Error};

/// How often it is looked why a task does not run yet.
const LOOK: Duration = Duration::from_secs(1);

/// Carries it out; returns the exit code.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<i32> {
    let detach = args.detach;
    let spec = args.into_spec(RandomState::new().hash_one(0));
    spec.validate()?;
    if !detach && spec.replicas != 1 {
        bail!(
            "only one task can be run in the foreground, not {}: add -d, and follow all of them with `swarmctl logs -f {}`",
            spec.replicas,
            spec.name
        );
    }
    let client = context.client().await?;
    if detach {
        let made = client.create(Create::Service(spec.clone())).await?;
        context.print(&made, |_| spec.name.clone())?;
        return Ok(0);
    }
    foreground(&client, spec).await
}

async fn foreground(client: &Client, spec: ServiceSpec) -> Result<i32> {
    client.create(Create::Service(spec.clone())).await?;
    let name = format!("{}.1", spec.name);
    let stdin = if spec.task.stdin {
        Stdin::Passed
    } else {
        Stdin::Ignored
    };
    let (mut console, input) = Console::open(spec.task.tty, stdin)?;
    let options = AttachOptions {
        replay: true,
        size: spec.task.tty.then(terminal::size).flatten(),
    };
    let attaching = client.attach(name.clone(), options, input);
    tokio::pin!(attaching);
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
    let mut said = String::new();
    let attached = loop {
        tokio::select! {
            attached = &mut attaching => break attached,
            end = console.interrupted() => return give_up(client, &spec, &end).await,
            _ = look.tick() => tell_why(client, &name, &mut said).await,
        }
    };
    let end = match attached {
        Ok(mut output) => console.follow(&mut output).await,
        Err(why) => Err(why.into()),
    };
    // The terminal is the user's again before anything is said.
    drop(console);
    match end {
        Ok(End::Detached) => {
            out(&spec.name)?;
            Ok(0)
        }
        Ok(End::Silent) => last_word(client, &spec, &name, None).await,
        Ok(end) => console::code(&end, &name),
        Err(why) => last_word(client, &spec, &name, Some(why)).await,
    }
}

/// The user does not want to wait for it to run.
async fn give_up(client: &Client, spec: &ServiceSpec, end: &End) -> Result<i32> {
    if spec.auto_remove {
        client
            .remove(Kind::Service, spec.name.clone(), true)
            .await?;
    } else {
        failure::say(&format!(
            "{} stays; remove it with `swarmctl rm -f {}`",
            spec.name, spec.name
        ));
    }
    Ok(match end {
        End::Signalled(number) => 128 + number,
        _ => 0,
    })
}

/// Says why the task does not run yet, where that is new.
async fn tell_why(client: &Client, name: &str, said: &mut String) {
    let Ok(task) = task(client, name).await else {
        return;
    };
    let status = task.status;
    if status.state < TaskState::Running && !status.message.is_empty() && status.message != *said {
        failure::say(&format!("{name} is {}: {}", status.state, status.message));
        *said = status.message;
    }
}

/// What the task's record says where its streams did not say how it ended.
async fn last_word(
    client: &Client,
    spec: &ServiceSpec,
    name: &str,
    why: Option<anyhow::Error>,
) -> Result<i32> {
    let task = task(client, name).await;
    if let Ok(task) = &task
        && let Some(exit) = task.status.exit
    {
        console::explain(&exit);
        return Ok(exit.code);
    }
    let reason = match (&task, &why) {
        (Ok(task), _) if task.status.state.is_final() && !task.status.message.is_empty() => {
            format!("{name} was {}: {}", task.status.state, task.status.message)
        }
        (_, Some(why)) => format!("{why:#}"),
        (Ok(task), None) => format!(
            "the streams of {name} broke off; it is {}",
            task.status.state
        ),
        (Err(error), None) => format!("the streams of {name} broke off: {error}"),
    };
    if spec.auto_remove && task.is_ok_and(|t| t.status.state.is_final()) {
        // The cluster does that itself, but later.
        let _ = client.remove(Kind::Service, spec.name.clone(), true).await;
    }
    let code = failure::start_code(&reason).max(AGENT);
    Err(Failure {
        code,
        message: reason,
    }
    .into())
}

async fn task(client: &Client, name: &str) -> swarm_api::Result<Task> {
    match client
        .get(Kind::Task, name.into(), Read::Stale)
        .await?
        .value
    {
        Object::Task(task) => Ok(task),
        other => Err(Error::Internal(format!(
            "asked for the task {name}, the agent answered with {other:?}"
        ))),
    }
}
