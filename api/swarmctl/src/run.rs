//! `run`: makes a service and, in the foreground, joins its only task.

use crate::cli::{Pull, RunArgs};
use crate::console::{self, Console, End, Stdin};
use crate::context::{Context, out};
use crate::failure::{self, AGENT, Failure};
use crate::pull;
use crate::terminal;
use anyhow::{Result, bail};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use swarm_api::backend::{AttachOptions, Create, PullOptions, PullPolicy};
use swarm_api::grpc::Client;
use swarm_api::model::{ImageReference, Kind, Object, Read, ServiceSpec, Task, TaskState};
use swarm_api::{Backend, Error};

/// How often it is looked why a task does not run yet.
const LOOK: Duration = Duration::from_secs(1);

/// Carries it out; returns the exit code.
pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<i32> {
    let (detach, pull) = (args.detach, args.pull);
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
    let (spec, made) = create(&client, spec, pull).await?;
    if detach {
        context.print(&made, |_| spec.name.clone())?;
        return Ok(0);
    }
    foreground(&client, spec).await
}

fn options(policy: PullPolicy) -> PullOptions {
    PullOptions {
        policy,
        ..PullOptions::default()
    }
}

/// Makes the service. Its image is pulled first where `pull` and its name say so, and then named by its digest, so that
/// all tasks, also later ones, run the same bytes.
async fn create(client: &Client, spec: ServiceSpec, pull: Pull) -> Result<(ServiceSpec, Object)> {
    let reference: ImageReference = spec.task.image.parse()?;
    let policy = match pull {
        Pull::Always => Some(PullPolicy::Always),
        Pull::Missing if reference.registry().is_some() => Some(PullPolicy::Missing),
        Pull::Missing | Pull::Never => None,
    };
    let (missing, policy) = match policy {
        Some(policy) => (None, policy),
        // What the agent knows by a short name costs no question.
        None => match client.create(Create::Service(spec.clone())).await {
            Ok(made) => return Ok((spec, made)),
            Err(why @ Error::NotFound(_)) if pull == Pull::Missing => {
                (Some(why), PullPolicy::Missing)
            }
            Err(why) => return Err(why.into()),
        },
    };
    let pulled = pull::pull(client, &spec.task.image, options(policy)).await;
    let image = match (pulled, missing) {
        (Ok(image), _) => image,
        // An agent that knows no registries: what it said first counts.
        (Err(why), Some(first)) if matches!(why.downcast_ref(), Some(Error::Unsupported(_))) => {
            return Err(first.into());
        }
        (Err(why), _) => return Err(why),
    };
    let mut spec = spec;
    if let Some(manifest) = &image.manifest {
        let pinned = reference.pinned(manifest)?.to_string();
        if pinned != image.reference.to_string() {
            pull::pull(client, &pinned, options(PullPolicy::Missing)).await?;
        }
        spec.task.image = pinned;
    }
    let made = client.create(Create::Service(spec.clone())).await?;
    Ok((spec, made))
}

async fn foreground(client: &Client, spec: ServiceSpec) -> Result<i32> {
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
